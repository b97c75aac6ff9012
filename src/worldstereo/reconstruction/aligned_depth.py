"""Depth of every frame in the world's scale: any back-end, aligned clip by clip to what is known of the scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry.inpainting import pull_push
from worldstereo.memory.clip_alignment import MIN_OVERLAP, FrameAlignment, align_clip
from worldstereo.memory.lifting import depth_edges
from worldstereo.reconstruction.external import SceneReconstructor, predict_jointly
from worldstereo.reconstruction.posed_frames import PosedFrames

_CELL = 16
_STRAY = 0.05
_MIN_INSIDE = 0.5
_FARTHEST = 3.0


@dataclass(frozen=True)
class AlignedDepth:
    """Depth of one frame in the world's scale.

    Attributes:
        status: as of `FrameAlignment`; or "bent" to the cloud without a common scale, or "failed": no depth at all.
        reason: why not "aligned"; empty if so.
        depth: z-depth, 0 = unknown and on depth edges.
        sky: where the frame shows sky.
    """

    status: Literal["aligned", "borrowed", "rejected", "bent", "failed"]
    reason: str
    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]


def align_depth(
    frames: PosedFrames, indices: Sequence[int], estimator: DepthEstimator | SceneReconstructor, *, bend: bool = False
) -> list[AlignedDepth]:
    """Depth of frames of one clip, aligned to the cloud of `frames` (`align_clip`).

    Edges are left out, and what lies more than three times as far as the farthest that the frames see of the cloud:
    there disparity is all error.

    A back-end that fails on a frame (an error, values that are not finite) costs that frame only.

    Args:
        indices: the frames, of one clip and in order.
        bend: frames whose depth no scale and shift brings to the cloud are bent to it (`bend_to`) instead of rejected.
    """
    guidance = frames.guidance(indices)
    predictions, failures = _predictions(frames, indices, estimator, guidance)
    fits = align_clip(predictions, guidance)
    farthest = _FARTHEST * float(guidance.max())
    return [
        AlignedDepth("failed", failure, torch.zeros_like(hint), torch.zeros_like(hint, dtype=torch.bool))
        if failure
        else _aligned(prediction, fit, hint, bend, farthest)
        for failure, prediction, fit, hint in zip(failures, predictions, fits, guidance, strict=True)
    ]


def _predictions(
    frames: PosedFrames,
    indices: Sequence[int],
    estimator: DepthEstimator | SceneReconstructor,
    guidance: Float[Tensor, "n h w"],
) -> tuple[list[DepthPrediction], list[str]]:
    """Depth of each frame as the back-end says it, and why there is none; empty where there is."""
    if isinstance(estimator, SceneReconstructor):
        found = predict_jointly(estimator, frames.frames(indices), frames.cameras[list(indices)])
        return found, [""] * len(found)
    predictions, failures = [], []
    for index, hint in zip(indices, guidance, strict=True):
        try:
            prediction = estimator.estimate(frames.frame(index), frames.cameras.intrinsics[index], hint=hint)
            failures.append("")
        except InputError as error:
            nothing = torch.zeros_like(hint)
            prediction = DepthPrediction(nothing, nothing.bool(), None, False, estimator.name)
            failures.append(str(error))
        predictions.append(prediction)
    return predictions, failures


def bend_to(depth: Float[Tensor, "h w"], guidance: Float[Tensor, "h w"]) -> Float[Tensor, "h w"] | None:
    """Depth times a smooth field that brings it to the guidance, however the two are related.

    The field is the median of guidance / depth in cells of 16×16 pixels, spread into cells without guidance by
    pull–push and enlarged bilinearly. None if guidance and depth share less than 5 % of the picture or if half of
    what they share still misses by more than 5 % afterwards.
    """
    both = (depth > 0) & (guidance > 0)
    if float(both.float().mean()) < MIN_OVERLAP:
        return None
    height, width = depth.shape
    rows, columns = -(-height // _CELL), -(-width // _CELL)
    ratio = torch.where(both, guidance / depth.clamp(min=1e-12), torch.nan)
    padded = torch.full((rows * _CELL, columns * _CELL), torch.nan)
    padded[:height, :width] = ratio.log()
    cells = padded.view(rows, _CELL, columns, _CELL).permute(0, 2, 1, 3).reshape(rows, columns, -1)
    middle = cells.nanmedian(dim=2).values
    known = torch.isfinite(middle)
    field = pull_push(middle.nan_to_num()[None, None], known[None, None], torch.ones(1, 1, rows, columns))
    size = (rows * _CELL, columns * _CELL)
    wide = torch.nn.functional.interpolate(field, size=size, mode="bilinear", align_corners=False)
    bent = depth * wide[0, 0, :height, :width].exp()
    inside = ((bent / guidance.clamp(min=1e-12) - 1).abs() < _STRAY)[both]
    return bent if float(inside.float().mean()) >= _MIN_INSIDE else None


def _aligned(
    prediction: DepthPrediction, fit: FrameAlignment, guidance: Float[Tensor, "h w"], bend: bool, farthest: float
) -> AlignedDepth:
    status: Literal["aligned", "borrowed", "rejected", "bent"] = fit.status
    depth = fit.depth
    if fit.status == "rejected" and bend:
        bent = bend_to(prediction.depth, guidance)
        if bent is not None:
            status, depth = "bent", bent
    depth = torch.where(depth_edges(prediction.depth, prediction.sky) | (depth > farthest), 0.0, depth)
    return AlignedDepth(status, fit.reason, depth, prediction.sky)
