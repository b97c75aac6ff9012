"""The generator with a small network at the user's size: sharp where the memory knows, the network in the holes."""

from collections.abc import Callable
from math import log

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.rendering import PointRender
from worldstereo.images import working_size
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.clip_inputs import shrink_conditions
from worldstereo.pipelines.compositing import complete_clip
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.network import NetworkGenerator


class SharpGenerator:
    """Makes clips of the picture's own shape with a network that works at a smaller size.

    Frames are framed as the baseline's are: nothing of a photo is cropped to meet the network. It is shown all
    conditions shrunk to its size, stretched where the shapes differ; its cameras are stretched alike, so its rays and
    pointmaps say the truth.
    """

    is_baseline = False

    def __init__(self, network: NetworkGenerator, short_side: int) -> None:
        """
        Args:
            network: at its own size.
            short_side: of the clips in pixels where the user does not choose.
        """
        self._network = network
        self._short_side = short_side
        self.name, self.options, self.licence = network.name, network.options, network.licence

    @property
    def frames(self) -> int:
        """Per clip."""
        return self._network.frames

    @property
    def uses_reference_depth(self) -> bool:
        """If its network does."""
        return self._network.uses_reference_depth

    def clip_size(self, width: int, height: int, short_side: int | None) -> tuple[int, int]:
        """The picture's shape, as the baseline has it."""
        return working_size(width, height, short_side or self._short_side)

    def network_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the network's size that clips of that size are stretched least for."""

        def stretch(size: tuple[int, int]) -> float:
            return round(abs(log(width / height * size[0] / size[1])), 6)

        rows, columns = min(self._network.clip_format.sizes, key=stretch)
        return columns, rows

    def render_guidance(self, memory: GlobalGeometricMemory, cameras: Cameras) -> PointRender:
        """As the network was shown it, at the size of the output."""
        return self._network.render_guidance(memory, cameras)

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Frames along the path; the first one is the given image.

        Known pixels of the others are the guidance's, then those that references show; the rest has the network's
        content and the image's texture.
        """
        cameras = conditions.cameras
        small = shrink_conditions(conditions, *self.network_size(cameras.width, cameras.height))
        content = self._network.generate(small, on_progress)
        known = conditions.remembered() if self.uses_reference_depth else conditions.guidance
        return complete_clip(known, small.guidance, content, conditions.image, cameras, conditions.seed)
