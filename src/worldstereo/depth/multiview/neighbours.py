"""Which frames look at the same surface from other places, so that they can judge each other's depth."""

from collections.abc import Callable
from math import radians

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras

SAMPLES = 64
_BEST_ANGLE = radians(6.0)
_NARROW, _WIDE = radians(3.0), radians(12.0)
_LEAST_ANGLE = radians(0.15)


def choose_neighbours(
    cameras: Cameras, depth_of: Callable[[int], Float[Tensor, "h w"]], count: int
) -> list[tuple[int, ...]]:
    """For each frame at most `count` others that see most of its surface from a good angle, the best first.

    Some 64 surface points of each frame are projected into all cameras. A point counts by the angle between the two
    rays: best at 6°, falling off as a Gaussian (3° below, 12° above), nothing below 0.15°, where nothing can be
    triangulated. Chosen one by one; another frame that sees the points from nearly the same place as one already
    chosen counts less. Beyond the choice, work per frame does not depend on the number of frames.

    Source: the angle weighting of COLMAP and MVSNet (Yao et al., ECCV 2018, §4.1), with other constants.

    Args:
        depth_of: z-depth of a frame, 0 = unknown.
    """
    return [_neighbours(index, cameras, depth_of(index), count) for index in range(len(cameras))]


def _neighbours(index: int, cameras: Cameras, depth: Float[Tensor, "h w"], count: int) -> tuple[int, ...]:
    pixels = (depth > 0).nonzero()
    if len(pixels) == 0:
        return ()
    pixels = pixels[:: max(1, len(pixels) // SAMPLES)]
    own, z = cameras[index], depth[pixels[:, 0], pixels[:, 1]]
    image = torch.stack([pixels[:, 1] + 0.5, pixels[:, 0] + 0.5, torch.ones(len(pixels))], dim=1)
    camera_points = (image @ torch.linalg.inv(own.intrinsics[0]).T) * z[:, None]
    points = (camera_points - own.cam_from_world[0, :3, 3]) @ own.cam_from_world[0, :3, :3]
    uv, depths = cameras.project(points)
    inside = (depths > 0) & (uv >= 0).all(dim=2) & (uv[..., 0] < cameras.width) & (uv[..., 1] < cameras.height)
    rays = torch.nn.functional.normalize(points[None] - cameras.centers[:, None], dim=2)
    angle = _angles(rays, rays[index][None])
    sigma = torch.where(angle < _BEST_ANGLE, _NARROW, _WIDE)
    worth = torch.exp(-0.5 * ((angle - _BEST_ANGLE) / sigma) ** 2) * (inside & (angle > _LEAST_ANGLE))
    worth[index] = 0
    chosen: list[int] = []
    while len(chosen) < count:
        total = worth.sum(dim=1)
        best = int(total.argmax())
        if float(total[best]) <= 0.02 * len(points):
            break
        chosen.append(best)
        apart = _angles(rays, rays[best][None])
        worth = worth * (0.3 + 0.7 * (1 - torch.exp(-0.5 * (apart / _NARROW) ** 2)))
        worth[best] = 0
    return tuple(chosen)


def _angles(rays: Float[Tensor, "n p 3"], others: Float[Tensor, "m p 3"]) -> Float[Tensor, "n p"]:
    """Angles of unit vectors, accurate for small ones."""
    return 2 * torch.asin(((rays - others).norm(dim=2) / 2).clamp(max=1))
