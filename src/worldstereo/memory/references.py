"""What the spatial-stereo memory gives to a generator."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry import PointCloud
from worldstereo.memory.pointmaps import SceneBox, render_pointmaps


@dataclass(frozen=True)
class References:
    """Frames of the spatial-stereo memory chosen for one clip.

    Attributes:
        frames: the distinct reference frames, RGB in [0, 1].
        cameras: their cameras.
        names: theirs in the bank.
        for_target: per frame of the clip the index of its reference, -1 where none is useful.
        coverage: per frame of the clip how much of what it sees its reference sees, in [0, 1].
        cloud: what the coverage was measured with.
    """

    frames: Float[Tensor, "r 3 h w"]
    cameras: Cameras
    names: tuple[str, ...]
    for_target: Int[Tensor, " f"]
    coverage: Float[Tensor, " f"]
    cloud: PointCloud

    def pointmaps(self, targets: Cameras) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "r 3 h w"]]:
        """Where the cloud lies that each target and each reference sees, in one normalisation (`render_pointmaps`).

        Rendered when asked for: a generator without a stereo branch has no use for them.
        """
        box = SceneBox.of(self.cloud)
        return render_pointmaps(self.cloud, targets, box), render_pointmaps(self.cloud, self.cameras, box)
