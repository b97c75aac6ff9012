"""The point renderer in plain torch: the statement of its semantics, and the path for devices other than the CPU."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.rendering import PointRender

_NEAREST_Z = 1e-6
_CANDIDATES_PER_CHUNK = 2**22


@dataclass(frozen=True)
class _Fragments:
    """Per pixel the nearest discs that cover it, near to far: `point` (−1 = none), `alpha` and `z`."""

    point: Int[Tensor, "pixels k"]
    alpha: Float[Tensor, "pixels k"]
    z: Float[Tensor, "pixels k"]


def render_points_reference(
    cloud: PointCloud,
    cameras: Cameras,
    *,
    radius_ndc: float = 0.008,
    points_per_pixel: int = 20,
    background: float = 0.5,
    backdrop: PointCloud | None = None,
) -> PointRender:
    """What `render_points` gives, on any device, up to rounding.

    Memory per frame: O(visible points + pixels × points_per_pixel), and chunks of 4 M disc pixels.
    """
    joined = cloud if backdrop is None else PointCloud.cat([cloud, backdrop])
    colors = torch.cat([joined.colors, joined.colors.new_zeros(1, 3)])  # the last is that of no point, −1
    size = (cameras.height, cameras.width)
    rgb, holes, depth = [], [], []
    for camera in cameras:
        fragments = _rasterize(joined.points, camera, radius_ndc, points_per_pixel)
        known = fragments.point >= 0
        clear = torch.cumprod(1 - fragments.alpha, dim=1)
        before = torch.cat([torch.ones_like(clear[:, :1]), clear[:, :-1]], dim=1)
        weight = fragments.alpha * before
        frame = background * clear[:, -1:].expand(-1, 3)
        for k in range(points_per_pixel):
            frame = frame + weight[:, k : k + 1] * colors[fragments.point[:, k]]
        surface = torch.where(known & (fragments.point < len(cloud)), fragments.z, torch.inf).amin(dim=1)
        rgb.append(frame.T.reshape(3, *size))
        holes.append(~known.any(dim=1).reshape(size))
        depth.append(torch.where(torch.isfinite(surface), surface, 0.0).reshape(size))
    return PointRender(torch.stack(rgb), torch.stack(holes), torch.stack(depth))


def _rasterize(points: Float[Tensor, "p 3"], camera: Cameras, radius_ndc: float, limit: int) -> _Fragments:
    """Fragments of one camera: points sorted by depth, in chunks, each appending to the pixels' lists."""
    width, height = camera.width, camera.height
    radius = radius_ndc * min(width, height) / 2
    pixels, z = (value[0] for value in camera.project(points))
    inside = (z > _NEAREST_Z) & (pixels > -radius).all(dim=1)
    inside &= (pixels[:, 0] < width + radius) & (pixels[:, 1] < height + radius)
    index = inside.nonzero()[:, 0]
    index = index[torch.sort(z[index], stable=True).indices]
    pixels, z = pixels[index], z[index]

    # One more slot takes what comes too late for its pixel.
    fragment_point = torch.full((height * width, limit + 1), -1, device=points.device)
    fragment_alpha = torch.zeros(height * width, limit + 1, device=points.device)
    fragment_z = torch.zeros(height * width, limit + 1, device=points.device)
    filled = torch.zeros(height * width, dtype=torch.long, device=points.device)
    reach = int(radius + 1)
    steps = torch.arange(-reach, reach + 1, device=points.device)
    step_y, step_x = (step.reshape(-1) for step in torch.meshgrid(steps, steps, indexing="ij"))
    chunk = max(1, _CANDIDATES_PER_CHUNK // len(step_x))
    for start in range(0, len(index), chunk):
        pixel = pixels[start : start + chunk]
        base = pixel.floor().long()
        column, row = base[:, :1] + step_x, base[:, 1:] + step_y
        squared = (column + 0.5 - pixel[:, :1]) ** 2 + (row + 0.5 - pixel[:, 1:]) ** 2
        hit = (squared < radius**2) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
        which, _ = hit.nonzero(as_tuple=True)
        at = (row * width + column)[hit]
        alpha = 1 - squared[hit] / radius**2
        at, by_pixel = torch.sort(at, stable=True)
        which, alpha = which[by_pixel] + start, alpha[by_pixel]
        touched, counts = torch.unique_consecutive(at, return_counts=True)
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        slot = filled[at] + torch.arange(len(at), device=points.device) - first
        keep = slot < limit
        at, slot, which, alpha = at[keep], slot[keep], which[keep], alpha[keep]
        fragment_point[at, slot] = index[which]
        fragment_alpha[at, slot] = alpha
        fragment_z[at, slot] = z[which]
        filled[touched] = (filled[touched] + counts).clamp(max=limit)
    return _Fragments(fragment_point[:, :limit], fragment_alpha[:, :limit], fragment_z[:, :limit])
