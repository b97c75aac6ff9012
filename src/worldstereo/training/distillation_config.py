"""The configuration of a distillation, and its JSON form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.training.config_file import read_config
from worldstereo.training.dmd import DmdConfig
from worldstereo.training.video_config import ClipSourceConfig, VideoTrainingConfig, source_fields


@dataclass(frozen=True)
class DistillationConfig:
    """One run. Fields that training has too mean the same as in `VideoTrainingConfig`.

    Attributes:
        start: the teacher, a model folder in the paper's layout with a control branch.
        dmd: the algorithm's.
        steps: of the generator.
        batch_size: clips of an update in each process, of the generator or the fake score.
        learning_rate: of the generator; `fake_learning_rate` is that of the fake score.
    """

    run_folder: Path
    start: Path
    sources: tuple[ClipSourceConfig, ...]
    samples: tuple[ClipSourceConfig, ...] = ()
    dmd: DmdConfig = field(default_factory=DmdConfig)
    prompt: str = ""
    steps: int = 1000
    warmup_steps: int = 20
    decay_steps: int = 300
    batch_size: int = 4
    learning_rate: float = 5e-5
    fake_learning_rate: float = 1e-4
    ema_decay: float = 0.98
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    loaders: int = 0
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 120.0
    sheet_seconds: float = 600.0
    sheet_clips: int = 3
    largest_file: str = "15MB"

    def __post_init__(self) -> None:
        for part in ("backbone", "control"):
            if not (self.start / part).is_dir():
                raise InputError(f"start: {self.start} has no {part}/, so it is no teacher for the camera task")
        for name in ("learning_rate", "fake_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)} but must be positive and finite")
        self.as_training()

    def as_training(self) -> VideoTrainingConfig:
        """A run of the camera stage with the same model, clips and pictures.

        Raises:
            InputError: a field has a value that no run can have.
        """
        of_training = {f.name for f in fields(VideoTrainingConfig)}
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name in of_training}
        return VideoTrainingConfig(stage="camera", sheet_steps=self.dmd.steps, **shared)


def read_distillation_config(
    path: str | Path,
    run_folder: str | Path,
    data: str | Path | None = None,
    device: str = "cpu",
    instead: Mapping[str, Any] | None = None,
) -> DistillationConfig:
    """The configuration in a JSON file with fields of `DistillationConfig`; those left out have their defaults.

    Folders that are not absolute lie in `data`, or else beside the file. `dmd` is an object with fields of `DmdConfig`.

    Args:
        instead: fields that replace those of the file, in the form they have there.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    return read_config(path, DistillationConfig, run_folder, data, device, _fields, instead)


def _fields(root: Path) -> dict[str, Callable[[Any], Any]]:
    return source_fields(root) | {"start": lambda folder: root / folder, "dmd": _dmd}  # a start there must be


def _dmd(values: dict[str, Any]) -> DmdConfig:
    kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(DmdConfig)}
    if unknown := sorted(set(values) - set(kinds)):
        raise ValueError(f"'{unknown[0]}' is unknown; choose among {', '.join(kinds)}")
    if broken := [name for name, value in values.items() if kinds[name](value) != value]:
        raise ValueError(f"'{broken[0]}' must be a whole number")
    return DmdConfig(**{name: kinds[name](value) for name, value in values.items()})
