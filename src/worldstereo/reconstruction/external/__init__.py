"""Feed-forward reconstructors from elsewhere behind one protocol: many frames at once, brought back to our frame.

None of them is a dependency; each is imported when it is asked for. The adapters were tested with stand-ins that have
the packages' interfaces, not with the packages and their weights.
"""

from worldstereo.reconstruction.external.joint import predict_jointly as predict_jointly
from worldstereo.reconstruction.external.protocol import ExternalViews as ExternalViews
from worldstereo.reconstruction.external.protocol import SceneReconstructor as SceneReconstructor
from worldstereo.reconstruction.external.registry import create_reconstructor as create_reconstructor
from worldstereo.reconstruction.external.registry import is_external as is_external
