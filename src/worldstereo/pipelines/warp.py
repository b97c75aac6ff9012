"""The baseline generator: no network, only what the memory already knows."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.rendering import PointRender
from worldstereo.images import working_size
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.generator import ClipConditions

_SHORT_SIDE = 480


class WarpGenerator:
    """Shows the cloud along the path and fills holes by pull–push.

    Known regions are the sharp render of the global-geometric memory, so earlier clips are respected as far as
    the memory holds them.
    """

    name = "warp"
    is_baseline = True
    uses_reference_depth = False
    frames = None
    licence = ""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def clip_size(self, width: int, height: int, short_side: int | None) -> tuple[int, int]:
        """The picture's shape, 480 pixels on the shorter side unless another number is asked for."""
        return working_size(width, height, short_side or _SHORT_SIDE)

    def render_guidance(self, memory: GlobalGeometricMemory, cameras: Cameras) -> PointRender:
        """The sharp, crack-free render of the memory."""
        return memory.render_sharp(cameras)

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Frames along the path; the first one is the given image."""
        frames = conditions.filled_render()
        on_progress(len(frames), len(frames))
        return frames
