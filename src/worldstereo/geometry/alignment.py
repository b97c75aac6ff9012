"""Bringing depths and points of unknown scale into the world's."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError

_HYPOTHESES = 256
_SAMPLE = 4096
_REFITS = 5
_MIN_PAIRS = 32


@dataclass(frozen=True)
class DisparityFit:
    """`target = scale · disparity + shift`.

    Attributes:
        scale: positive.
        shift: in units of the target disparity.
        inliers: share of the pairs within the tolerance.
        residual: median relative error |fitted − target| / target over all pairs.
    """

    scale: float
    shift: float
    inliers: float
    residual: float

    def apply(self, depth: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
        """Aligned depth; 0 where `depth` is unknown (0) or the disparity comes out negative."""
        disparity = self.scale / depth.clamp(min=1e-12) + self.shift
        good = (depth > 0) & (disparity > 1e-9)
        return torch.where(good, 1 / torch.where(good, disparity, 1.0), 0.0)


def fit_disparity(
    disparity: Float[Tensor, " n"], target: Float[Tensor, " n"], *, tolerance: float = 0.05, seed: int = 0
) -> DisparityFit | None:
    """Robust scale and shift between two disparities (1 / z) of the same pixels.

    RANSAC over 256 hypotheses (half from two pairs, half scale alone from one, for views of a single depth) on at
    most 4,096 pairs; then least squares of the relative error on the inliers, repeated. Same seed, same result.

    Args:
        disparity: what a depth back-end gave, positive.
        target: what is right, positive.
        tolerance: relative error of an inlier.
        seed: of the sampling.

    Returns:
        The fit, or None if there are too few pairs or no hypothesis with a positive scale.
    """
    if len(disparity) < _MIN_PAIRS:
        return None
    x, y = disparity.double(), target.double()
    unit = x.median()
    x = x / unit
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(x), (min(_SAMPLE, len(x)),), generator=generator).to(x.device)
    sample_x, sample_y = x[chosen], y[chosen]
    pairs = torch.randint(len(sample_x), (2, _HYPOTHESES), generator=generator).to(x.device)
    x0, x1, y0, y1 = sample_x[pairs[0]], sample_x[pairs[1]], sample_y[pairs[0]], sample_y[pairs[1]]
    alone = torch.arange(_HYPOTHESES, device=x.device) % 2 == 1
    run = torch.where((x1 - x0).abs() < 1e-9, 1.0, x1 - x0)
    scale = torch.where(alone, y0 / x0, (y1 - y0) / run)
    shift = torch.where(alone, 0.0, y0 - scale * x0)
    error = (scale[:, None] * sample_x + shift[:, None] - sample_y).abs() / sample_y
    votes = torch.where(scale > 1e-4 * y.median(), (error < tolerance).sum(dim=1), -1)
    best = int(votes.argmax())
    if votes[best] <= 0:
        return None
    a, b = scale[best], shift[best]
    for _ in range(_REFITS):
        refit = _least_squares(x, y, (a * x + b - y).abs() < tolerance * y)
        if refit is None:
            break
        a, b = refit
    relative = (a * x + b - y).abs() / y
    inliers = float((relative < tolerance).double().mean())
    return DisparityFit(float(a / unit), float(b), inliers, float(relative.median()))


def _least_squares(x: Tensor, y: Tensor, inlier: Tensor) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of the least relative error, or None where the inliers do not determine a positive scale."""
    if int(inlier.sum()) < _MIN_PAIRS:
        return None
    design = torch.stack([x[inlier], torch.ones_like(x[inlier])], dim=1) / y[inlier, None]
    normal = design.T @ design
    if torch.linalg.cond(normal) > 1e8:
        return None
    a, b = torch.linalg.solve(normal, design.sum(dim=0))
    return (a, b) if a > 0 else None


def ranks_agree(first: Float[Tensor, " n"], second: Float[Tensor, " n"], points: float = 20.0) -> Bool[Tensor, " n"]:
    """Where the percentile ranks of two measurements of the same pixels differ by at most `points` (of 100)."""
    if len(first) < 2:
        return torch.ones_like(first, dtype=torch.bool)
    ranks = [value.argsort(stable=True).argsort() * (100.0 / (len(first) - 1)) for value in (first, second)]
    return (ranks[0] - ranks[1]).abs() <= points


@dataclass(frozen=True)
class Similarity:
    """`X' = scale · rotation @ X + translation`."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float

    def apply(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Moved points."""
        return self.scale * points @ self.rotation.T + self.translation


def umeyama(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], weights: Float[Tensor, " n"] | None = None
) -> Similarity:
    """The similarity that brings `source` nearest to `target` in (weighted) least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, eq. 40 to 42;
    never a reflection.

    Raises:
        InputError: fewer than three points, or points on one line.
    """
    if len(source) < 3:
        raise InputError(f"a similarity needs three pairs of points, but there are {len(source)}")
    a, b = source.double(), target.double()
    w = torch.ones(len(a), dtype=a.dtype, device=a.device) if weights is None else weights.double()
    w = (w / w.sum())[:, None]
    mean_a, mean_b = (w * a).sum(dim=0), (w * b).sum(dim=0)
    a, b = a - mean_a, b - mean_b
    u, singular, vt = torch.linalg.svd(b.T @ (w * a))
    spread = torch.linalg.svdvals(a * w.sqrt())
    if not spread[1] > 1e-6 * spread[0]:
        raise InputError("the points lie on one line, so they do not determine a rotation")
    sign = torch.ones(3, dtype=a.dtype, device=a.device)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    rotation = u @ torch.diag(sign) @ vt
    scale = float((singular * sign).sum() / (w * a**2).sum())
    translation = mean_b - scale * rotation @ mean_a
    return Similarity(rotation.to(source.dtype), translation.to(source.dtype), scale)
