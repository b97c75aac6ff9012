"""Pointmaps: for each pixel the world coordinates of what it shows, as a colour. Equal colour = same point."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry import PointCloud
from worldstereo.geometry.sharp_rendering import render_points_sharp

_UNKNOWN = 0.5
_OUTLIERS = 0.01  # share of the points left out at either end of each axis
_VIEWS_AT_ONCE = 4


@dataclass(frozen=True)
class SceneBox:
    """The cube that pointmaps map to [0, 1]³: its centre to 0.5, one scale for all axes.

    Attributes:
        center: world coordinates.
        side: scene units, positive.
    """

    center: Float[Tensor, "3"]
    side: float

    @classmethod
    def of(cls, cloud: PointCloud) -> "SceneBox":
        """The cube around the 1st to 99th percentile of the points along each world axis (its longest side)."""
        if len(cloud) == 0:
            return cls(cloud.points.new_zeros(3), 1.0)
        rank = 1 + int(_OUTLIERS * (len(cloud) - 1))
        low = cloud.points.kthvalue(rank, dim=0).values
        high = cloud.points.kthvalue(len(cloud) + 1 - rank, dim=0).values
        side = float((high - low).max())
        return cls((low + high) / 2, side if side > 0 else 1.0)

    def normalize(self, points: Float[Tensor, "*p 3"]) -> Float[Tensor, "*p 3"]:
        """World coordinates to [0, 1]³; points outside the cube go to its faces."""
        return ((points - self.center) / self.side + 0.5).clamp(0, 1)


def render_pointmaps(cloud: PointCloud, cameras: Cameras, box: SceneBox) -> Float[Tensor, "n 3 h w"]:
    """World coordinates of the cloud's surface in each pixel, normalised by `box`; 0.5 where there is none.

    The depth is that of the sharp render (crack-free at any size), lifted at the pixel's centre. Pointmaps of one
    cloud and one box can be compared with each other. Source: WorldStereo (arXiv 2603.02049), pointmap guidance; its
    range of values is not published, [0, 1] is ours.
    """
    maps = torch.full((len(cameras), 3, cameras.height, cameras.width), _UNKNOWN, device=cloud.points.device)
    for start in range(0, len(cameras), _VIEWS_AT_ONCE):
        views = cameras[slice(start, start + _VIEWS_AT_ONCE)]
        render = render_points_sharp(cloud, views)
        colors = box.normalize(views.unproject(render.depth)).permute(0, 3, 1, 2)
        maps[start : start + len(views)] = torch.where(render.hole_mask[:, None], _UNKNOWN, colors)
    return maps
