"""What configurations of training on single frames have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldstereo.data.rgbd import RgbdSource
from worldstereo.errors import InputError


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
        if not 0 <= self.procedural_share <= 1:
            raise InputError(f"procedural_share is {self.procedural_share} but must be between 0 and 1")
        if self.procedural_share < 1 and not self.sources:
            raise InputError("sources is empty: without folders of real frames procedural_share must be 1")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps} but must be at least 1")
        if not 0 <= self.decay_steps <= self.steps:
            raise InputError(f"decay_steps is {self.decay_steps} but must be from 0 to steps, {self.steps}")


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
