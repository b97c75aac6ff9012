"""What every video generator takes and gives: the seam between the memories and the models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.rendering import PointRender


@dataclass(frozen=True)
class References:
    """Frames of the spatial-stereo memory chosen for one clip.

    Attributes:
        frames: the distinct reference frames, RGB in [0, 1].
        cameras: their cameras.
        for_target: per frame of the clip the index of its reference, -1 where none is useful.
        coverage: per frame of the clip how much of what it sees its reference sees, in [0, 1].
        target_pointmaps: world coordinates of the cloud seen by each frame of the clip, normalised to [0, 1]³
            over the scene; 0.5 where nothing is known.
        reference_pointmaps: the same for the reference frames.
    """

    frames: Float[Tensor, "r 3 h w"]
    cameras: Cameras
    for_target: Int[Tensor, " f"]
    coverage: Float[Tensor, " f"]
    target_pointmaps: Float[Tensor, "f 3 h w"]
    reference_pointmaps: Float[Tensor, "r 3 h w"]


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
