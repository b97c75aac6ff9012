"""What the spatial-stereo memory gives to a generator."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras import Cameras


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
