"""The ladder: the paper's ablation and its baselines on the same clips, at equal seeds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import worldstereo
from worldstereo.data.posed_video import read_posed_video
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import InputError
from worldstereo.evaluation.ladder_clips import (
    FIRST_SEED,
    LadderClip,
    capture_clip,
    find_captures,
    procedural_clip,
    split_capture,
)
from worldstereo.evaluation.ladder_figures import clip_figures, path_figures
from worldstereo.evaluation.ladder_report import ladder_protocol
from worldstereo.evaluation.protocol import (
    PROCEDURAL_SOURCE,
    Item,
    OnProgress,
    Result,
    file_names,
    fingerprint,
    measured_with,
    run_items,
    seed_of,
    silent,
    steps_of,
)
from worldstereo.evaluation.protocol_report import write_report
from worldstereo.evaluation.report_pictures import labelled_sheet
from worldstereo.evaluation.revisits import Crossing, fly, revisit_figures
from worldstereo.evaluation.rungs import TRUTH, Makers, Rung, find_makers
from worldstereo.files import read_json
from worldstereo.images import save_png
from worldstereo.models.hub import weights_fingerprint
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.world import Settings

_COSTS = {"teacher": 10.0, "student": 1.0}  # roughly, of a clip, for the progress
_RECIPES = resources.files("worldstereo") / "weights" / "nano" / "recipes"


@dataclass(frozen=True)
class LadderConfig:
    """What to evaluate.

    Attributes:
        model: in the paper's layout, as `--model` takes it.
        out: folder of the results.
        data: folder of posed captures; none for procedural scenes alone.
        scenes: number of procedural scenes.
        steps: of the teacher; the model's if none.
        revisits: whether two more clips of every procedural scene are made, whose paths meet.
        depth: back-end for captures without depth.
        seed: of the noise: a clip starts from that of (seed, the clip's name), in every row.
    """

    model: str
    out: Path
    data: Path | None = None
    scenes: int = 8
    steps: int | None = None
    revisits: bool = True
    depth: str = "nano"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 0 or (self.scenes == 0 and self.data is None):
            raise InputError(f"--scenes {self.scenes}: there is nothing to evaluate; give scenes or --data")
        Settings(seed=self.seed)  # says what is out of range

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        values = {name: value for name, value in asdict(self).items() if name not in ("out", "scenes", "data")}
        return values | {"weights": weights_fingerprint(self.model), "software": worldstereo.__version__}


@dataclass(frozen=True)
class _Task:
    """A clip to be made: its name, the source of its data, and how its world comes about."""

    name: str
    source: str
    make: Callable[[], LadderClip]
    scene: int | None


def evaluate_ladder(config: LadderConfig, on_progress: OnProgress = silent) -> Path:
    """Make and measure all clips that are not there yet, then write tables and pictures; gives `ladder.md`.

    `out` gets `clips/` with one result file for each clip, `sheets/` with its pictures, `ladder.json`, `ladder.md`
    and a picture with bars for each set. A run that was stopped goes on with the clip it was at. More scenes or
    captures may be added to the same folder later.

    Raises:
        InputError: the model or a capture cannot be read, or `out` holds results of other settings.
    """
    makers = find_makers(config.model, config.steps, config.device)
    tasks, left_out = _tasks(config, makers)
    protocol = ladder_protocol(makers.rungs)
    items = [Item(task.name, task.source, partial(_evaluate_clip, config, makers, task)) for task in tasks]
    results = run_items(config.out, protocol, config.settings(), items, on_progress)
    return write_report(config.out, protocol, results, _facts(config, makers), makers.skipped | left_out)


def _tasks(config: LadderConfig, makers: Makers) -> tuple[list[_Task], dict[str, str]]:
    """The clips, and captures that are left out, with reasons."""
    size = makers.width, makers.height, makers.frames
    tasks = []
    for number in range(config.scenes):
        name = f"procedural-{FIRST_SEED + number}"
        tasks.append(_Task(name, PROCEDURAL_SOURCE, partial(procedural_clip, number, *size, config.device), number))
    left_out = {}
    if config.data is not None:
        trained = trained_on()
        estimator = create_depth_estimator(config.depth, device=config.device)
        captures = find_captures(config.data)
        for plain, (place, folder) in zip(file_names(captures), captures.items(), strict=True):
            video = read_posed_video(folder)
            try:
                split_capture(video.cameras, makers.frames)
            except InputError as error:
                left_out[place] = str(error)
                continue
            group = "captures, trained on" if folder.name in trained else "captures, unseen"
            source = fingerprint(*video.identity())
            tasks.append(_Task(f"capture-{plain}", source, partial(capture_clip, video, *size, estimator, group), None))
    if not tasks:
        raise InputError(f"{config.data}: no capture there is long enough for a clip; give --scenes or other captures")
    return tasks, left_out


def trained_on() -> frozenset[str]:
    """Names of the folders that the shipped recipes train on."""
    recipes = (read_json(Path(str(file))) for file in _RECIPES.iterdir() if file.name.endswith(".json"))
    return frozenset(source["folder"] for r in recipes for source in r.get("sources", ()) if source.get("folder"))


def _evaluate_clip(config: LadderConfig, makers: Makers, task: _Task, on_progress: OnProgress) -> Result:
    on_progress("making the scene", 0.0)
    clip = task.make()
    crossing = None
    if config.revisits and task.scene is not None:
        scene = ProceduralScene.sample(FIRST_SEED + task.scene, device=config.device)
        crossing = Crossing.of(scene, clip.cameras)
    seed = seed_of(config.seed, task.name)
    truth, regions = clip.frames, clip.regions
    stripes = {TRUTH: truth}
    rows: dict[str, dict[str, float | None]] = {}
    if crossing is not None:
        rows[TRUTH] = revisit_figures(*crossing.frames, crossing)
    steps = _Steps(on_progress, makers.rungs, 1 if crossing is None else 3)
    for rung in makers.rungs:
        generator = makers.create[rung.maker]()
        conditions = _conditions(clip, rung, generator, seed)
        if rung.maker == "pull-push":
            stripes[f"cloud of {rung.name}"] = conditions.guidance.rgb
        report = steps.of(rung, 1)
        began = time.perf_counter()
        frames = generator.generate(conditions, report)
        seconds = time.perf_counter() - began
        rows[rung.name] = clip_figures(frames, truth, regions) | {"seconds": seconds}
        rows[rung.name] |= path_figures(frames, truth, clip.depth, clip.cameras, regions["known"] | regions["seen"])
        stripes[rung.name] = frames
        if crossing is not None:
            first, second = fly(generator, rung, crossing, seed, steps.of(rung, 2))
            rows[rung.name] |= revisit_figures(first, second, crossing)
    save_png(config.out / "sheets" / f"{task.name}.png", labelled_sheet(stripes))
    shares = {name: float(region[1:].float().mean()) for name, region in regions.items()}
    return {"name": clip.name, "group": clip.group, "depth": clip.depth_source, "shares": shares, "rows": rows}


class _Steps:
    """How much of a clip's work is done."""

    def __init__(self, on_progress: OnProgress, rungs: Sequence[Rung], clips: int) -> None:
        self._on_progress = on_progress
        self._total = clips * sum(_cost(rung) for rung in rungs)
        self._begun = 0.0

    def of(self, rung: Rung, clips: int) -> Callable[[int, int], None]:
        """What a row calls with (steps done, steps in all) of its next clips."""
        before, cost = self._begun, clips * _cost(rung)
        self._begun += cost
        return steps_of(self._on_progress, rung.name, before / self._total, cost / self._total)


def _conditions(clip: LadderClip, rung: Rung, generator: VideoGenerator, seed: int) -> ClipConditions:
    """What a row is given for a clip."""
    cloud = clip.grown_cloud if rung.grown else clip.first_cloud
    return ClipConditions(
        cameras=clip.cameras,
        image=clip.frames[0],
        guidance=generator.render_guidance(cloud, clip.cameras),
        references=rung.given(clip.references),
        seed=seed,
    )


def _cost(rung: Rung) -> float:
    return _COSTS.get(rung.maker, 0.1)


def _facts(config: LadderConfig, makers: Makers) -> dict[str, Any]:
    """What tables must say beside their figures."""
    command = f"worldstereo evaluate ladder --model {config.model} --scenes {config.scenes} --seed {config.seed}"
    if config.data is not None:
        command += f" --data {config.data} --depth {config.depth}"
    if config.steps is not None:
        command += f" --steps {config.steps}"
    if not config.revisits:
        command += " --no-revisits"
    return {
        **measured_with(config.device),
        "model": config.model,
        "weights": weights_fingerprint(config.model),
        "teacher_steps": config.steps,
        "clips": f"{makers.frames} frames of {makers.width}×{makers.height}",
        "seed": config.seed,
        "scene_seeds": [FIRST_SEED, FIRST_SEED + config.scenes - 1] if config.scenes else None,
        "command": command,
    }
