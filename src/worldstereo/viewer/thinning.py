"""Fewer points, evenly taken, and how far apart points are."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree

from worldstereo.geometry.point_cloud import PointCloud

_TREE_LIMIT = 300_000  # points among which neighbours are sought


def thinned(cloud: PointCloud, limit: int) -> PointCloud:
    """At most `limit` points: one at a pseudo-random place of each of `limit` equal runs, always the same ones.

    The places are irregular so that points from a grid of pixels do not thin to stripes.
    """
    if len(cloud) <= limit:
        return cloud
    jitter = torch.rand(limit, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = ((torch.arange(limit, dtype=torch.float64) + jitter) * (len(cloud) / limit)).long()
    return cloud[places.clamp(max=len(cloud) - 1).to(cloud.points.device)]


def footprint(cloud: PointCloud, observer: Float[np.ndarray, "3"]) -> float:
    """The typical spacing of the points, divided by their distance from the observer.

    Of more than 300,000 points it is measured on fewer and scaled by the root of the thinning, as on a surface.
    """
    if len(cloud) < 16:
        return 0.01
    fewer = thinned(cloud, _TREE_LIMIT)
    points = fewer.points.double().cpu().numpy()
    some = points[:: max(1, len(points) // 4000)]
    nearest = KDTree(points).query(some, k=4)[0][:, 3]
    relative = float(np.median(nearest / np.maximum(np.linalg.norm(some - observer, axis=1), 1e-9)))
    return relative * (len(fewer) / len(cloud)) ** 0.5
