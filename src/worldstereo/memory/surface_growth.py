"""What the frames of a clip add to the cloud: surface where it has none and where nothing contradicts it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry.filtering import voxel_keep
from worldstereo.geometry.inpainting import sky_share
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.rendering import PointRender
from worldstereo.geometry.sharp_rendering import render_points_sharp
from worldstereo.memory.clip_alignment import FrameAlignment, align_clip
from worldstereo.memory.lifting import SKY_MEDIANS, depth_edges, near_surface

AGREEMENT = 0.05
FARTHEST = 3.0
WITNESSES = 4


@dataclass(frozen=True)
class FrameReport:
    """What became of one frame.

    Attributes:
        status: "aligned", "borrowed" or "rejected".
        reason: why the frame's own fit was not used; empty if it was.
        scale: of the disparity fit, 0 if rejected.
        shift: of the disparity fit.
        residual: median relative error against the cloud where both are known.
        points: new points that the frame proposed after the checks.
    """

    status: str
    reason: str
    scale: float
    shift: float
    residual: float
    points: int


@dataclass(frozen=True)
class UpdateReport:
    """What an update did.

    Attributes:
        frames: one report per frame.
        points_proposed: new points before thinning.
        points_added: after thinning.
        sky_added: new sky points.
    """

    frames: tuple[FrameReport, ...]
    points_proposed: int
    points_added: int
    sky_added: int


@dataclass(frozen=True)
class Growth:
    """New points, not in the cloud yet, and how they came about."""

    cloud: PointCloud
    sky: PointCloud
    report: UpdateReport


@dataclass(frozen=True)
class _Bounds:
    """Nearest and farthest depth within 3×3 pixels of each pixel; 0 where one of the nine is unknown."""

    low: Float[Tensor, "f h w"]
    high: Float[Tensor, "f h w"]

    @classmethod
    def of(cls, depth: Float[Tensor, "f h w"]) -> "_Bounds":
        low = -functional.max_pool2d(-depth[:, None], 3, 1, padding=1)[:, 0]
        high = functional.max_pool2d(depth[:, None], 3, 1, padding=1)[:, 0]
        return cls(low, torch.where(low > 0, high, 0.0))


def grow_surface(
    cloud: PointCloud,
    sky: PointCloud,
    frames: Float[Tensor, "f 3 h w"],
    cameras: Cameras,
    predictions: Sequence[DepthPrediction],
) -> Growth:
    """New surface of a clip's frames.

    The frames' depth is aligned to the cloud (`align_clip`). A pixel gives a point if the cloud, and the points
    of the clip's earlier frames, leave a hole there; if it lies on no depth edge; and if it is not farther than
    3 times the farthest that the clip sees of the cloud; holes that continue the sky are sky. Up to four
    frames beside it are its witnesses: it is dropped if it would stand in front of a surface that the cloud
    shows them well, or if more of them see past it than see it. What remains is thinned to one point a voxel (a
    pixel's footprint at the point's depth; voxels of the old cloud are taken).
    Sky seen through holes goes on the sky's sphere.

    Time O(frames × points of the cloud); memory O(frames × pixels).

    Raises:
        InputError: numbers or sizes of frames, cameras and predictions differ.
    """
    _require_same(frames, cameras, predictions)
    guidance = render_points_sharp(cloud, cameras, backdrop=sky)
    aligned = align_clip(predictions, guidance.depth)
    points, new_sky, depth_of_points, counts = _collect(frames, cameras, predictions, aligned, guidance, sky)
    kept = _thinned(points, depth_of_points, cloud, float(cameras.intrinsics[:, 0, 0].mean()))
    reports = tuple(
        FrameReport(
            status=frame.status,
            reason=frame.reason,
            scale=frame.fit.scale if frame.fit else 0.0,
            shift=frame.fit.shift if frame.fit else 0.0,
            residual=frame.fit.residual if frame.fit else 0.0,
            points=count,
        )
        for frame, count in zip(aligned, counts, strict=True)
    )
    return Growth(kept, new_sky, UpdateReport(reports, len(points), len(kept), len(new_sky)))


def _collect(
    frames: Float[Tensor, "f 3 h w"],
    cameras: Cameras,
    predictions: Sequence[DepthPrediction],
    aligned: Sequence[FrameAlignment],
    guidance: PointRender,
    sky: PointCloud,
) -> tuple[PointCloud, PointCloud, Float[Tensor, " p"], list[int]]:
    """New points of all frames, new sky, the points' depths, and the number of points per frame."""
    depth = torch.stack([frame.depth for frame in aligned])
    shown, known = _Bounds.of(depth), _Bounds.of(guidance.depth)
    farthest = FARTHEST * float(guidance.depth.max())
    used = [f for f, frame in enumerate(aligned) if frame.status != "rejected"]
    new, new_sky, depths = PointCloud.empty(frames.device), PointCloud.empty(frames.device), [depth.new_zeros(0)]
    counts = [0] * len(aligned)
    for f in used:
        covered = render_points_sharp(new, cameras[f], backdrop=new_sky)
        open_pixels = guidance.hole_mask[f] & covered.hole_mask[0]
        behind_is_sky = _continues_sky(guidance.depth[f], guidance.hole_mask[f])
        candidate = open_pixels & (depth[f] > 0) & (depth[f] <= farthest) & ~behind_is_sky
        candidate &= ~depth_edges(predictions[f].depth, predictions[f].sky)
        colors = frames[f].permute(1, 2, 0)
        points = PointCloud(cameras[f].unproject(depth[f][None])[0][candidate], colors[candidate])
        beside = sorted((other for other in used if other != f), key=lambda other: (abs(other - f), other))
        believed = _believed(points.points, beside[:WITNESSES], cameras, shown, known)
        new = PointCloud.cat([new, points[believed]])
        depths.append(depth[f][candidate][believed])
        counts[f] = int(believed.sum())
        seen_sky = open_pixels & (predictions[f].sky | behind_is_sky) & ~near_surface(guidance.depth[f])
        new_sky = PointCloud.cat([new_sky, _sky_points(seen_sky, colors, cameras[f], sky, guidance.depth)])
    return new, new_sky, torch.cat(depths), counts


def _continues_sky(depth: Float[Tensor, "h w"], hole_mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Holes whose background, as `pull_push` continues it, is sky: what shows beside a roof is not more roof."""
    return hole_mask & (sky_share(depth, ~hole_mask) > 0.5)


def _believed(
    points: Float[Tensor, "p 3"], witnesses: Sequence[int], cameras: Cameras, shown: _Bounds, known: _Bounds
) -> Bool[Tensor, " p"]:
    """Which points no witness' view of the cloud contradicts, and no more witnesses see past than see."""
    vetoed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    balance = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for witness in witnesses:
        pixels, z = (value[0] for value in cameras[witness].project(points))
        column, row = pixels[:, 0].floor(), pixels[:, 1].floor()
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < cameras.width) & (row < cameras.height)
        at = (torch.where(inside, row, 0.0).long(), torch.where(inside, column, 0.0).long())
        low, high = shown.low[witness][at], shown.high[witness][at]
        seen = inside & (low > 0)
        balance += (seen & (z >= low * (1 - AGREEMENT)) & (z <= high * (1 + AGREEMENT))).long()
        balance -= (seen & (z < low * (1 - AGREEMENT))).long()
        vetoed |= inside & (z < known.low[witness][at] * (1 - AGREEMENT))
    return ~vetoed & (balance >= 0)


def _sky_points(
    seen: Bool[Tensor, "h w"],
    colors: Float[Tensor, "h w 3"],
    camera: Cameras,
    sky: PointCloud,
    guidance: Float[Tensor, "f h w"],
) -> PointCloud:
    """Sky pixels on the sphere of the sky there is, or, for the first, of 100 median depths."""
    if len(sky):
        radius = (sky.points - camera.centers).norm(dim=1).median()
    else:
        radius = SKY_MEDIANS * guidance[guidance > 0].median()
    rays = camera.pixel_rays()[0][seen] @ camera.cam_from_world[0, :3, :3]
    return PointCloud(camera.centers + radius * functional.normalize(rays, dim=-1), colors[seen])


def _thinned(new: PointCloud, depth: Float[Tensor, " p"], cloud: PointCloud, focal: float) -> PointCloud:
    """One point a voxel, none where the old cloud is.

    A voxel is as wide as a pixel at the point's depth, rounded down to a power of two.
    """
    keep = torch.zeros(len(new), dtype=torch.bool, device=new.points.device)
    level = (depth / focal).log2().floor()
    for size in level.unique().tolist():
        here = (level == size).nonzero()[:, 0]
        points, voxel = new.points[here], 2.0**size
        low, high = points.amin(dim=0) - voxel, points.amax(dim=0) + voxel
        old = cloud.points[((cloud.points > low) & (cloud.points < high)).all(dim=1)]
        keep[here] = voxel_keep(torch.cat([old, points]), voxel)[len(old) :]
    return new[keep]


def _require_same(frames: Float[Tensor, "f 3 h w"], cameras: Cameras, predictions: Sequence[DepthPrediction]) -> None:
    if not len(frames) == len(cameras) == len(predictions):
        raise InputError(
            f"there are {len(frames)} frames, {len(cameras)} cameras and {len(predictions)} depths; "
            f"the numbers must be equal"
        )
    sizes = {tuple(frames.shape[2:]), (cameras.height, cameras.width)}
    sizes |= {tuple(prediction.depth.shape) for prediction in predictions}
    if len(sizes) != 1:
        raise InputError(f"frames, cameras and depths have different sizes (height, width): {sorted(sizes)}")
