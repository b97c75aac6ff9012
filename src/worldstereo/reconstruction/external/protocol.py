"""What every reconstructor from elsewhere takes and gives."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras


@dataclass(frozen=True)
class ExternalViews:
    """What a reconstructor says about some frames, in its own frame and unit.

    Attributes:
        depth: z-depth of the whole frames at any size; 0 or not finite = unknown.
        cam_from_world: its poses, OpenCV axes.
    """

    depth: Float[Tensor, "n h w"]
    cam_from_world: Float[Tensor, "n 4 4"]


@runtime_checkable
class SceneReconstructor(Protocol):
    """A network that looks at many frames at once.

    Attributes:
        name: what `--depth` takes and what reports show.
        licence: of its weights.
        most_frames: that it is given at once.
    """

    name: str
    licence: str
    most_frames: int

    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """Depth and poses of the frames; the exact cameras are given to networks that take them."""
        ...
