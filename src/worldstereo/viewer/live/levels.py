"""A cloud in parts, coarse first: any number of first parts is the whole scene, evenly thinned."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.thinning import footprint, thinned

FIRST_PART = 50_000  # points of the first picture
_PART = 150_000  # points of every later part
_RINGS = 3  # parts of a level by distance, each with a point size of its own
_LARGEST_GROWTH = 4.0  # of points while few of them are shown


@dataclass(frozen=True, eq=False)
class Part:
    """Points that are sent together: one ring of a level.

    Attributes:
        points: world coordinates, float32.
        colors: RGB.
        shown_before: share of all points that lie in earlier levels.
        shown_with: share of all points that are shown together with this level.
        spacing: the typical distance of neighbours when every level is there, in world units.
    """

    points: Float[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"]
    shown_before: float
    shown_with: float
    spacing: float

    def point_size(self, share: float) -> float:
        """The size, in world units, that closes the gaps of a surface when that share of all points is shown.

        Spacing on a surface grows with the root of the thinning.
        """
        return self.spacing * min(_LARGEST_GROWTH, float(np.sqrt(1 / max(share, 1e-6))))


def cut_into_parts(cloud: PointCloud, observer: Float[np.ndarray, "3"], limit: int) -> list[Part]:
    """The parts of a cloud of which at most `limit` points are kept, in the order of sending.

    Levels are taken from one random order (always the same), 50,000 points first and then 150,000 at a time. O(n).

    Args:
        observer: where the points were seen from; their spacing grows with the distance from it.
    """
    cloud = thinned(cloud, limit)
    count = len(cloud)
    if count == 0:
        return []
    order = np.random.default_rng(0).permutation(count)
    points = cloud.points.detach().cpu().float().numpy()[order]
    colors = cloud.colors.detach().cpu().clamp(0, 1).mul(255).round().byte().numpy()[order]
    away = np.linalg.norm(points - observer, axis=1)
    relative = footprint(cloud, observer)
    borders = np.quantile(away[:FIRST_PART], np.linspace(0, 1, _RINGS + 1)[1:-1])
    ring = np.searchsorted(borders, away)
    parts = []
    for start, end in _levels(count):
        for number in range(_RINGS):
            mine = start + np.flatnonzero(ring[start:end] == number)
            if len(mine):
                spacing = relative * float(np.median(away[mine]))
                parts.append(Part(points[mine], colors[mine], start / count, end / count, spacing))
    return parts


def _levels(count: int) -> list[tuple[int, int]]:
    """First and last point (exclusive) of every level."""
    ends = [min(FIRST_PART, count), *range(FIRST_PART + _PART, count, _PART), count]
    return [(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True) if end > start]
