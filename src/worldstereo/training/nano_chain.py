"""All of nano's training in one go: stage after stage, each from what the last one made, up to a folder that loads.

Every stage is a run of its own trainer with a configuration of its own, in a folder of its own. A chain that stopped
goes on where it was: finished stages are skipped, the unfinished one is resumed to the step.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.files import read_json, write_json
from worldstereo.training.autoencoder import train_autoencoder
from worldstereo.training.autoencoder_config import AutoencoderTrainingConfig, read_autoencoder_config
from worldstereo.training.distillation import distill_video
from worldstereo.training.distillation_config import DistillationConfig, read_distillation_config
from worldstereo.training.loop import TrainingProgress
from worldstereo.training.video import train_video
from worldstereo.training.video_config import VideoTrainingConfig, read_video_config

NANO_CHAIN = (
    "autoencoder",
    "backbone-small",
    "backbone-medium",
    "backbone",
    "camera",
    "ggm",
    "stereo-small",
    "stereo",
    "distill",
)
"""Names of the stages' configurations, in order. The first and the last have trainers of their own."""

UNDISTILLED = "undistilled"
"""The subfolder of the finished model that holds the teacher's backbone."""

Config = AutoencoderTrainingConfig | VideoTrainingConfig | DistillationConfig
OnStage = Callable[["StageReport"], None]
OnProgress = Callable[[str, TrainingProgress], None]

_RECIPES = resources.files("worldstereo") / "weights" / "nano" / "recipes"
_REPORT = "stage.json"


@dataclass(frozen=True)
class StageReport:
    """What was done of a stage in one call.

    Attributes:
        name: of the stage.
        folder: of its run.
        step, steps: done so far, and of the whole stage.
        samples_per_second, busy_share: see `TrainingProgress`; over the whole call.
        seconds: in training, without preparation.
    """

    name: str
    folder: Path
    step: int
    steps: int
    samples_per_second: float
    busy_share: float
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps


@dataclass(frozen=True)
class ChainState:
    """Where a chain stands after a call.

    Attributes:
        model: the finished model's folder, if the chain is at its end.
        next_stage: the stage that the next call begins or goes on with.
    """

    model: Path | None
    next_stage: str | None


def train_nano(
    run_folder: str | Path,
    data: str | Path | None = None,
    device: str = "cpu",
    minutes: float = math.inf,
    scale: float = 1.0,
    recipes: str | Path | None = None,
    on_stage: OnStage | None = None,
    on_progress: OnProgress | None = None,
) -> ChainState:
    """Train nano, or go on with it, until it is done or the time is over.

    A stage's run is in `run_folder`, in a folder with its number and name; the finished model is in `nano`: the
    distilled one, and in its subfolder `undistilled` the teacher's backbone, which shares everything else.

    Args:
        data: the folder that real captures lie in; those that are not there are left out, or all without it.
        minutes: after which the chain stops, between two steps, with a checkpoint; every call takes a step at least.
        scale: factor on the numbers of steps.
        recipes: a folder with a configuration of every stage of `NANO_CHAIN`, instead of the shipped ones.
        on_stage: called after each stage that took steps.

    Raises:
        InputError: a configuration or an argument is wrong, or there are several processes.
    """
    if not 0 < scale < math.inf:
        raise InputError(f"--scale {scale}: must be positive and finite")
    if not minutes >= 0:
        raise InputError(f"--minutes {minutes}: must not be negative")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("the chain runs in one process; on several devices run its stages one by one (train video)")
    if data is not None and not Path(data).is_dir():
        raise InputError(f"{data}: no such folder; give one that holds real captures, or none")
    deadline = time.monotonic() + 60 * minutes
    run_folder = Path(run_folder)
    with resources.as_file(_RECIPES) as shipped:
        folder = Path(recipes) if recipes else shipped
        made: Path | None = None
        begun = False
        for number, name in enumerate(NANO_CHAIN):
            run = run_folder / f"{number}-{name}"
            if not _finished(run):
                if begun and time.monotonic() >= deadline:
                    return ChainState(None, name)
                config = stage_config(name, folder, run, made, data, device, scale)
                report = _run(name, config, deadline, on_progress)
                begun = True
                if on_stage:
                    on_stage(report)
                if not report.finished:
                    return ChainState(None, name)
            teacher, made = made, result_folder(name, run)
    assert teacher is not None
    assert made is not None
    return ChainState(assemble(run_folder / "nano", made, teacher), None)


def result_folder(name: str, run: Path) -> Path:
    """What a stage's run makes: the autoencoder, or a model."""
    return run / ("autoencoder" if name == "autoencoder" else "model")


def stage_config(
    name: str,
    recipes: Path,
    run: Path,
    made: Path | None,
    data: str | Path | None = None,
    device: str = "cpu",
    scale: float = 1.0,
) -> Config:
    """The configuration of a stage: that of the recipe, with fewer or more steps and the sources that are there.

    Args:
        made: by the stage before it.

    Raises:
        InputError: the recipe is missing or wrong.
    """
    path = recipes / f"{name}.json"
    if name == "autoencoder":
        first = read_autoencoder_config(path, run, data, device)
        real = tuple(source for source in first.sources if source.folder.is_dir())
        count = max(1, round(first.procedural_count * min(scale, 1.0)))
        share = first.procedural_share if real else 1.0
        return replace(first, sources=real, procedural_share=share, procedural_count=count, **_steps(first, scale))
    assert made is not None
    begin = "autoencoder" if made.name == "autoencoder" else "start"
    given = {begin: str(made.absolute())}
    config: VideoTrainingConfig | DistillationConfig
    if name == "distill":
        config = read_distillation_config(path, run, data, device, given)
    else:
        config = read_video_config(path, run, data, device, given)
    there = tuple(source for source in config.sources if source.folder is None or source.folder.is_dir())
    return replace(config, sources=there, **_steps(config, scale))


def assemble(folder: Path, distilled: Path, teacher: Path) -> Path:
    """One model folder of both, made anew: weights that they share lie there once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        made = shutil.copytree(distilled, Path(temporary) / "model")
        shutil.copytree(teacher / "backbone", made / UNDISTILLED / "backbone")
        write_json(made / UNDISTILLED / "config.json", read_json(teacher / "config.json") | {"shares_parts": True})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    return folder


def _run(name: str, config: Config, deadline: float, on_progress: OnProgress | None) -> StageReport:
    reports: list[TrainingProgress] = []

    def report(progress: TrainingProgress) -> None:
        reports.append(progress)
        if on_progress:
            on_progress(name, progress)

    if isinstance(config, AutoencoderTrainingConfig):
        train_autoencoder(config, report, deadline)
    elif isinstance(config, DistillationConfig):
        distill_video(config, report, deadline)
    else:
        train_video(config, report, deadline)
    seconds = sum(progress.seconds for progress in reports)

    def mean(values: list[float]) -> float:
        return sum(x * p.seconds for x, p in zip(values, reports, strict=True)) / seconds if seconds else 0.0

    result = StageReport(
        name,
        config.run_folder,
        reports[-1].step if reports else config.steps,
        config.steps,
        mean([progress.samples_per_second for progress in reports]),
        mean([progress.busy_share for progress in reports]),
        seconds,
    )
    path = config.run_folder / _REPORT
    calls = read_json(path)["calls"] if path.is_file() else []
    figures = {n: getattr(result, n) for n in ("step", "steps", "samples_per_second", "busy_share", "seconds")}
    write_json(path, {"finished": result.finished, "calls": [*calls, figures | {"device": config.device}]})
    return result


def _finished(run: Path) -> bool:
    return (run / _REPORT).is_file() and read_json(run / _REPORT)["finished"]


def _steps(config: Config, scale: float) -> dict[str, Any]:
    """The schedule, shorter or longer."""
    values = {name: getattr(config, name) * scale for name in ("steps", "warmup_steps", "decay_steps")}
    return {name: round(value) for name, value in values.items()} | {"steps": max(1, math.ceil(values["steps"]))}
