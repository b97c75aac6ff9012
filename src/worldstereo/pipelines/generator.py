"""What every video generator takes and gives: the seam between the memories and the models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.references import References


@dataclass(frozen=True)
class ClipConditions:
    """Everything a generator needs for one clip.

    Attributes:
        cameras: the clip's cameras; the first one sees `image`.
        image: the first frame, RGB in [0, 1].
        guidance: the global cloud (and the sky) rendered along the path at the generator's `point_radius`.
        references: frames of earlier clips, none for the first clip of a memory without frames.
        seed: depends on (the run's seed, the clip's number) alone.
    """

    cameras: Cameras
    image: Float[Tensor, "3 h w"]
    guidance: PointRender
    references: References | None
    seed: int


class VideoGenerator(Protocol):
    """Makes the frames of a clip.

    Attributes:
        name: what `--model` takes and what reports show.
        point_radius: the radius of the guidance render's points in NDC (the shorter image side is 2 wide).
        is_baseline: whether no network is involved; reports say so.
    """

    name: str
    point_radius: float
    is_baseline: bool

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Frames along `conditions.cameras`, RGB in [0, 1]; `on_progress(done, total)` is called after each step."""
        ...
