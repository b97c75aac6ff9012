"""What configurations of training on single frames have in common."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldstereo.data.rgbd import RgbdSource
from worldstereo.errors import InputError
from worldstereo.training.config_file import require_number, require_whole


@dataclass(frozen=True, kw_only=True)
class FrameTrainingConfig:
    """One training run on real and procedural frames.

    Attributes:
        run_folder: checkpoint, log and what is trained go here; an existing checkpoint is resumed.
        sources: folders of real frames; may be empty.
        procedural_share: share of the samples that are procedural.
        procedural_count: number of procedural frames, rendered once into `procedural_folder` (default: inside the
            run folder) before training.
        steps: total number of steps.
        decay_steps: length of the final decay of the learning rate, within `steps`.
        checkpoint_seconds: time between checkpoints.
    """

    run_folder: Path
    sources: tuple[RgbdSource, ...] = ()
    procedural_share: float
    procedural_count: int
    procedural_folder: Path | None = None
    steps: int
    warmup_steps: int
    decay_steps: int
    learning_rate: float
    weight_decay: float
    ema_decay: float = 0.999
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        require_number(self, 0, "procedural_share", "ema_decay", most=1)
        require_number(self, 0, "learning_rate", "weight_decay")
        require_whole(self, 0, "warmup_steps", "decay_steps", "seed")
        require_whole(self, 1, "steps")
        if self.procedural_share > 0:
            require_whole(self, 1, "procedural_count")
        if self.procedural_share < 1 and not self.sources:
            raise InputError("sources is empty: without folders of real frames procedural_share must be 1")
        if any(not 0 < source.weight < math.inf for source in self.sources):
            raise InputError("sources: every weight must be positive and finite")
        if self.decay_steps > self.steps:
            raise InputError(f"decay_steps is {self.decay_steps} but must be at most steps, {self.steps}")


def frame_fields(root: Path) -> dict[str, Callable[[Any], Any]]:
    """How the field `sources` is made of its plain values; folders lie in `root` unless absolute."""
    return {"sources": lambda values: read_sources(values, root)}


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
