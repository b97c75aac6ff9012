"""Fewer points, evenly taken."""

import torch

from worldstereo.geometry.point_cloud import PointCloud


def thinned(cloud: PointCloud, limit: int) -> PointCloud:
    """At most `limit` points: one at a pseudo-random place of each of `limit` equal runs, always the same ones.

    The places are irregular so that points from a grid of pixels do not thin to stripes.
    """
    if len(cloud) <= limit:
        return cloud
    jitter = torch.rand(limit, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = ((torch.arange(limit, dtype=torch.float64) + jitter) * (len(cloud) / limit)).long()
    return cloud[places.clamp(max=len(cloud) - 1).to(cloud.points.device)]
