"""How good nano depth is, on held-out procedural scenes and real frames, against trivial rivals.

Without a hint every method is compared after the best scale and shift of disparity (least squares) and, in columns of
their own, after the best scale alone. The rivals are given the truth to fit: the constant is the best constant, the
plane the best plane in disparity, which has one more parameter than what the network is given. With a hint nothing is
aligned: the rivals fit the hint, errors count on the pixels that were not hinted.
"""

import json
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.data.rgbd import RgbdFrame, RgbdSource, read_rgbd_folder, split_held_out
from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.errors import InputError
from worldstereo.evaluation.depth_metrics import (
    DepthErrors,
    align_scale,
    align_scale_and_shift,
    depth_errors,
    fit_disparity,
    normal_error_degrees,
)
from worldstereo.models.depth_network import fill_unknown
from worldstereo.training.frames_config import read_sources

_MINIMUM_PIXELS = 50


@dataclass(frozen=True)
class DepthEvaluationConfig:
    """What to measure.

    Attributes:
        sources: folders of real frames; of those with `held_out` ranges only these, of others every frame.
        procedural_count: number of frames of procedural scenes; their seeds start at `procedural_seed`, far from
            those of training.
        hints: shares of the known pixels, drawn at random, that are given as a hint; 0 = none.
        longest_side: larger pictures are reduced to it.
    """

    sources: tuple[RgbdSource, ...] = ()
    procedural_count: int = 48
    procedural_seed: int = 900_000_000
    hints: tuple[float, ...] = (0.0, 0.05, 0.30)
    longest_side: int = 640
    seed: int = 0


@dataclass(frozen=True)
class DepthRow:
    """Mean errors of one method on one set with one kind of hint.

    `scale_abs_rel`, `scale_delta_1` and `normal_degrees` (median angle, mean over the frames; None where no frame is
    dense) are after the best scale alone; with a hint they equal the unaligned ones. `sky_iou` is intersection over
    union of the sky over all pixels where sky or a surface is known, None for rivals and for sets without sky.
    """

    dataset: str
    frames: int
    hint: float
    method: str
    abs_rel: float
    delta_1: float
    scale_abs_rel: float
    scale_delta_1: float
    normal_degrees: float | None
    sky_iou: float | None


@dataclass(frozen=True)
class DepthEvaluation:
    """The figures of all sets."""

    rows: tuple[DepthRow, ...]

    def table(self) -> str:
        """Markdown."""
        lines = [
            "| set | frames | hint | method | AbsRel | δ<1.25 | AbsRel (scale) | δ<1.25 (scale) | normals | sky IoU |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in self.rows:
            hint = "none" if row.hint == 0 else f"{row.hint:.0%}"
            normals = "" if row.normal_degrees is None else f"{row.normal_degrees:.1f}°"
            sky = "" if row.sky_iou is None else f"{row.sky_iou:.2f}"
            lines.append(
                f"| {row.dataset} | {row.frames} | {hint} | {row.method} | {row.abs_rel:.3f} | {row.delta_1:.3f} "
                f"| {row.scale_abs_rel:.3f} | {row.scale_delta_1:.3f} | {normals} | {sky} |"
            )
        return "\n".join(lines)

    def to_json(self) -> list[dict]:
        """Plain values, one entry a row."""
        return [asdict(row) for row in self.rows]


def nano_depth_evaluation_sources(root: str | Path) -> tuple[RgbdSource, ...]:
    """What the model card reports of the folders in `root`: the held-out frames of the training folders (as the
    shipped `training.json` says), and every frame of the folders that training never saw.

    Raises:
        InputError: `root` holds none of them.
    """
    root = Path(root)
    recipe = resources.files("worldstereo") / "weights" / "nano-depth" / "training.json"
    training = read_sources(json.loads(recipe.read_text(encoding="utf-8"))["sources"], root)
    unseen = [RgbdSource(root / name) for name in ("pi3_room8", "open3d_rgbd5", "middlebury_motorcycle")]
    sources = tuple(s for s in (*(s for s in training if s.held_out), *unseen) if s.folder.is_dir())
    if not sources:
        raise InputError(f"{root}: holds none of the folders that the model card reports; see docs/nano-depth.md")
    return sources


def evaluate_depth(config: DepthEvaluationConfig, estimator: DepthEstimator) -> DepthEvaluation:
    """Measure the estimator and the rivals.

    Raises:
        InputError: a source cannot be read, or there is nothing to measure.
    """
    rows: list[DepthRow] = []
    for name, frames in _sets(config):
        for hint in config.hints:
            rows += _measure(name, frames, hint, estimator, config.seed)
    if not rows:
        raise InputError("there is nothing to measure; give folders of RGB-D frames or procedural frames")
    return DepthEvaluation(tuple(rows))


def _sets(config: DepthEvaluationConfig) -> list[tuple[str, list[RgbdFrame]]]:
    sets = []
    if config.procedural_count:
        from worldstereo.training.procedural_frames import render_frames

        frames = render_frames(config.procedural_count, config.procedural_seed)
        sets.append(("procedural", frames))
    for source in config.sources:
        frames = read_rgbd_folder(source.folder, config.longest_side)
        sets.append((source.folder.name, split_held_out(frames, source.held_out)[1] if source.held_out else frames))
    return sets


def _measure(
    name: str, frames: list[RgbdFrame], hint_share: float, estimator: DepthEstimator, seed: int
) -> list[DepthRow]:
    figures: dict[str, list[tuple[DepthErrors, DepthErrors, float]]] = {}
    common = union = 0
    for index, frame in enumerate(frames):
        rng = np.random.default_rng((seed, index))
        uniform = torch.from_numpy(rng.random(tuple(frame.depth.shape), dtype=np.float32))
        hint = torch.where(uniform < hint_share, frame.depth, 0.0)
        if int(((frame.depth > 0) & (hint == 0)).sum()) < _MINIMUM_PIXELS:
            continue
        hinted = bool((hint > 0).any())
        prediction = estimator.estimate(frame.image.float() / 255, frame.intrinsics, hint if hinted else None)
        methods = {estimator.name: _disparity(prediction), **_rivals(frame, hint)}
        for method, disparity in methods.items():
            figures.setdefault(method, []).append(_errors(frame, hint, disparity))
        sky = prediction.sky.cpu() & ((frame.depth > 0) | frame.sky)
        common, union = common + int((sky & frame.sky).sum()), union + int((sky | frame.sky).sum())
    has_sky = any(bool(frame.sky.any()) for frame in frames)
    return [
        _row(name, hint_share, method, values, common / union if has_sky and method == estimator.name else None)
        for method, values in figures.items()
    ]


def _row(
    name: str, hint: float, method: str, values: list[tuple[DepthErrors, DepthErrors, float]], sky_iou: float | None
) -> DepthRow:
    shifted, scaled, angles = zip(*values, strict=True)
    dense = [angle for angle in angles if not np.isnan(angle)]
    return DepthRow(
        name,
        len(values),
        hint,
        method,
        float(np.mean([errors.abs_rel for errors in shifted])),
        float(np.mean([errors.delta_1 for errors in shifted])),
        float(np.mean([errors.abs_rel for errors in scaled])),
        float(np.mean([errors.delta_1 for errors in scaled])),
        float(np.mean(dense)) if dense else None,
        sky_iou,
    )


def _disparity(prediction: DepthPrediction) -> Float[Tensor, "h w"]:
    """Disparity of a prediction, 0 where it has no depth."""
    depth = prediction.depth.cpu()
    return torch.where(depth > 0, 1 / depth.clamp(min=1e-12), 0.0)


def _rivals(frame: RgbdFrame, hint: Float[Tensor, "h w"]) -> dict[str, Float[Tensor, "h w"]]:
    """Disparity of the best constant, of the best plane in disparity, and of the hint filled from its surroundings."""
    hinted = bool((hint > 0).any())
    given = hint if hinted else frame.depth
    known = given > 0
    height, width = given.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    plane = torch.stack([torch.ones_like(x), x, y], dim=-1)
    rivals = {}
    for method, basis in (("constant", plane[..., :1]), ("plane", plane)):
        depth = fit_disparity(basis[known], basis.flatten(0, 1), given[known])
        rivals[method] = (1 / depth).view(height, width)
    if hinted:
        inverse = torch.where(known, 1 / given.clamp(min=1e-12), 0.0)
        rivals["filled hint"] = fill_unknown(inverse[None], known[None])[0]
    return rivals


def _errors(
    frame: RgbdFrame, hint: Float[Tensor, "h w"], disparity: Float[Tensor, "h w"]
) -> tuple[DepthErrors, DepthErrors, float]:
    """Errors after scale and shift (as they are, with a hint), after scale alone, and of the normals.

    Surfaces without a prediction (taken for sky) count as wrong in δ and are left out of the other figures.
    """
    known = (frame.depth > 0) & (hint == 0)
    seen = known & (disparity > 0)
    if int(seen.sum()) < _MINIMUM_PIXELS:
        return DepthErrors(1.0, 0.0), DepthErrors(1.0, 0.0), float("nan")
    share = float(seen.sum() / known.sum())
    truth, depth = frame.depth[seen], 1 / disparity[seen]
    if bool((hint > 0).any()):
        shifted = scaled = depth_errors(depth, truth)
    else:
        shifted = depth_errors(align_scale_and_shift(disparity[seen], truth), truth)
        scaled = depth_errors(align_scale(depth, truth), truth)
    shifted, scaled = replace(shifted, delta_1=share * shifted.delta_1), replace(scaled, delta_1=share * scaled.delta_1)
    camera = Cameras(torch.eye(4)[None], frame.intrinsics[None], frame.depth.shape[1], frame.depth.shape[0])
    surface = (frame.depth > 0) & (disparity > 0)
    full = torch.where(surface, 1 / disparity.clamp(min=1e-12), 0.0)
    angle = normal_error_degrees(full, frame.depth, camera.pixel_rays()[0], surface)
    return shifted, scaled, angle
