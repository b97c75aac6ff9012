"""Rendering the visible surface of a point cloud sharply: guidance for a generator that shows it as it is."""

from math import ceil

import numpy as np
import torch

from worldstereo.cameras import Cameras
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.rasterizer import camera_arrays, for_each_camera, joined_arrays, require_positive
from worldstereo.geometry.rendering import PointRender

_IN_FRONT = np.float32(1e-4)


def render_points_sharp(
    cloud: PointCloud,
    cameras: Cameras,
    *,
    closing_ndc: float = 0.008,
    depth_tolerance: float = 0.03,
    background: float = 0.5,
    backdrop: PointCloud | None = None,
) -> PointRender:
    """Render the nearest surface, each pixel an average of the surface's points steeply weighted by distance.

    Unlike `render_points`, whose discs blur by their radius and let the background through between sparse points:
    first a one-pixel depth buffer whose cracks (up to 2·`closing_ndc` wide) are closed morphologically, which says
    what surface a pixel sees; then only points of that depth count. A hole is a pixel that the closing did not
    reach; outlines do not grow. Aliased at silhouettes, as visibility is one yes or no a pixel.

    Compiled loops on the CPU (other tensors travel there and back); deterministic. Time O(cameras × (points +
    visible points × closing area)).

    Args:
        cloud: points in the world.
        cameras: the views.
        closing_ndc: half the width of the widest crack to close, rounded up to pixels; the shorter image side is 2
            units long.
        depth_tolerance: relative depth difference within which points are one surface.
        background: grey of holes, in [0, 1].
        backdrop: more points (the sky), rendered with the cloud; they cover holes but leave depth 0.

    Returns:
        rgb; the hole mask; depth, averaged as the colours are.

    Raises:
        InputError: a width that is not positive.
    """
    from worldstereo.geometry import rasterizer_kernels as kernels

    require_positive(closing_ndc=closing_ndc)
    device = cloud.points.device
    points, colors = joined_arrays(cloud.to("cpu"), None if backdrop is None else backdrop.to("cpu"))
    poses, intrinsics = camera_arrays(cameras)
    frames, height, width = len(cameras), cameras.height, cameras.width
    reach = ceil(closing_ndc * min(width, height) / 2)
    margin, tolerance = np.float32(2 * reach), np.float32(1 + depth_tolerance)
    rgb = np.empty((frames, 3, height, width), np.float32)
    holes = np.empty((frames, height, width), np.bool_)
    depth = np.empty((frames, height, width), np.float32)

    def render_one(f: int) -> None:
        index, pixel, z = kernels.project_visible(points, poses[f], intrinsics[f], width, height, margin)
        closed = kernels.closed_depth(pixel, z, width, height, reach)
        per_area = kernels.inverse_averaging_areas(pixel, z, closed, reach, tolerance)
        kernels.splat_surface(
            *(index, pixel, z, colors, len(cloud), closed, per_area, reach, tolerance, _IN_FRONT, rgb[f], depth[f])
        )
        holes[f] = np.isinf(closed)
        rgb[f][:, holes[f]] = background
        depth[f][holes[f]] = 0

    for_each_camera(render_one, frames, len(points))
    return PointRender(
        torch.from_numpy(rgb).to(device), torch.from_numpy(holes).to(device), torch.from_numpy(depth).to(device)
    )
