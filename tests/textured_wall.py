"""A wall with fine texture, seen from several places: exact pictures, depth and cameras."""

import torch
from jaxtyping import Float
from torch import Tensor

from box_room import look
from worldstereo.cameras import Cameras


def textured_wall(
    distance: float, slope: float = 0.0, count: int = 4
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"], Cameras]:
    """A wall z = distance + slope · x with smooth noise on it, from 0.12 apart along x: pictures, depth, cameras."""
    generator = torch.Generator().manual_seed(0)
    paint = torch.nn.functional.interpolate(
        torch.rand(1, 3, 160, 240, generator=generator), scale_factor=2, mode="bicubic", align_corners=False
    ).clamp(0, 1)
    cameras = Cameras.cat([look(0.12 * n, 0.0, 120, 80, 60.0) for n in range(count)])
    rays = cameras.pixel_rays()
    start = cameras.centers[:, 0][:, None, None]
    depth = (distance + slope * start) / (1 - slope * rays[..., 0])
    across, down = start + depth * rays[..., 0], depth * rays[..., 1]
    grid = torch.stack([across / 4, down / 4], dim=-1)
    images = torch.nn.functional.grid_sample(paint.expand(count, -1, -1, -1), grid, align_corners=False)
    return images, depth, cameras
