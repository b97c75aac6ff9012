"""Errors of predicted depth against the truth, invariant to scale or to scale and shift."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_NORMAL_STEP = 4
_FAR_RATIO = 50.0


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one picture: `abs_rel` = mean |d - d*| / d*, `delta_1` = share with max(d/d*, d*/d) < 1.25."""

    abs_rel: float
    delta_1: float


def depth_errors(depth: Float[Tensor, " p"], truth: Float[Tensor, " p"]) -> DepthErrors:
    """Errors of depths as they are."""
    ratio = torch.maximum(depth / truth, truth / depth)
    return DepthErrors(float(((depth - truth).abs() / truth).mean()), float((ratio < 1.25).float().mean()))


def align_scale(depth: Float[Tensor, " p"], truth: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The depth times the median of truth / depth."""
    return depth * median_ratio(depth, truth)


def median_ratio(depth: Float[Tensor, " p"], truth: Float[Tensor, " p"]) -> float:
    """The median of truth / depth; of an even number, the mean of the middle two."""
    ratio = truth / depth
    return float(ratio.median() - (-ratio).median()) / 2


def align_scale_and_shift(disparity: Float[Tensor, " p"], truth: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Depth of the disparity after the least-squares scale and shift to the true disparity (MiDaS protocol).

    Disparities are clamped to at most 50 times the truth's largest depth, so that depth stays finite.
    """
    basis = torch.stack([disparity, torch.ones_like(disparity)], dim=1).double()
    return fit_disparity(basis, basis, truth)


def fit_disparity(
    basis: Float[Tensor, "p k"], everywhere: Float[Tensor, "q k"], truth: Float[Tensor, " p"]
) -> Float[Tensor, " q"]:
    """Depth of the least-squares fit of the true disparity by the columns of `basis`, applied to `everywhere`."""
    target = (1 / truth).double()[:, None]
    unit = basis.double().norm(dim=0).clamp(min=1e-300)
    solution = torch.linalg.pinv(basis.double() / unit) @ target
    fitted = ((everywhere.double() / unit) @ solution)[:, 0].clamp(min=1 / (_FAR_RATIO * float(truth.max())))
    return (1 / fitted).float()


def normal_error_degrees(
    depth: Float[Tensor, "h w"],
    truth: Float[Tensor, "h w"],
    rays: Float[Tensor, "h w 3"],
    known: Bool[Tensor, "h w"],
) -> float:
    """Median angle between the surface normals of both depths, over differences of 4 pixels; NaN if none is known.

    It tells whether walls come out straight and turned rightly. `rays` have z = 1; the scale of `depth` is free.
    """
    ours, theirs = _normals(depth, rays), _normals(truth, rays)
    s = _NORMAL_STEP
    both = known[:-s, :-s] & known[s:, :-s] & known[:-s, s:] & known[s:, s:]
    cosine = (ours * theirs).sum(dim=-1)[both].clamp(-1, 1)
    return float(torch.rad2deg(cosine.acos()).median()) if len(cosine) else float("nan")


def _normals(depth: Float[Tensor, "h w"], rays: Float[Tensor, "h w 3"]) -> Float[Tensor, "h2 w2 3"]:
    points, s = rays * depth[..., None], _NORMAL_STEP
    right, down = points[:-s, s:] - points[:-s, :-s], points[s:, :-s] - points[:-s, :-s]
    return torch.nn.functional.normalize(torch.linalg.cross(right, down), dim=-1, eps=1e-12)
