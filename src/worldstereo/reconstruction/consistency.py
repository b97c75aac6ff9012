"""Multi-view consistency: what the other frames say about every pixel's surface."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras

TOLERANCE = 0.01
COLOR_SIGMA = 0.12
NOBODY_SAYS = 0.5
"""The confidence of a pixel that no other frame sees."""


@dataclass(frozen=True)
class Votes:
    """What other frames say about a frame's pixels.

    Attributes:
        support: sum, over the frames that see the surface where it is said to be, of how well depth and colour agree.
        against: number of frames that see past it.
        consensus: the depth that frame and supporters agree on; 0 where the frame's is.
    """

    support: Float[Tensor, "h w"]
    against: Float[Tensor, "h w"]
    consensus: Float[Tensor, "h w"]

    @property
    def confidence(self) -> Float[Tensor, "h w"]:
        """(support + ½) / (support + against + 1), the mean of Beta(support + ½, against + ½); 0 where unknown.

        ½ where no other frame sees the surface.
        """
        share = (self.support + 0.5) / (self.support + self.against + 1)
        return torch.where(self.consensus > 0, share, 0.0)


def vote(
    depth: Float[Tensor, "h w"],
    image: Float[Tensor, "3 h w"],
    camera: Cameras,
    depths: Float[Tensor, "n h w"],
    images: Float[Tensor, "n 3 h w"],
    cameras: Cameras | None,
    *,
    tolerance: float = TOLERANCE,
    color_sigma: float = COLOR_SIGMA,
) -> Votes:
    """Votes of other frames on a frame's depth.

    Each pixel's point is projected into the others. A frame whose surface there is nearer hides the point and says
    nothing; one whose surface (all four pixels around) is farther than 3 tolerances sees past it and speaks against;
    one within 3 tolerances supports it with the weight exp(−½ (e / tolerance)² − ½ (c / color_sigma)²) of the
    relative depth error e and the mean colour difference c. The consensus is the geometric mean of the frame's depth
    (weight 1) and of what the supporters say, by their weights. Compiled loops on the CPU. O(n · pixels).

    Args:
        camera: the frame's own, one.
        cameras: of the others; None if there are none.
    """
    from worldstereo.reconstruction import consistency_kernels as kernels

    support, against, gain = (np.zeros(tuple(depth.shape), np.float32) for _ in range(3))
    if cameras is not None and len(cameras):
        there_from_here = cameras.cam_from_world.double() @ camera.world_from_cam.double()
        kernels.count_votes(
            depth.numpy(),
            _last(image),
            camera.pixel_rays()[0].contiguous().numpy(),
            depths.numpy(),
            _last(images),
            there_from_here[:, :3].float().contiguous().numpy(),
            cameras.intrinsics.numpy(),
            np.float32(tolerance),
            np.float32(color_sigma),
            support,
            against,
            gain,
        )
    said = torch.from_numpy(gain) / (1 + torch.from_numpy(support))
    return Votes(torch.from_numpy(support), torch.from_numpy(against), depth * said.exp())


def surface_normals(depth: Float[Tensor, "h w"], camera: Cameras) -> Float[Tensor, "h w 3"]:
    """Unit normals in world axes, towards the camera, from the depth's differences to the flatter sides; else 0."""
    from worldstereo.reconstruction import consistency_kernels as kernels

    normals = np.zeros((*depth.shape, 3), np.float32)
    kernels.pixel_normals(depth.numpy(), camera.pixel_rays()[0].contiguous().numpy(), normals)
    return torch.from_numpy(normals) @ camera.cam_from_world[0, :3, :3]


def _last(image: Float[Tensor, "*n 3 h w"]) -> np.ndarray:
    """Channels last, contiguous."""
    return image.movedim(-3, -1).contiguous().numpy()
