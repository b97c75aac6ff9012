"""How near a cloud of points is to the true one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from worldstereo.errors import InputError


@dataclass(frozen=True)
class CloudErrors:
    """Figures of a cloud against the truth; lengths are in the clouds' unit.

    Attributes:
        thresholds: distances, ascending.
        precision: share of the points that lie within each threshold of a true one.
        recall: share of the true points that lie within each threshold of a point.
        f1: harmonic mean of both, 0 where both are.
        auc: mean of F1 over the thresholds from 0 to the largest (trapezoids, F1 at 0 counted as 0), in [0, 1].
        accuracy: mean distance from a point to the nearest true one.
        completeness: mean distance from a true point to the nearest point.
    """

    thresholds: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    auc: float
    accuracy: float
    completeness: float


def cloud_errors(
    points: Float[Tensor, "n 3"],
    truth: Float[Tensor, "m 3"],
    thresholds: Sequence[float],
    workers: int = 1,
    chunk: int = 500_000,
) -> CloudErrors:
    """Compare two clouds in one frame.

    Exact nearest neighbours in a k-d tree, some queries at a time, so that beside the clouds only one tree and one
    chunk are held. O((n + m) log(n + m)).

    Args:
        thresholds: positive, ascending.
        workers: threads that search.
        chunk: queries at a time.

    Raises:
        InputError: an empty cloud, points that are not finite, or thresholds that are not positive and ascending.
    """
    limits = np.asarray(list(thresholds), np.float64)
    if len(limits) == 0 or not limits[0] > 0 or not bool((np.diff(limits) > 0).all()):
        raise InputError(f"thresholds {list(thresholds)} must be positive and ascending")
    ours, theirs = (cloud.detach().cpu().numpy() for cloud in (points, truth))
    for name, cloud in (("cloud", ours), ("true cloud", theirs)):
        if len(cloud) == 0 or not bool(np.isfinite(cloud).all()):
            raise InputError(f"the {name} has no points, or some that are not finite, so it cannot be compared")
    precision, accuracy = _within(ours, theirs, limits, workers, chunk)
    recall, completeness = _within(theirs, ours, limits, workers, chunk)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    steps, heights = np.diff(limits, prepend=0.0), np.concatenate([[0.0], f1])
    auc = float((steps * (heights[1:] + heights[:-1]) / 2).sum() / limits[-1])
    return CloudErrors(
        tuple(limits.tolist()),
        tuple(precision.tolist()),
        tuple(recall.tolist()),
        tuple(f1.tolist()),
        auc,
        accuracy,
        completeness,
    )


def nearest_distances(source: np.ndarray, target: np.ndarray, chunk: int, workers: int = 1) -> Iterator[np.ndarray]:
    """Distances from each point of `source` [n, 3] to the nearest of `target` [m, 3], in order, chunk by chunk."""
    tree = cKDTree(target, leafsize=32, balanced_tree=False, compact_nodes=False)
    for start in range(0, len(source), chunk):
        yield tree.query(source[start : start + chunk], workers=workers)[0]


def _within(
    source: np.ndarray, target: np.ndarray, limits: np.ndarray, workers: int, chunk: int
) -> tuple[np.ndarray, float]:
    """Share of the source within each limit of the target, and the mean distance."""
    counts, total = np.zeros(len(limits)), 0.0
    for distances in nearest_distances(source, target, chunk, workers):
        counts += np.searchsorted(np.sort(distances), limits, side="right")
        total += float(distances.sum())
    return counts / len(source), total / len(source)
