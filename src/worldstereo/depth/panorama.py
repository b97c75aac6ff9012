"""Depth of a panorama: a rig of perspective crops, each estimated, aligned to each other and merged.

A monocular network gives each crop its own scale and a slow distortion. In log-distance both are a smooth additive
field, so each view gets a correction on a coarse grid of nodes; robust least squares makes the corrected
log-distances of overlapping views agree. The idea of merging crops by log-distance is MoGe's (arXiv 2410.19115),
which solves for the panorama's gradients instead; here the unknowns are a few hundred, whatever the resolution.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthEstimator
from worldstereo.depth.file import FileDepth
from worldstereo.errors import InputError
from worldstereo.geometry.panorama import camera_pixels, equirect_directions, rig, sample_equirect
from worldstereo.images import is_panorama

NODES = 5
"""Nodes a side of a view's correction grid."""

_LEVEL_AZIMUTHS = tuple(45.0 * step for step in range(8))
_TILTED_AZIMUTHS = tuple(60.0 * step + 30.0 for step in range(6))
_TILT = 50.0
_FOV = 90.0
_VIEW_SIDES = (192, 512)
_SOLVE_HEIGHT = 96
_ROUNDS = 6
_ROBUST_SCALE = 0.05
_SMOOTHNESS = 0.02
_RIDGE = 1e-6


@dataclass(frozen=True)
class PanoramaDepth:
    """Depth of an equirectangular panorama.

    Attributes:
        distance: along the ray from the centre, 0 = unknown.
        sky: where there is no surface; the distance is 0 there.
        metric: whether distances are in metres.
        source: the back-end's name and model, for reports.
        disagreement_before, disagreement_after: the median relative difference of two views in their overlap,
            before and after their alignment; 0 where the depth did not come from views.
    """

    distance: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]
    metric: bool
    source: str
    disagreement_before: float
    disagreement_after: float


@dataclass(frozen=True)
class _Views:
    """Estimates of the rig: log-distance (0 where unknown), which pixels are known, and which are sky."""

    cameras: Cameras
    log_distance: Float[Tensor, "n h w"]
    known: Bool[Tensor, "n h w"]
    sky: Bool[Tensor, "n h w"]


@dataclass(frozen=True)
class _Seen:
    """What one view says of the panorama's pixels that it sees.

    Attributes:
        at: their indices in the flattened panorama.
        grid: where they are in the view, in [-1, 1].
        values: log-distance, weight of known depth, weight of sky.
    """

    at: Tensor
    grid: Float[Tensor, "k 2"]
    log_distance: Float[Tensor, " k"]
    weight: Float[Tensor, " k"]
    sky_weight: Float[Tensor, " k"]


def estimate_panorama(panorama: Float[Tensor, "3 h w"], estimator: DepthEstimator) -> PanoramaDepth:
    """The depth of a panorama at its size, continuous across its seam.

    20 upright views of 90° × 90° (8 level, 6 each tilted up and down by 50°) are estimated; both poles are inside
    the tilted views. The scale is the views' geometric mean. A depth file gives the distances itself.

    Raises:
        InputError: the panorama is not twice as wide as high, or a depth file does not fit it.
    """
    height, width = panorama.shape[1:]
    if not is_panorama(width, height):
        raise InputError(f"the panorama is {width}×{height}, but must be twice as wide as high")
    if isinstance(estimator, FileDepth):
        return _from_file(estimator, width, height)
    views, metric, source = _estimate_views(panorama, estimator)
    corrections, before, after = _align(views)
    distance, sky = _merge(views, corrections, width, height)
    return PanoramaDepth(distance, sky, metric, f"{source}, {len(views.cameras)} views", before, after)


def _from_file(file: FileDepth, width: int, height: int) -> PanoramaDepth:
    distance = file.at_size(width, height)
    sky = torch.zeros_like(distance, dtype=torch.bool)
    return PanoramaDepth(distance, sky, file.is_metric, f"depth file {file.name}", 0.0, 0.0)


def _rig(side: int) -> Cameras:
    return Cameras.cat(
        [
            rig(_LEVEL_AZIMUTHS, (0.0,), _FOV, _FOV, side, side),
            rig(_TILTED_AZIMUTHS, (_TILT, -_TILT), _FOV, _FOV, side, side),
        ]
    )


def _estimate_views(panorama: Float[Tensor, "3 h w"], estimator: DepthEstimator) -> tuple[_Views, bool, str]:
    low, high = _VIEW_SIDES
    cameras = _rig(min(max(panorama.shape[2] // 4 // 16 * 16, low), high)).to(panorama.device)
    stretch = cameras[0].pixel_rays()[0].norm(dim=-1)
    logs, knowns, skies, metrics, sources = [], [], [], [], set()
    for camera in cameras:
        prediction = estimator.estimate(sample_equirect(panorama, camera)[0].clamp(0, 1), camera.intrinsics[0])
        distance = prediction.depth.to(panorama.device) * stretch
        knowns.append(distance > 0)
        logs.append(torch.where(distance > 0, distance.clamp(min=1e-12).log(), 0))
        skies.append(prediction.sky.to(panorama.device))
        metrics.append(prediction.metric)
        sources.add(prediction.source)
    views = _Views(cameras, torch.stack(logs), torch.stack(knowns), torch.stack(skies))
    return views, all(metrics), ", ".join(sorted(sources))


def _look(views: _Views, number: int, directions: Float[Tensor, "h w 3"]) -> _Seen:
    """Sample a view at the panorama's directions; unknown pixels and the view's border have no weight."""
    camera = views.cameras[number]
    pixels, seen = camera_pixels(directions, camera)
    grid = pixels[seen] / camera.width * 2 - 1
    known = views.known[number].float()
    layers = torch.stack([views.log_distance[number] * known, known, views.sky[number].float()])
    sampled = F.grid_sample(layers[None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
    at = seen.flatten().nonzero()[:, 0]
    border = ((grid + 1) / 2 * torch.pi).sin().clamp(min=0).square().prod(dim=-1)
    return _Seen(at, grid, sampled[0] / sampled[1].clamp(min=1e-6), border * sampled[1], border * sampled[2])


def _node_weights(grid: Float[Tensor, "k 2"]) -> tuple[np.ndarray, np.ndarray]:
    """The four nodes around each place in a view and their bilinear weights, [k, 4] each."""
    place = ((grid.double() + 1) / 2 * (NODES - 1)).clamp(0, NODES - 1).cpu().numpy()
    lower = np.minimum(place.astype(np.int64), NODES - 2)
    f = place - lower
    node = lower[:, 1] * NODES + lower[:, 0]
    nodes = node[:, None] + np.array([0, 1, NODES, NODES + 1])
    x, y = f[:, 0], f[:, 1]
    return nodes, np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], axis=1)


def _align(views: _Views) -> tuple[Float[Tensor, "n 1 a a"], float, float]:
    """Corrections of the views' log-distances at their nodes, and the median disagreements before and after.

    Minimises, over all pairs of views and directions that both see, the weighted robust (Cauchy) differences of
    corrected log-distances plus the squared differences of neighbouring nodes; the corrections' mean is 0.
    """
    count = len(views.cameras)
    design, difference, weight = _overlaps(views)
    if len(weight) == 0:
        return torch.zeros(count, 1, NODES, NODES), 0.0, 0.0
    per_node = weight.sum() / (count * NODES**2)
    smooth = _neighbour_differences(count)
    prior = (smooth.T @ smooth).toarray() * (_SMOOTHNESS * per_node) + np.eye(smooth.shape[1]) * (_RIDGE * per_node)
    solution = np.zeros(design.shape[1])
    scale = max(_ROBUST_SCALE, float(np.median(np.abs(difference))))
    for _ in range(_ROUNDS):
        residual = difference + design @ solution
        robust = weight / (1 + (residual / scale) ** 2)
        weighted = design.T.multiply(robust)
        solution = np.linalg.solve((weighted @ design).toarray() + prior, -(weighted @ difference))
        scale = max(_ROBUST_SCALE, scale / 3)
    residual = difference + design @ solution
    solution -= solution.mean()
    corrections = torch.from_numpy(solution).float().view(count, 1, NODES, NODES)
    return corrections, _relative(difference), _relative(residual)


def _relative(log_differences: np.ndarray) -> float:
    return float(np.expm1(np.median(np.abs(log_differences))))


def _overlaps(views: _Views) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """For each pair of views and each direction that both know: nodes, difference of log-distance, weight."""
    count = len(views.cameras)
    height, width = _SOLVE_HEIGHT, 2 * _SOLVE_HEIGHT
    directions = equirect_directions(width, height, views.log_distance.device)
    area = (directions[..., 0].square() + directions[..., 2].square()).sqrt().flatten()
    logs = np.zeros((count, height * width))
    weights = np.zeros((count, height * width))
    row_of = np.zeros((count, height * width), dtype=np.int64)
    nodes = []
    for number in range(count):
        seen = _look(views, number, directions)
        at = seen.at.cpu().numpy()
        logs[number, at] = seen.log_distance.cpu().numpy()
        weights[number, at] = (seen.weight * area[seen.at]).cpu().numpy()
        row_of[number, at] = np.arange(len(at))
        nodes.append(_node_weights(seen.grid))
    columns, values, differences, pair_weights = [], [], [], []
    for first in range(count):
        for second in range(first + 1, count):
            both = np.flatnonzero((weights[first] > 0) & (weights[second] > 0))
            (node_a, value_a), (node_b, value_b) = nodes[first], nodes[second]
            row_a, row_b = row_of[first, both], row_of[second, both]
            offset_a, offset_b = first * NODES**2, second * NODES**2
            columns.append(np.concatenate([node_a[row_a] + offset_a, node_b[row_b] + offset_b], axis=1))
            values.append(np.concatenate([value_a[row_a], -value_b[row_b]], axis=1))
            differences.append(logs[first, both] - logs[second, both])
            pair_weights.append(np.sqrt(weights[first, both] * weights[second, both]))
    column = np.concatenate(columns)
    design = sparse.csr_matrix(
        (np.concatenate(values).ravel(), column.ravel(), np.arange(0, column.size + 1, 8)),
        shape=(len(column), count * NODES**2),
    )
    return design, np.concatenate(differences), np.concatenate(pair_weights)


def _neighbour_differences(count: int) -> sparse.csr_matrix:
    """Rows that take the differences of neighbouring nodes, for all views."""
    step = sparse.diags([-1.0, 1.0], [0, 1], shape=(NODES - 1, NODES))
    both = sparse.vstack([sparse.kron(sparse.eye(NODES), step), sparse.kron(step, sparse.eye(NODES))])
    return sparse.kron(sparse.eye(count), both).tocsr()


def _merge(
    views: _Views, corrections: Float[Tensor, "n 1 a a"], width: int, height: int
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Blend the corrected log-distances; views that disagree with the mean count less, so edges stay sharp."""
    device = views.log_distance.device
    directions = equirect_directions(width, height, device)
    votes = torch.zeros(2, height * width, device=device)
    looks = []
    for number in range(len(views.cameras)):
        seen = _look(views, number, directions)
        nodes = corrections[number : number + 1].to(device)
        correction = F.grid_sample(nodes, seen.grid[None, None], padding_mode="border", align_corners=True)[0, 0, 0]
        looks.append((seen.at, seen.log_distance + correction, seen.weight.square()))
        votes[0, seen.at] += seen.weight
        votes[1, seen.at] += seen.sky_weight
    mean = torch.zeros(height * width, device=device)
    for scale in (float("inf"), 2 * _ROBUST_SCALE, _ROBUST_SCALE):
        total = torch.zeros(2, height * width, device=device)
        for at, value, weight in looks:
            robust = weight / (1 + ((value - mean[at]) / scale).square())
            total[0, at] += robust * value
            total[1, at] += robust
        mean = total[0] / total[1].clamp(min=1e-20)
    known, sky = votes
    is_sky = sky > known
    distance = torch.where((known > 0) & ~is_sky & (total[1] > 0), mean.exp(), 0)
    return distance.view(height, width), is_sky.view(height, width)
