"""From a cloud to splats: thinned to a budget, as wide as their neighbours are far, flat along the normal."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import quaternion_from_matrix
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.voxel_table import VoxelTable

_NEIGHBOURS = 3
_WIDTH = 0.6  # standard deviation over the distance to the neighbours: a regular grid is covered without gaps
_FLATNESS = 0.25
_LONELY = 8.0  # how much wider than the median of its footprint a splat may start
_OPACITY = (0.3, 0.8)
_SKY_OPACITY = 0.9
_HALVINGS = 10


def splats_from_cloud(cloud: FusedCloud, cameras: Cameras, budget: int) -> GaussianSplats:
    """Splats on the points of a cloud.

    The standard deviation is 0.6 of the mean distance to the three nearest neighbours, at most 8 times the usual for
    a point so far from the cameras; along the normal a quarter of that; where the normal is unknown (0) the splat is
    round. The opacity goes from 0.3 to 0.8 with the confidence. O(p log p).

    Args:
        cloud: with normals (0 = unknown) and confidence.
        cameras: from where it was seen; near them more points are kept (`thin_cloud`).
        budget: how many splats at most.

    Raises:
        InputError: there is no point, or the budget is not positive.
    """
    if budget < 1:
        raise InputError(f"the budget of {budget} splats must be positive")
    if len(cloud) == 0:
        raise InputError("splats need at least one point to start from, but the cloud is empty")
    cloud = thin_cloud(cloud, cameras, budget)
    footprint = _footprints(cloud.points, cameras)
    spacing = _spacings(cloud.points, footprint)
    usual = float((spacing / footprint).median())
    width = _WIDTH * torch.minimum(spacing, _LONELY * usual * footprint)
    known = cloud.normals.norm(dim=1) > 0.5
    flat = torch.where(known, _FLATNESS, 1.0)
    low, high = _OPACITY
    return GaussianSplats(
        cloud.points.clone(),
        width[:, None] * torch.stack([torch.ones_like(flat), torch.ones_like(flat), flat], dim=1),
        _turned_to(torch.where(known[:, None], cloud.normals, cloud.normals.new_tensor([0.0, 0.0, 1.0]))),
        low + (high - low) * cloud.confidence.clamp(0, 1),
        cloud.colors.clone(),
    )


def splats_from_sky(sky: PointCloud, cameras: Cameras, budget: int) -> GaussianSplats:
    """Splats on the points of the sky, far behind everything, facing the cameras; none for an empty cloud.

    Raises:
        InputError: the budget is not positive.
    """
    if budget < 1:
        raise InputError(f"the budget of {budget} sky splats must be positive")
    inwards = functional.normalize(cameras.centers.mean(dim=0) - sky.points, dim=1)
    cloud = thin_cloud(FusedCloud(sky.points, sky.colors, inwards, torch.ones(len(sky))), cameras, budget)
    width = 1.5 * _WIDTH * _spacings(cloud.points, _footprints(cloud.points, cameras))
    shape = torch.tensor([1.0, 1.0, _FLATNESS])
    opacity = torch.full((len(cloud),), _SKY_OPACITY)
    return GaussianSplats(cloud.points, width[:, None] * shape, _turned_to(cloud.normals), opacity, cloud.colors)


def thin_cloud(cloud: FusedCloud, cameras: Cameras, budget: int) -> FusedCloud:
    """At most `budget` points, each the mean, by confidence, of those in a cube.

    Cubes are as wide as a pixel's footprint at their distance from the nearest camera times a factor, rounded to a
    power of two; the factor is found by bisection. A cloud within the budget stays as it is. O(p log p).
    """
    if len(cloud) <= budget:
        return cloud
    level = _footprints(cloud.points, cameras).log2()
    low, high = -1.0, 24.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        count = len(np.unique(_cells(cloud.points, (level + middle).round().long()), axis=0))
        low, high = (low, middle) if count <= budget else (middle, high)
    thin = _averaged(cloud, (level + high).round().long())
    if len(thin) > budget:  # cubes around the world's origin never become one
        thin = thin[torch.linspace(0, len(thin) - 1, budget).long()]
    return thin


def _averaged(cloud: FusedCloud, level: Int[Tensor, " p"]) -> FusedCloud:
    weight = cloud.confidence.clamp(min=1e-3)[:, None]
    side = torch.exp2(level.float())[:, None]
    place = (cloud.points / side).floor()
    values = torch.cat([weight, cloud.points - place * side, cloud.colors, cloud.normals, cloud.confidence[:, None]], 1)
    table = VoxelTable(11)
    table.add(level, place.long(), torch.cat([weight, values[:, 1:] * weight], dim=1))
    cells = table.cells()
    mean = cells.sums[:, 1:] / cells.sums[:, :1]
    points = cells.place * torch.exp2(cells.level.float())[:, None] + mean[:, :3]
    return FusedCloud(points, mean[:, 3:6], functional.normalize(mean[:, 6:9], dim=1), mean[:, 9])


def _cells(points: Float[Tensor, "p 3"], level: Int[Tensor, " p"]) -> np.ndarray:
    """Number of each point's cube."""
    place = (points / torch.exp2(level.float())[:, None]).floor().int()
    return torch.cat([level.int()[:, None], place], dim=1).numpy()


def _footprints(points: Float[Tensor, "p 3"], cameras: Cameras) -> Float[Tensor, " p"]:
    """How wide a pixel of the nearest camera is at each point, in world units."""
    from scipy.spatial import cKDTree

    if len(points) == 0:
        return points[:, 0]
    distance = cKDTree(cameras.centers.numpy()).query(points.numpy())[0]
    focal = float(cameras.intrinsics[:, 0, 0].median())
    nearest = max(float(np.median(distance)) * 1e-3, 1e-12)
    return torch.from_numpy(np.maximum(distance, nearest).astype(np.float32)) / focal


def _spacings(points: Float[Tensor, "p 3"], footprint: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Mean distance to the nearest neighbours; the footprint of a pixel where there is none."""
    from scipy.spatial import cKDTree

    count = min(_NEIGHBOURS, len(points) - 1)
    if count < 1:
        return footprint
    places = points.numpy()
    distance = cKDTree(places).query(places, k=count + 1)[0][:, 1:].mean(axis=1)
    return torch.maximum(torch.from_numpy(distance.astype(np.float32)), 0.1 * footprint)


def _turned_to(normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 4"]:
    """Quaternions whose third axis is the normal."""
    normals = functional.normalize(normals, dim=1)
    helper = torch.eye(3)[normals.abs().argmin(dim=1)]
    first = functional.normalize(torch.linalg.cross(helper, normals), dim=1)
    axes = torch.stack([first, torch.linalg.cross(normals, first), normals], dim=2)
    return quaternion_from_matrix(axes)
