"""The configuration of a nano depth training run, and its JSON form."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.models.depth_network import DepthNetworkConfig
from worldstereo.training.config_file import read_config, require_number, require_precision, require_whole
from worldstereo.training.frames_config import FrameTrainingConfig, frame_fields


@dataclass(frozen=True, kw_only=True)
class DepthTrainingConfig(FrameTrainingConfig):
    """One training run; what is not said here is said by `FrameTrainingConfig`.

    Attributes:
        batch_pixels: number of pixels of a batch; small pictures make large batches.
        growth: (step, factor) pairs: from that step on, pictures have the factor times about 256×192 pixels' sides.
        learning_rate: of the hidden matrices (Muon); `adam_learning_rate` is that of everything else.
        hint_share: share of the samples that get a partial depth.
        mixed_precision: "bf16" computes in bfloat16 where that is safe; weights stay in float32.
    """

    procedural_share: float = 0.4
    procedural_count: int = 3600
    steps: int = 7300
    decay_steps: int = 4000
    warmup_steps: int = 100
    batch_pixels: int = 280_000
    growth: tuple[tuple[int, float], ...] = ((0, 0.5), (3300, 0.75), (6150, 1.0))
    learning_rate: float = 0.02
    adam_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    hint_share: float = 0.4
    mixed_precision: str = "no"
    network: DepthNetworkConfig = field(default_factory=DepthNetworkConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_precision(self.mixed_precision)
        require_whole(self, 1, "batch_pixels")
        require_number(self, 0, "adam_learning_rate")
        require_number(self, 0, "hint_share", most=1)
        if not self.growth or self.growth[0][0] != 0 or not all(0.2 <= factor < math.inf for _, factor in self.growth):
            raise InputError("growth must begin with step 0 and have finite factors of at least 0.2")


def read_training_config(
    path: str | Path, run_folder: str | Path, data: str | Path | None = None, device: str = "cpu"
) -> DepthTrainingConfig:
    """The configuration in a JSON file with fields of `DepthTrainingConfig`; those left out have their defaults.

    `sources` is a list of `{"folder", "weight", "held_out"}`; a folder that is not absolute lies in `data`, or else
    beside the file.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    return read_config(path, DepthTrainingConfig, run_folder, data, device, _fields)


def _fields(root: Path) -> dict[str, Callable[[Any], Any]]:
    return frame_fields(root) | {
        "network": DepthNetworkConfig.from_dict,
        "growth": lambda pairs: tuple((int(start), float(factor)) for start, factor in pairs),
    }
