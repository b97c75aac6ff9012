"""Bringing the depth of a clip's frames into the scale of the cloud that they continue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.depth.base import DepthPrediction
from worldstereo.geometry.alignment import DisparityFit, fit_disparity, ranks_agree
from worldstereo.geometry.inpainting import pull_push
from worldstereo.memory.lifting import depth_edges

MIN_KNOWN = 0.05
MIN_OVERLAP = 0.05
MIN_RANK_AGREEMENT = 0.5
MIN_INLIERS = 0.5
MAX_RESIDUAL = 0.05
INLIER_TOLERANCE = 0.05
MIN_GOOD_FRAMES = 0.5
ANCHORS = 9
OUTLIER_PERCENTILE = 0.9
CLIP_SPREAD = 0.1
_SAME_DEPTH = 0.15
_PAIRS = 20_000  # pixels that a fit is made and judged from, evenly taken


@dataclass(frozen=True)
class FrameAlignment:
    """How a frame's depth was brought to the cloud's scale.

    Attributes:
        status: "aligned" by its own fit, "borrowed" from the nearest good frame, or "rejected".
        reason: why not by its own fit; empty if so.
        fit: the disparity fit used; None if rejected.
        depth: z-depth in the world's scale, 0 where unknown; all 0 if rejected.
    """

    status: Literal["aligned", "borrowed", "rejected"]
    reason: str
    fit: DisparityFit | None
    depth: Float[Tensor, "h w"]


@dataclass(frozen=True)
class _Overlap:
    """What a frame's prediction and the cloud both know, depth edges of both left out.

    Attributes:
        smooth: share of the frame with a predicted depth off edges.
        shared: share of the frame where the cloud's depth is known as well.
        predicted: disparities there, of some 20,000 pixels at the most evenly taken.
        guidance: the cloud's.
    """

    smooth: float
    shared: float
    predicted: Float[Tensor, " n"]
    guidance: Float[Tensor, " n"]

    def judged(self, fit: DisparityFit) -> DisparityFit:
        """The same scale and shift with the inliers and residual of this overlap."""
        error = (fit.scale * self.predicted + fit.shift - self.guidance).abs() / self.guidance
        inliers = float((error < INLIER_TOLERANCE).float().mean())
        return DisparityFit(fit.scale, fit.shift, inliers, float(error.median()))


def align_clip(predictions: Sequence[DepthPrediction], guidance: Float[Tensor, "f h w"]) -> list[FrameAlignment]:
    """Fit each frame's disparity to the cloud's, frame by frame, and judge the frames by each other.

    A frame fails if hardly any depth off edges is predicted, if hardly any of it is known to the cloud, if fewer
    than half of the overlap have a similar percentile rank in both (20 points; or a similar depth, as ranks mean
    little on a wall), if no positive scale fits, or if the fit misses (less than half within 5 %, or a median error
    above 5 %). Then the published anchor rule: nine anchor disparities of the clip are mapped by every fit; a frame
    whose mapping deviates from the clip's median by more than the 90th percentile, and by more than 10 %, is an
    outlier, provided that the clip agrees as a whole (back-ends that scale each frame anew do not). A failed frame
    or an outlier borrows the fit of the nearest good frame if the clip agrees, and if that fit suits what it
    overlaps. If less than half of the frames that overlap the cloud are good, all are rejected: the others may fit
    by chance.

    Source: HY-World 2.0 report (arXiv 2604.14268), composition stage; constants of its code where published.

    Args:
        predictions: one per frame.
        guidance: z-depth of the cloud as the frames' cameras see it, 0 = unknown.
    """
    overlaps = [_overlap(prediction, known) for prediction, known in zip(predictions, guidance, strict=True)]
    fits: list[DisparityFit | None] = []
    reasons = []
    for frame, overlap in enumerate(overlaps):
        fit, reason = _fit(overlap, seed=frame)
        fits.append(fit)
        reasons.append(reason)
    good, agrees = _judge_by_anchors(predictions, fits)
    judged = sum(overlap.smooth >= MIN_KNOWN and overlap.shared >= MIN_OVERLAP for overlap in overlaps)
    why = "deviates from the clip's other frames"
    if len(good) < MIN_GOOD_FRAMES * judged:
        good, agrees, why = set(), False, "most of the clip's frames miss the cloud or deviate from each other"
    reasons = [why if reason == "" and frame not in good else reason for frame, reason in enumerate(reasons)]

    aligned = []
    for frame, (prediction, overlap) in enumerate(zip(predictions, overlaps, strict=True)):
        if frame in good:
            fit = fits[frame]
            status: Literal["aligned", "borrowed", "rejected"] = "aligned"
        else:
            fit = None
            if agrees and overlap.smooth >= MIN_KNOWN:
                distances = sorted((abs(other - frame), other) for other in good)
                fit = _suiting(fits[distances[0][1]], overlap)
            status = "rejected" if fit is None else "borrowed"
        depth = torch.zeros_like(prediction.depth) if fit is None else _refined(prediction, fit, guidance[frame])
        aligned.append(FrameAlignment(status, reasons[frame], fit, depth))
    return aligned


def _overlap(prediction: DepthPrediction, guidance: Float[Tensor, "h w"]) -> _Overlap:
    nowhere = torch.zeros_like(prediction.sky)
    smooth = prediction.valid & ~depth_edges(prediction.depth, prediction.sky, grow=1)
    shared = smooth & (guidance > 0) & ~depth_edges(guidance, nowhere, grow=1)
    stride = max(1, int(shared.sum()) // _PAIRS)
    return _Overlap(
        smooth=float(smooth.float().mean()),
        shared=float(shared.float().mean()),
        predicted=1 / prediction.depth[shared][::stride],
        guidance=1 / guidance[shared][::stride],
    )


def _fit(overlap: _Overlap, seed: int) -> tuple[DisparityFit | None, str]:
    """The frame's own fit, or None and why."""
    if overlap.smooth < MIN_KNOWN:
        return None, f"only {overlap.smooth:.1%} of the frame has a depth off edges ({MIN_KNOWN:.0%} needed)"
    if overlap.shared < MIN_OVERLAP:
        return None, f"the cloud shows only {overlap.shared:.1%} of the frame ({MIN_OVERLAP:.0%} needed)"
    predicted, guidance = overlap.predicted, overlap.guidance
    ratio = (predicted / predicted.median()) / (guidance / guidance.median())
    consistent = ranks_agree(predicted, guidance) | ((ratio - 1).abs() < _SAME_DEPTH)
    agreement = float(consistent.float().mean())
    if agreement < MIN_RANK_AGREEMENT:
        return None, f"near and far are ordered as in the cloud in only {agreement:.0%} of the overlap"
    fit = fit_disparity(predicted[consistent], guidance[consistent], tolerance=INLIER_TOLERANCE, seed=seed)
    if fit is None:
        return None, "no positive scale brings the depth to the cloud"
    fit = overlap.judged(fit)
    if fit.inliers < MIN_INLIERS or fit.residual > MAX_RESIDUAL:
        return None, f"misses the cloud: median error {fit.residual:.1%}, {fit.inliers:.0%} within 5 %"
    return fit, ""


def _suiting(fit: DisparityFit | None, overlap: _Overlap) -> DisparityFit | None:
    """A borrowed fit, unless what the frame shares with the cloud contradicts it."""
    if fit is None or len(overlap.predicted) < 100:
        return fit
    judged = overlap.judged(fit)
    return judged if judged.inliers >= MIN_INLIERS and judged.residual <= MAX_RESIDUAL else None


def _judge_by_anchors(
    predictions: Sequence[DepthPrediction], fits: Sequence[DisparityFit | None]
) -> tuple[set[int], bool]:
    """The frames whose fit is good, and whether these agree so well that one may stand for another."""
    fitted = [frame for frame, fit in enumerate(fits) if fit is not None]
    if len(fitted) < 2:
        return set(fitted), False
    known = torch.cat([_disparities(predictions[frame]) for frame in fitted])
    anchors = torch.quantile(known, torch.linspace(0.1, 0.9, ANCHORS, device=known.device))
    mapped = torch.stack([fit.scale * anchors + fit.shift for fit in fits if fit is not None])
    middle = mapped.median(dim=0).values
    deviation = ((mapped - middle).abs() / middle.abs().clamp(min=1e-12)).amax(dim=1)
    if float(deviation.median()) > CLIP_SPREAD:
        return set(fitted), False
    limit = max(float(torch.quantile(deviation, OUTLIER_PERCENTILE)), CLIP_SPREAD)
    return {frame for frame, amount in zip(fitted, deviation.tolist(), strict=True) if amount <= limit}, True


def _disparities(prediction: DepthPrediction) -> Float[Tensor, " n"]:
    """At most some ten thousand disparities of a frame."""
    known = prediction.depth[prediction.valid]
    return 1 / known[:: 1 + len(known) // 10_000]


def _refined(prediction: DepthPrediction, fit: DisparityFit, guidance: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The fitted depth times a smooth field that makes it meet the cloud where both are known.

    The field is the ratio of the cloud's depth to the fitted one where they differ by less than 15 %, spread into
    the rest by pull–push: what a scale and a shift leave over of a network's errors varies slowly.
    """
    depth = fit.apply(prediction.depth)
    both = (depth > 0) & (guidance > 0)
    ratio = torch.where(both, guidance, 1.0) / torch.where(both, depth, 1.0)
    near = both & ((ratio - 1).abs() < _SAME_DEPTH)
    if not bool(near.any()):
        return depth
    return depth * pull_push(ratio[None, None], near[None, None], torch.ones_like(ratio)[None, None])[0, 0]
