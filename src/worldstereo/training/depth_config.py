"""The configuration of a nano depth training run, and its JSON form."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldstereo.data.rgbd import RgbdSource
from worldstereo.errors import InputError
from worldstereo.models.depth_network import DepthNetworkConfig
from worldstereo.training.config_file import read_config


@dataclass(frozen=True)
class DepthTrainingConfig:
    """One training run.

    Attributes:
        run_folder: checkpoint, log and weights go here; an existing checkpoint is resumed.
        sources: folders of real frames; may be empty.
        procedural_share: share of the samples that are procedural.
        procedural_count: number of procedural frames, rendered once into `procedural_folder` (default: inside the
            run folder) before training.
        steps: total number of steps.
        decay_steps: length of the final decay of the learning rate, within `steps`.
        batch_pixels: number of pixels of a batch; small pictures make large batches.
        growth: (step, factor) pairs: from that step on, pictures have the factor times about 256×192 pixels' sides.
        learning_rate: of the hidden matrices (Muon); `adam_learning_rate` is that of everything else.
        hint_share: share of the samples that get a partial depth.
        checkpoint_seconds: time between checkpoints.
    """

    run_folder: Path
    sources: tuple[RgbdSource, ...] = ()
    procedural_share: float = 0.4
    procedural_count: int = 3600
    procedural_folder: Path | None = None
    steps: int = 7300
    decay_steps: int = 4000
    warmup_steps: int = 100
    batch_pixels: int = 280_000
    growth: tuple[tuple[int, float], ...] = ((0, 0.5), (3300, 0.75), (6150, 1.0))
    learning_rate: float = 0.02
    adam_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    hint_share: float = 0.4
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 120.0
    network: DepthNetworkConfig = field(default_factory=DepthNetworkConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.procedural_share <= 1:
            raise InputError(f"procedural_share is {self.procedural_share} but must be between 0 and 1")
        if self.procedural_share < 1 and not self.sources:
            raise InputError("without folders of real frames procedural_share must be 1")
        if self.steps < 1 or self.batch_pixels < 1 or not 0 <= self.decay_steps <= self.steps:
            raise InputError("steps and batch_pixels must be positive, and decay_steps at most steps")
        if not self.growth or self.growth[0][0] != 0 or any(factor < 0.2 for _, factor in self.growth):
            raise InputError("growth must begin with step 0 and have factors of at least 0.2")


def read_training_config(
    path: str | Path, run_folder: str | Path, data: str | Path | None = None, device: str = "cpu"
) -> DepthTrainingConfig:
    """The configuration in a JSON file with fields of `DepthTrainingConfig`; those left out have their defaults.

    `sources` is a list of `{"folder", "weight", "held_out"}`; a folder that is not absolute lies in `data`, or else
    beside the file.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    root = Path(data) if data else Path(path).parent
    convert: dict[str, Callable[[Any], Any]] = {
        "sources": lambda values: read_sources(values, root),
        "network": DepthNetworkConfig.from_dict,
        "growth": lambda pairs: tuple((int(start), float(factor)) for start, factor in pairs),
    }
    return read_config(path, DepthTrainingConfig, {"run_folder": Path(run_folder), "device": device}, convert)


def read_sources(values: list[dict[str, Any]], root: Path) -> tuple[RgbdSource, ...]:
    """Sources of their plain values; folders lie in `root` unless absolute."""
    return tuple(
        RgbdSource(
            root / value["folder"],
            float(value.get("weight", 1.0)),
            tuple((float(start), float(stop)) for start, stop in value.get("held_out", [])),
        )
        for value in values
    )
