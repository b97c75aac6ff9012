"""Somebody else's outputs, a folder of frames with cameras, against the truth, in one table with the baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.captures import Capture, find_captures
from worldstereo.data.posed_video import PosedVideo, read_posed_video
from worldstereo.errors import InputError
from worldstereo.evaluation.camera_metrics import align_cameras, camera_errors
from worldstereo.evaluation.comparison import compare
from worldstereo.evaluation.ladder_clips import LadderClip, clip_of_frames
from worldstereo.evaluation.learned_measures import LearnedMeasures
from worldstereo.evaluation.methods import CONSTANT_DEPTH, PULL_PUSH, Method
from worldstereo.evaluation.novel_views import (
    TRUTH,
    VIEW_FIGURES,
    VIEW_NOTES,
    ViewsConfig,
    about_clips,
    clip_result,
    clip_shape,
    save_sheet,
    show,
    view_figures,
)
from worldstereo.evaluation.protocol import (
    Comparison,
    Figure,
    Item,
    OnProgress,
    Protocol,
    Reference,
    Result,
    file_names,
    fingerprint,
    seed_of,
    silent,
)
from worldstereo.evaluation.subjects import CAPTURES
from worldstereo.evaluation.surfaces import CLOUD_FIGURES, Surface, capture_surface, cloud_figures, read_points

CLOUD_FILES = ("point_cloud.ply", "points.ply", "fused.ply", "points.npz")

_NOTES = f"""\
{VIEW_NOTES} Rows of other people's outputs are scored as their files are: frames resized to the truth's (cropped in the
middle where the shape differs), "stated" errors from the cameras that lie beside them, after a similarity alignment of
the positions (rotations relative to the first frame). Their clouds are brought to the truth by the similarity of the
stated cameras (Umeyama's of their positions; along a straight path the turn about it is the orientations'); the
baselines' clouds are the first frame's points (pull-push) and that frame as a plane (constant depth), in the truth's
unit. Cloud lengths are relative to the scene's size. What cannot be read or has frames
missing is a failure, and counts as one."""

_OUTPUT_FIGURES = (
    *VIEW_FIGURES,
    Figure("stated_rotation", "stated RotErr °", 2, "lower"),
    Figure("stated_translation", "stated TransErr %", 2, "lower"),
    Figure("stated_ate", "stated ATE %", 2, "lower"),
    *CLOUD_FIGURES,
    Figure("failed", "failed %", 0, "lower"),
)


@dataclass(frozen=True)
class Output:
    """A row of somebody's outputs.

    Attributes:
        name: of the row.
        folder: of the only capture's frames, or with a subfolder for each capture.
    """

    name: str
    folder: Path
    learned: bool = True
    rival: str | None = PULL_PUSH

    @classmethod
    def parse(cls, text: str) -> "Output":
        """NAME=FOLDER.

        Raises:
            InputError: there is no such folder, or no name.
        """
        name, equals, folder = text.partition("=")
        if not equals or not name:
            raise InputError(f"--output {text}: must be NAME=FOLDER, such as mine=results/mine")
        if not Path(folder).is_dir():
            raise InputError(f"--output {text}: {folder} is no folder")
        return cls(name, Path(folder))

    def of(self, capture: str, only: bool) -> Path:
        """The folder of a capture's frames."""
        inside = self.folder / capture
        return self.folder if only and not inside.is_dir() else inside


@dataclass(frozen=True, kw_only=True)
class OutputsConfig(ViewsConfig):
    """What to evaluate.

    Attributes:
        outputs: NAME=FOLDER of each.
    """

    scenes: int = 0
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data is None or not self.outputs:
            raise InputError("there is nothing to compare: give the truth with --data and outputs with --output")
        super().__post_init__()


def evaluate_outputs(config: OutputsConfig, on_progress: OnProgress = silent) -> Path:
    """Score outputs, and the baselines and models along the same frames; gives `outputs.md`.

    Frames of an output belong to the truth's pictures of the same file name (without suffix), or one to one in order
    where their numbers are equal. The frames of the first output that can be read make up the clip; its first frame is
    what baselines and models are given.

    Raises:
        InputError: the truth or weights cannot be read, no output has frames of a capture, or `out` holds results of
            other settings.
    """
    assert config.data is not None
    methods, outputs = config.methods(), tuple(Output.parse(text) for text in config.outputs)
    measures = config.measures()
    taken = {TRUTH, *(method.name for method in methods)}
    for output in outputs:
        if output.name in taken:
            raise InputError(f"--output {output.name}: the table has a row of that name already; choose another name")
        taken.add(output.name)
    captures = find_captures(config.data)
    protocol = Protocol(
        name="outputs",
        title="Outputs against the truth",
        item="clip",
        figures=(*_OUTPUT_FIGURES, *measures.figures),
        rows=(Reference(TRUTH), *methods, *outputs),
        notes=_NOTES,
        comparisons=(Comparison(PULL_PUSH),),
        about=about_clips,
    )
    items, skipped = [], measures.skipped
    for name, (place, capture) in zip(file_names(captures), captures.items(), strict=True):
        found = _Found.of({output.name: output.of(place, len(captures) == 1) for output in outputs}, capture.video)
        if found.numbers:
            videos = (capture.video, *found.videos.values())
            source = fingerprint(*(part for video in videos for part in video.identity()))
            items.append(Item(name, source, partial(_measure, config, methods, measures, name, capture, found)))
        else:
            skipped[place] = next(iter(found.failures.values()))
    if not items:
        raise InputError(f"no output can be compared: {next(reversed(skipped.values()))}")
    return compare(config, protocol, items, on_progress, measured_by=measures.facts, skipped=skipped)


@dataclass(frozen=True)
class _Found:
    """What outputs there are of a capture.

    Attributes:
        folders: by row.
        videos: those that can be read.
        numbers: of those that fit the capture, the numbers of its pictures that their frames show.
        failures: why others are not there.
    """

    folders: Mapping[str, Path]
    videos: Mapping[str, PosedVideo]
    numbers: Mapping[str, list[int]]
    failures: Mapping[str, str]

    @classmethod
    def of(cls, folders: Mapping[str, Path], truth: PosedVideo) -> "_Found":
        """Read them; pictures are not."""
        videos, numbers, failures = {}, {}, {}
        for row, folder in folders.items():
            try:
                videos[row] = read_posed_video(folder)
                numbers[row] = matching(videos[row], truth)
            except InputError as error:
                failures[row] = str(error)
        return cls(folders, videos, numbers, failures)


def matching(frames: PosedVideo, truth: PosedVideo) -> list[int]:
    """For each frame the number of the truth's picture that it shows.

    Raises:
        InputError: frames have other names than the truth's pictures, and another number; or fewer than two match.
    """
    places = {picture.stem: number for number, picture in enumerate(truth.pictures)}
    stems = [picture.stem for picture in frames.pictures]
    if len(set(stems)) == len(stems) >= 2 and all(stem in places for stem in stems):
        return [places[stem] for stem in stems]
    if len(frames) == len(truth) >= 2:
        return list(range(len(truth)))
    raise InputError(
        f"{frames.pictures[0].parent}: its {len(frames)} frames are neither named as the truth's pictures nor as many "
        f"({len(truth)}), or fewer than two; name each after the picture that it shows"
    )


def stated_errors(stated: Cameras, truth: Cameras) -> dict[str, float | None]:
    """Of cameras in a world of their own: degrees, and percent of the true path's length; none where that is 0."""
    errors = camera_errors(stated, truth)

    def share(length: float | None) -> float | None:
        return None if length is None or errors.path_length <= 0 else 100 * length / errors.path_length

    return {
        "stated_rotation": errors.rotation_degrees,
        "stated_translation": share(errors.translation),
        "stated_ate": share(errors.ate),
    }


def _measure(
    config: OutputsConfig,
    methods: Sequence[Method],
    measures: LearnedMeasures,
    name: str,
    capture: Capture,
    found: "_Found",
    on_progress: OnProgress,
) -> Result:
    on_progress("reading the truth", 0.0)
    failures, remarks = dict(found.failures), dict[str, str]()
    targets = sorted(next(iter(found.numbers.values())))
    size = clip_shape(config, methods, capture.video.cameras.width, capture.video.cameras.height)
    clip = clip_of_frames(capture.video, targets, *size, config.maker().depth, CAPTURES)
    surface = capture_surface(capture)
    able = [m for m in methods if not m.learned or m.create().frames in (None, len(targets))]
    failures |= {m.name: f"makes {m.create().frames} frames, not {len(targets)}" for m in methods if m not in able}
    frames, seconds = show(clip, able, seed_of(config.seed, name), on_progress)
    rows = {row: view_figures(made, clip, measures) | {"seconds": seconds[row]} for row, made in frames.items()}
    for row, cloud in _baseline_clouds(clip).items():
        if surface is not None and row in rows:
            rows[row] |= cloud_figures(cloud, surface)
    for row, numbers in found.numbers.items():
        try:
            frames[row], figures = _of_output(row, found.videos[row], numbers, targets, clip, measures)
        except InputError as error:
            failures[row] = str(error)
            continue
        try:
            rows[row] = figures | _cloud_of_output(found.folders[row], found.videos[row], capture, numbers, surface)
        except InputError as error:
            rows[row] = figures
            remarks[row] = f"no figures of the cloud: {error}"
    for row in failures:
        rows[row] = {"failed": 100.0}
    for figures in rows.values():
        figures.setdefault("failed", 0.0)
    rows[TRUTH] = dict(measures.of_truth(clip.frames))
    save_sheet(config.out, name, clip, frames)
    return clip_result(name, clip, rows, failures | remarks)


def _of_output(
    row: str,
    video: PosedVideo,
    numbers: Sequence[int],
    targets: Sequence[int],
    clip: LadderClip,
    measures: LearnedMeasures,
) -> tuple[Float[Tensor, "f 3 h w"], dict[str, float | None]]:
    """The frames that show the clip's pictures, and their figures."""
    place = {number: index for index, number in enumerate(numbers)}
    if missing := [number for number in targets if number not in place]:
        raise InputError(f"{row}: has no frame for {len(missing)} of the {len(targets)} pictures of the clip")
    chosen = [place[number] for number in targets]
    width, height = clip.cameras.width, clip.cameras.height
    loaded = video.load(chosen, width, height)
    frames = loaded.frames.float() / 255
    return frames, view_figures(frames, clip, measures) | stated_errors(loaded.cameras, clip.cameras)


def _cloud_of_output(
    folder: Path, video: PosedVideo, capture: Capture, numbers: Sequence[int], surface: Surface | None
) -> dict[str, float | None]:
    """Figures of the cloud beside the frames, if there is one and a truth to compare it with.

    Raises:
        InputError: it cannot be read, or the stated cameras do not move.
    """
    path = next((folder / name for name in CLOUD_FILES if (folder / name).is_file()), None)
    if surface is None or path is None:
        return {}
    alignment = align_cameras(video.cameras, capture.video.cameras[list(numbers)])
    if alignment is None:
        raise InputError(f"{path}: cannot be aligned by the stated cameras, which do not move")
    return cloud_figures(alignment.apply(read_points(path).double()).float(), surface)


def _baseline_clouds(clip: LadderClip) -> dict[str, Float[Tensor, "p 3"]]:
    """Of rows that know the first frame alone."""
    depth, camera = clip.depth[0], clip.cameras[0]
    plane = camera.unproject(torch.full_like(depth, float(depth[depth > 0].median()))[None])[0]
    return {PULL_PUSH: clip.first_cloud.cloud.points, CONSTANT_DEPTH: plane.flatten(0, 1)}
