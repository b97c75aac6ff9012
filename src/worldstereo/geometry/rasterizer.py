"""Rendering a point cloud as the published release does."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.rasterizer_reference import render_points_reference
from worldstereo.geometry.rendering import PointRender

_WORKSPACE_BYTES = 512 * 2**20
_BYTES_PER_POINT = 32  # of one camera's index, pixel, depth and the two sides of the sort


def render_points(
    cloud: PointCloud,
    cameras: Cameras,
    *,
    radius_ndc: float = 0.008,
    points_per_pixel: int = 20,
    background: float = 0.5,
    backdrop: PointCloud | None = None,
) -> PointRender:
    """Render discs, alpha-composited front to back.

    A point covers the pixels whose centre lies nearer than `radius_ndc` to its projection; the shorter image side is
    2 NDC units long. Of the points that cover a pixel the nearest `points_per_pixel` count (equal depths: in the
    order of the cloud), with alpha 1 − d²/r². What they leave of the pixel shows `background`. Points with z ≤ 0
    are dropped. These are the semantics of the published conditioning renders (pytorch3d's point rasteriser and
    alpha compositor), on which the published weights were trained.

    CPU tensors take compiled loops (threads over cameras, the same bytes whatever their number), others
    `render_points_reference`. Time O(cameras × (points + visible points × disc area)); workspace at most 512 MiB or
    32 bytes a point.

    Args:
        cloud: points in the world.
        cameras: the views.
        radius_ndc: disc radius.
        points_per_pixel: discs that count in a pixel.
        background: grey of what stays uncovered, in [0, 1].
        backdrop: more points (the sky), rendered with the cloud; they cover holes but leave depth 0.

    Raises:
        InputError: a radius or count that is not positive.
    """
    require_positive(radius_ndc=radius_ndc, points_per_pixel=points_per_pixel)
    if cloud.points.device.type != "cpu":
        return render_points_reference(
            cloud,
            cameras,
            radius_ndc=radius_ndc,
            points_per_pixel=points_per_pixel,
            background=background,
            backdrop=backdrop,
        )
    from worldstereo.geometry import rasterizer_kernels as kernels

    points, colors = joined_arrays(cloud, backdrop)
    poses, intrinsics = camera_arrays(cameras)
    radius = np.float32(radius_ndc * min(cameras.width, cameras.height) / 2)
    frames, height, width = len(cameras), cameras.height, cameras.width
    rgb = np.empty((frames, 3, height, width), np.float32)
    covered = np.empty((frames, height, width), np.bool_)
    depth = np.empty((frames, height, width), np.float32)

    def render_one(f: int) -> None:
        index, pixel, z = kernels.project_visible(points, poses[f], intrinsics[f], width, height, radius)
        order = kernels.stable_depth_order(z)
        kernels.splat_discs(
            *(order, index, pixel, z, colors, len(cloud), radius, points_per_pixel, np.float32(background)),
            *(rgb[f], covered[f], depth[f]),
        )

    for_each_camera(render_one, frames, len(points))
    return PointRender(torch.from_numpy(rgb), torch.from_numpy(~covered), torch.from_numpy(depth))


def require_positive(**options: float | int) -> None:
    """Raise InputError, naming the option, unless all are positive."""
    for name, value in options.items():
        if not value > 0:
            raise InputError(f"{name} is {value} but must be positive")


def joined_arrays(cloud: PointCloud, backdrop: PointCloud | None) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours of the cloud, then of the backdrop, as contiguous float32 arrays."""
    joined = cloud if backdrop is None or len(backdrop) == 0 else PointCloud.cat([cloud, backdrop])
    return np.ascontiguousarray(joined.points.numpy()), np.ascontiguousarray(joined.colors.numpy())


def camera_arrays(cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Poses and intrinsics as contiguous float32 arrays."""
    poses, intrinsics = cameras.cam_from_world.cpu().numpy(), cameras.intrinsics.cpu().numpy()
    return np.ascontiguousarray(poses), np.ascontiguousarray(intrinsics)


def for_each_camera(work: Callable[[int], None], cameras: int, points: int) -> None:
    """Run `work(camera)` for all cameras in threads, as many as cores allow and the workspace of `points` permits."""
    fitting = _WORKSPACE_BYTES // max(_BYTES_PER_POINT * points, 1)
    workers = max(1, min(torch.get_num_threads(), os.cpu_count() or 1, fitting, cameras))
    if workers == 1:
        for camera in range(cameras):
            work(camera)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(cameras)))
