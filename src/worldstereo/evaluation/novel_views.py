"""Views along the true path of a posed capture, from its first picture alone, against its real frames."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from worldstereo.data.captures import find_captures
from worldstereo.errors import InputError
from worldstereo.evaluation.comparison import ComparisonConfig, compare
from worldstereo.evaluation.ladder_clips import FIRST_SEED, LadderClip, capture_clip, procedural_clip
from worldstereo.evaluation.ladder_figures import clip_figures, path_figures
from worldstereo.evaluation.learned_measures import LearnedMeasures
from worldstereo.evaluation.methods import PULL_PUSH, Method
from worldstereo.evaluation.protocol import (
    PROCEDURAL_SOURCE,
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
    steps_of,
)
from worldstereo.evaluation.report_pictures import labelled_sheet
from worldstereo.evaluation.report_table import Mean
from worldstereo.evaluation.subjects import CAPTURES, PROCEDURAL
from worldstereo.images import save_png
from worldstereo.pipelines.generator import ClipConditions

FRAMES = 13
"""Of a clip, where no model says another number."""

VIEW_FIGURES = (
    Figure("psnr", "PSNR", 2, "higher", compared=True),
    Figure("ssim", "SSIM", 3, "higher", compared=True),
    Figure("psnr_known", "PSNR_m", 2, "higher", compared=True),
    Figure("psnr_unseen", "PSNR unseen", 2, "higher"),
    Figure("gradient_unseen", "gradient energy", 2, "1"),
    Figure("texture_unseen", "texture distance", 4, "lower"),
    Figure("rotation_error", "RotErr °", 2, "lower"),
    Figure("translation_error", "TransErr %", 2, "lower"),
    Figure("cameras_lost", "cameras not found", 1, "lower"),
    Figure("seconds", "s per clip", 1, "lower"),
)

TRUTH = "truth"
"""The row of figures that need no truth; there is none without such."""

_PROCEDURAL_SHAPE = (832, 480)

VIEW_NOTES = """\
Means over clips ± standard error (95 % intervals in the JSON), without each clip's first frame, which is all that is
given, with its depth: exact (procedural), stored with the capture, or estimated and brought to the cameras' unit, as
stated. PSNR in dB of all pixels of a clip together. PSNR_m counts the pixels inside the valid warp mask, where the
points of the first frame show something; "unseen" are the others whose truth is known: there PSNR favours smooth
guesses, and gradient energy (1 = the truth's) and texture distance (0 = the truth's) say whether something is invented
at all. RotErr and TransErr (mean, of the path's length): cameras that direct alignment of the true surfaces with the
frames finds, starting from the commanded ones, unaligned; those not found are counted. LPIPS, where its weights are
given, is the mean over the frames, and LPIPS unseen that of its map over the unseen pixels. Figures of quality look at
frames alone; the row "truth" is what the real frames have."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig(ComparisonConfig):
    """What to evaluate of views, beside their truth.

    Attributes:
        lpips_weights: folder of the weights of LPIPS, which is skipped without; see `PerceptualDistance.load`.
        quality: figures of frames alone; see `create_quality_measure`.
    """

    lpips_weights: Path | None = None
    quality: tuple[str, ...] = ()

    def measures(self) -> LearnedMeasures:
        """The figures of networks that were asked for.

        Raises:
            InputError: their weights cannot be loaded.
        """
        return LearnedMeasures.load(self.lpips_weights, self.quality, self.device)

    def settings(self) -> dict[str, Any]:
        """Without the places of weights: what those are is said by `LearnedMeasures.facts`."""
        values = super().settings()
        return {name: value for name, value in values.items() if name not in ("lpips_weights", "quality")}


@dataclass(frozen=True, kw_only=True)
class NovelViewsConfig(ViewsConfig):
    """What to evaluate; `depth` is for captures that have none."""


def evaluate_novel_views(config: NovelViewsConfig, on_progress: OnProgress = silent) -> Path:
    """Make and measure the clips that are not there yet, then write the tables; gives `novel-views.md`.

    `out` gets `clips/` with one result file each, `sheets/` with their frames, `novel-views.json`, `novel-views.md` and
    bars. Captures that are too short are left out, with the reason.

    Raises:
        InputError: a model, weights or a capture cannot be read, models differ in the size of their clips, or `out`
            holds results of other settings.
    """
    methods, measures = config.methods(), config.measures()
    tasks, skipped = _tasks(config, methods)
    protocol = Protocol(
        name="novel-views",
        title="Novel views",
        item="clip",
        figures=(*VIEW_FIGURES, *measures.figures),
        rows=(Reference(TRUTH), *methods),
        notes=VIEW_NOTES,
        comparisons=(Comparison(PULL_PUSH),),
        about=about_clips,
    )
    items = [
        Item(task.name, task.source, partial(_measure, config, methods, measures, task.name, task.make))
        for task in tasks
    ]
    skipped |= measures.skipped
    return compare(config, protocol, items, on_progress, measured_by=measures.facts, skipped=skipped)


def clip_shape(config: ComparisonConfig, methods: Sequence[Method], width: int, height: int) -> tuple[int, int]:
    """(width, height) of the clips of a picture, equal in all rows.

    Raises:
        InputError: models make clips of different sizes or numbers of frames.
    """
    made = {method.name: method.create() for method in methods}
    shapes = {name: (g.frames, *g.clip_size(width, height, config.short_side)) for name, g in made.items()}
    if len(set(shapes.values())) > 1:
        text = ", ".join(f"{name}: {shape[0]} of {shape[1]}×{shape[2]}" for name, shape in shapes.items())
        raise InputError(f"--model: clips of one table must have one size ({text}); evaluate the models one by one")
    _, *size = next(iter(shapes.values()))
    return size[0], size[1]


def show(
    clip: LadderClip, methods: Sequence[Method], seed: int, on_progress: OnProgress
) -> tuple[dict[str, Float[Tensor, "f 3 h w"]], dict[str, float]]:
    """The frames of all rows along a clip's cameras, from its first frame alone, and the seconds that they took."""
    frames, seconds = {}, {}
    for number, method in enumerate(methods):
        generator = method.create()
        conditions = ClipConditions(
            cameras=clip.cameras,
            image=clip.frames[0],
            guidance=generator.render_guidance(clip.first_cloud, clip.cameras),
            references=clip.references,
            seed=seed,
        )
        report = steps_of(on_progress, method.name, number / len(methods), 1 / len(methods))
        began = time.perf_counter()
        frames[method.name] = generator.generate(conditions, report)
        seconds[method.name] = time.perf_counter() - began
    return frames, seconds


def view_figures(
    frames: Float[Tensor, "f 3 h w"], clip: LadderClip, measures: LearnedMeasures
) -> dict[str, float | None]:
    """The figures of `VIEW_FIGURES` but the seconds, and of `measures`, of frames along a clip's cameras."""
    mask = clip.regions["known"] | clip.regions["seen"]
    figures = clip_figures(frames, clip.frames, clip.regions)
    figures |= measures.of(frames, clip.frames, clip.regions["unseen"])
    return figures | path_figures(frames, clip.frames, clip.depth, clip.cameras, mask)


def about_clips(clips: Sequence[Result]) -> str:
    """Where depth comes from, and how much the first frame shows."""
    sources = ", ".join(sorted({clip["depth"] for clip in clips}))
    known = Mean.of(clip["known"] for clip in clips)
    share = "" if known is None else f" The first frame's points show {100 * known.value:.1f} % of the pixels."
    return f"Depth: {sources}.{share} Clips: {', '.join(clip['name'] for clip in clips)}."


def clip_result(
    name: str, clip: LadderClip, rows: Mapping[str, dict[str, float | None]], failures: Mapping[str, str]
) -> Result:
    """What is kept of a clip."""
    known = float(clip.regions["known"][1:].float().mean())
    facts = {"name": name, "group": clip.group, "depth": clip.depth_source, "known": known}
    return {**facts, "rows": dict(rows), "failures": dict(failures)}


def save_sheet(out: Path, name: str, clip: LadderClip, frames: Mapping[str, Float[Tensor, "f 3 h w"]]) -> None:
    """A stripe of the truth and of each row, to look at."""
    save_png(out / "sheets" / f"{name}.png", labelled_sheet({TRUTH: clip.frames, **frames}))


def _measure(
    config: NovelViewsConfig,
    methods: Sequence[Method],
    measures: LearnedMeasures,
    name: str,
    make: Callable[[], LadderClip],
    on_progress: OnProgress,
) -> Result:
    on_progress("reading the clip", 0.0)
    clip = make()
    frames, seconds = show(clip, methods, seed_of(config.seed, name), on_progress)
    rows = {row: view_figures(made, clip, measures) | {"seconds": seconds[row]} for row, made in frames.items()}
    rows[TRUTH] = dict(measures.of_truth(clip.frames))
    save_sheet(config.out, name, clip, frames)
    return clip_result(name, clip, rows, {})


@dataclass(frozen=True)
class _Task:
    """A clip to be made: its name, the source of its data, and how its world comes about."""

    name: str
    source: str
    make: Callable[[], LadderClip]


def _tasks(config: NovelViewsConfig, methods: Sequence[Method]) -> tuple[list[_Task], dict[str, str]]:
    """The clips, and captures that are left out, with reasons."""
    count = methods[-1].create().frames or config.frames or FRAMES
    tasks: list[_Task] = []
    skipped: dict[str, str] = {}
    for number in range(config.scenes):
        size = clip_shape(config, methods, *_PROCEDURAL_SHAPE)
        make = partial(_procedural, number, *size, count, config.device)
        tasks.append(_Task(f"procedural-{FIRST_SEED + number}", PROCEDURAL_SOURCE, make))
    if config.data is not None:
        estimator = config.maker().depth
        captures = find_captures(config.data)
        for name, (place, capture) in zip(file_names(captures), captures.items(), strict=True):
            video = capture.video
            size = clip_shape(config, methods, video.cameras.width, video.cameras.height)
            if len(video) < 4:
                skipped[place] = f"a capture of {len(video)} frames is too short for a clip"
                continue
            make = partial(capture_clip, video, *size, count, estimator, CAPTURES)
            tasks.append(_Task(name, fingerprint(*video.identity()), partial(_alone, make)))
    if not tasks:
        raise InputError(f"{config.data}: no capture there is long enough for a clip; give --scenes or other captures")
    return tasks, skipped


def _alone(make: Callable[[], LadderClip]) -> LadderClip:
    """A clip of which nothing but the first frame was seen before."""
    return replace(make(), earlier=())


def _procedural(number: int, width: int, height: int, frames: int, device: str) -> LadderClip:
    return replace(procedural_clip(number, width, height, frames, device), earlier=(), group=PROCEDURAL)
