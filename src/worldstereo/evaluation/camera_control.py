"""Do generated frames show what the commanded cameras would see? Poses are recovered from them and compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import BusyError, FullDiskError, InputError, MissingExtraError
from worldstereo.evaluation import structure_from_motion
from worldstereo.evaluation.camera_metrics import CameraErrors, camera_errors
from worldstereo.evaluation.camera_recovery import recover_camera
from worldstereo.evaluation.comparison import PathsConfig, compare
from worldstereo.evaluation.methods import PULL_PUSH, Method
from worldstereo.evaluation.protocol import (
    Comparison,
    Figure,
    Item,
    OnProgress,
    Protocol,
    Reference,
    Result,
    part_of,
    silent,
)
from worldstereo.evaluation.reference_depth import EXACT
from worldstereo.evaluation.reprojection import View, seen_in
from worldstereo.evaluation.subjects import Subject
from worldstereo.evaluation.worlds import WorldMaker

TRUTH = "truth"
"""The row of the true scene's frames along the commanded path: what the estimator makes of frames without fault."""

PATHS = (
    "orbit-left:15",
    "orbit-right:15",
    "orbit-up:10",
    "dolly-in:0.2",
    "truck-right:0.15",
    "dolly-in:0.15+pan-left:15",
)

RIGHT_DEGREES, RIGHT_PERCENT = 5.0, 5.0

_FEWEST = 3
_ESTIMATORS = {
    "sfm": "COLMAP (pycolmap) on each clip alone, known intrinsics held fixed; similarity alignment: rotations and "
    "positions relative to the first frame found, positions scaled by least squares (TransErr), Umeyama (ATE)",
    "photometric": "direct alignment of the true surfaces that the picture shows with each frame, started from the "
    "commanded camera; no alignment (ATE: rigid), the unit is the scene's",
}

_NOTES = f"""\
Means over pictures (of their paths first) ± standard error (95 % intervals in the JSON). Each clip leaves from the
picture alone. Lengths are in percent of the commanded path's. RotErr, TransErr and ATE are means over the frames whose
camera was found; what was not found is counted beside them: "frames lost" of the frames after the first, "clips failed"
where fewer than {_FEWEST} frames were found or nothing could be aligned (all their frames count as lost). "Right" is
the share of all frames after the first that were found within {RIGHT_DEGREES:g}° and {RIGHT_PERCENT:g} % of the path's
length: there failures are misses, so it is the column to compare rows by. "Truth" is what the estimator makes of the
true scene's frames along the same path; no generator can be expected to pass it. A picture that does not move at all
(nearest frame) has no scale and fails."""

_FIGURES = (
    Figure("right", "right %", 1, "higher", compared=True),
    Figure("rotation_error", "RotErr °", 2, "lower"),
    Figure("translation_error", "TransErr %", 2, "lower"),
    Figure("ate", "ATE %", 2, "lower"),
    Figure("lost", "frames lost %", 1, "lower"),
    Figure("failed", "clips failed %", 0, "lower"),
)

_FAILED: dict[str, float | None] = {
    "right": 0.0,
    "rotation_error": None,
    "translation_error": None,
    "ate": None,
    "lost": 100.0,
    "failed": 100.0,
}

Recover = Callable[[Float[Tensor, "f 3 h w"], Cameras], "list[Float[Tensor, '4 4'] | None]"]
"""`cam_from_world` of frames along commanded cameras, None where it is not found."""


@dataclass(frozen=True, kw_only=True)
class CameraControlConfig(PathsConfig):
    """What to evaluate.

    Attributes:
        data: captures, whose first frames are taken, or a folder of photographs.
        trajectories: a clip of each for every picture.
        estimator: "sfm"; or "photometric", for procedural scenes with exact depth alone.
    """

    trajectories: tuple[str, ...] = PATHS
    estimator: Literal["sfm", "photometric"] = "sfm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator == "sfm" and not structure_from_motion.is_available():
            raise InputError(
                f"{MissingExtraError('pycolmap', 'sfm', 'camera control by structure from motion')}; or use "
                f"--estimator photometric --depth exact, on procedural scenes"
            )
        if self.estimator == "photometric" and (self.data is not None or self.depth != EXACT):
            raise InputError(
                "--estimator photometric needs the truth from everywhere: use it with --depth exact and without --data"
            )


def evaluate_camera_control(config: CameraControlConfig, on_progress: OnProgress = silent) -> Path:
    """Make and measure the clips that are not there yet, then write the tables; gives `camera-control.md`.

    `out` gets `clips/` with one result file each, `worlds/` with all worlds, `camera-control.json`, `camera-control.md`
    and bars.

    Raises:
        InputError: pycolmap is not there, a model or picture cannot be read, or `out` holds results of other settings.
    """
    methods, maker = config.methods(), config.maker()
    items = [
        Item(
            f"{subject.name}-{_file_name(path)}",
            subject.source,
            partial(_measure, config, methods, maker, subject, path),
        )
        for subject in config.subjects(photos=True)
        for path in config.trajectories
    ]
    protocol = Protocol(
        name="camera-control",
        title="Camera control",
        item="clip",
        figures=_FIGURES,
        rows=(Reference(TRUTH), *methods),
        notes=_NOTES,
        comparisons=(Comparison(PULL_PUSH),),
        about=_about,
    )
    facts = {"paths": " ".join(config.trajectories), "estimator": _ESTIMATORS[config.estimator]}
    return compare(config, protocol, items, on_progress, facts=facts)


def control_figures(
    found: Sequence[Float[Tensor, "4 4"] | None], commanded: Cameras, *, metric: bool = False
) -> tuple[dict[str, float | None], str]:
    """The figures of a clip, and why it failed (empty if it did not).

    Args:
        found: `cam_from_world` of each frame, or none.
        metric: both have one world and unit; nothing is aligned.
    """
    there = [k for k, pose in enumerate(found) if pose is not None]
    if len(there) < _FEWEST:
        return dict(_FAILED), f"the cameras of {len(there)} of {len(found)} frames were found"
    recovered = commanded[there]
    poses = torch.stack([pose for pose in found if pose is not None])
    recovered = Cameras(poses.float(), recovered.intrinsics, commanded.width, commanded.height)
    errors = camera_errors(recovered, commanded[there], metric=metric)
    length = float((commanded.centers[1:] - commanded.centers[:-1]).norm(dim=1).sum())
    if errors.translation is None or errors.ate is None or length <= 0:
        return dict(_FAILED), errors.note or "the commanded path does not move"
    right = _right(errors, length)
    return {
        "right": 100 * right / (len(found) - 1),
        "rotation_error": errors.rotation_degrees,
        "translation_error": 100 * errors.translation / length,
        "ate": 100 * errors.ate / length,
        "lost": 100 * (len(found) - len(there)) / (len(found) - 1),
        "failed": 0.0,
    }, ""


def _right(errors: CameraErrors, length: float) -> int:
    pairs = zip(errors.rotations_degrees, errors.translations, strict=True)
    return sum(angle <= RIGHT_DEGREES and 100 * distance <= RIGHT_PERCENT * length for angle, distance in pairs)


def _measure(
    config: CameraControlConfig,
    methods: Sequence[Method],
    maker: WorldMaker,
    subject: Subject,
    path: str,
    on_progress: OnProgress,
) -> Result:
    rows: dict[str, dict[str, float | None]] = {}
    failures: dict[str, str] = {}
    folder = config.out / "worlds" / f"{subject.name}-{_file_name(path)}"
    metric = config.estimator == "photometric"
    for number, method in enumerate(methods):
        report = part_of(on_progress, method.name, number / len(methods), 0.8 / len(methods))
        try:
            (clip,) = maker.make(subject, method, (path,), folder, report).clips
        except (FullDiskError, BusyError):
            raise
        except InputError as error:
            rows[method.name] = dict(_FAILED)
            failures[method.name] = str(error)
            continue
        truth = None if subject.scene is None else subject.scene.render(clip.cameras.to(subject.scene.walks.device))
        recover = _recover_by_sfm(config.seed)
        if metric:
            assert truth is not None
            recover = partial(_recover_photometrically, truth.rgb.cpu(), truth.depth.cpu(), truth.sky.cpu())
        shown = {method.name: clip.frames}
        if truth is not None and TRUTH not in rows:
            shown[TRUTH] = truth.rgb.clamp(0, 1).cpu()
        for row, frames in shown.items():
            on_progress(f"{row}: recovering cameras", (number + 0.8) / len(methods))
            try:
                rows[row], reason = control_figures(recover(frames, clip.cameras), clip.cameras, metric=metric)
            except MissingExtraError:
                raise
            except InputError as error:
                rows[row], reason = dict(_FAILED), str(error)
            if reason:
                failures[row] = reason
    return {
        "name": f"{subject.name}-{_file_name(path)}",
        "scene": subject.name,
        "group": subject.group,
        "path": path,
        "depth": maker.depth_name(subject),
        "rows": rows,
        "failures": failures,
    }


def _recover_by_sfm(seed: int) -> Recover:
    return partial(structure_from_motion.recover_cameras, seed=seed)


def _recover_photometrically(
    truth: Float[Tensor, "f 3 h w"],
    depth: Float[Tensor, "f h w"],
    sky: Bool[Tensor, "f h w"],
    frames: Float[Tensor, "f 3 h w"],
    cameras: Cameras,
) -> list[Float[Tensor, "4 4"] | None]:
    """The first frame is given, so its camera is; of the others the surfaces that the first frame shows are aligned."""
    views = list(map(View, cameras, depth, sky))
    poses: list[Float[Tensor, "4 4"] | None] = [cameras.cam_from_world[0]]
    for k in range(1, len(frames)):
        found = recover_camera(frames[k], truth[k], depth[k], cameras[k], seen_in(views[k], views[0])[1])
        poses.append(None if found is None else found.cam_from_world[0])
    return poses


def _file_name(path: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-.+" else "-" for letter in path)


def _about(clips: Sequence[Result]) -> str:
    pictures = dict.fromkeys(clip["scene"] for clip in clips)
    depths = ", ".join(sorted({clip["depth"] for clip in clips}))
    return f"{len(pictures)} pictures: {', '.join(pictures)}. Depth: {depths}."
