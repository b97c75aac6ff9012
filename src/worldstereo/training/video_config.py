"""The configuration of a training run of the video model, and its JSON form."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.training.config_file import read_config, require_number, require_precision, require_whole
from worldstereo.training.stages import stage_named


@dataclass(frozen=True)
class ClipSourceConfig:
    """A source of clips.

    Attributes:
        kind: "shards": a folder of `write_clip_shards`; "procedural": scenes made on the training device; "posed": a
            video with cameras in a layout of `read_posed_video`.
        weight: its share of the clips, relative to the others'.
        folder: of shards or of the video.
        options: of `ProceduralClips` or `PosedClips`, `seed` and `steps_per_world` of `MadeClips`, and `depth`, the
            name of a depth back-end for videos without depth.
    """

    kind: str
    weight: float = 1.0
    folder: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("shards", "procedural", "posed"):
            raise InputError(f"a source's kind is {self.kind!r} but must be 'shards', 'procedural' or 'posed'")
        if (self.folder is None) != (self.kind == "procedural"):
            raise InputError(
                f"a source of kind {self.kind!r} has {self.folder or 'no folder'}: only procedural ones lack it"
            )
        if not 0 < self.weight < math.inf:
            raise InputError(f"a source's weight is {self.weight} but must be positive and finite")
        if not isinstance(self.options, dict):
            raise InputError(f"a source's options are {self.options!r} but must be an object of fields")


@dataclass(frozen=True)
class VideoTrainingConfig:
    """One run of one stage.

    A step takes `batch_size` clips in each of `accumulation` passes of each process.

    Attributes:
        run_folder: checkpoint, log, pictures and the model go here; an existing checkpoint is resumed.
        stage: see `STAGES`.
        sources: of clips.
        start: a model folder in the paper's layout that the stage begins with; none for a new one.
        autoencoder: a folder of a `KeyframeAutoencoder`, for a new model.
        model: fields of the model's config.json; needed for a new model, else they change those of `start`.
        backbone, control, stereo: config fields of parts that are made new; widths and channels that follow from the
            backbone and the autoencoder can be left out.
        samples: sources of the clips of the picture sheets, best held out; by default clips of `sources`.
        prompt: of all clips; the model's negative prompt takes its place where the text is dropped.
        time_mean, time_std, uniform_time: see `draw_time`.
        hole_weight: how much more places without any point weigh in the loss.
        drop_text, drop_render, drop_rays, drop_pointmaps: shares of the clips without; where the stage drops it.
        optimizer: "muon" (with Adam for all but the blocks' matrices) or "adamw".
        learning_rate: of Muon; `adam_learning_rate` is that of everything else.
        mixed_precision: "bf16" computes in bfloat16 where that is safe; weights stay in float32.
        gradient_checkpointing: computes the blocks twice instead of keeping what they computed.
        loaders: threads that get clips ready in advance; 0 gets them when they are needed.
        lanes: threads that share each batch, on a CPU and in one process; see `Lanes`. With more than one, two equal
            runs differ in the last bits.
        sheet_seconds: time between picture sheets of `sheet_clips` clips, of `sheet_steps` steps each.
        largest_file: of the exported weights.
    """

    run_folder: Path
    stage: str
    sources: tuple[ClipSourceConfig, ...]
    start: Path | None = None
    autoencoder: Path | None = None
    model: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] = field(default_factory=dict)
    stereo: dict[str, Any] = field(default_factory=dict)
    samples: tuple[ClipSourceConfig, ...] = ()
    prompt: str = ""
    time_mean: float = 0.5
    time_std: float = 1.0
    uniform_time: float = 0.1
    hole_weight: float = 0.0
    drop_text: float = 0.1
    drop_render: float = 0.05
    drop_rays: float = 0.05
    drop_pointmaps: float = 0.15
    steps: int = 8000
    warmup_steps: int = 100
    decay_steps: int = 2000
    batch_size: int = 4
    accumulation: int = 1
    optimizer: str = "muon"
    learning_rate: float = 0.01
    adam_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    loaders: int = 0
    lanes: int = 1
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 120.0
    sheet_seconds: float = 600.0
    sheet_clips: int = 3
    sheet_steps: int = 8
    largest_file: str = "15MB"

    def __post_init__(self) -> None:
        stage = stage_named(self.stage)
        if stage.needs and self.start is None:
            raise InputError(f"start is missing: the stage {self.stage} begins with a model that has {stage.needs}")
        if self.start is None and (self.autoencoder is None or not self.model):
            raise InputError("autoencoder or model is missing: a new model needs both, or give a start")
        if not self.sources:
            raise InputError("sources is empty: name at least one source of clips")
        require_whole(self, 1, "steps", "batch_size", "accumulation", "lanes", "sheet_clips", "sheet_steps")
        require_whole(self, 0, "warmup_steps", "decay_steps", "loaders", "seed")
        require_number(
            self, 0, "uniform_time", "drop_text", "drop_render", "drop_rays", "drop_pointmaps", "ema_decay", most=1
        )
        require_number(self, 0, "time_std", "hole_weight", "weight_decay", "learning_rate", "adam_learning_rate")
        require_number(self, -100, "time_mean", most=100)
        if self.decay_steps > self.steps:
            raise InputError(f"decay_steps is {self.decay_steps} but must be at most steps, {self.steps}")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer is {self.optimizer!r} but must be 'muon' or 'adamw'")
        if self.lanes > 1 and self.device != "cpu":
            raise InputError(f"lanes is {self.lanes} but must be 1 on {self.device}: they are threads of a CPU")
        require_precision(self.mixed_precision)
        if not re.fullmatch(r"[1-9]\d*[KMGT]B", self.largest_file):
            raise InputError(f"largest_file is {self.largest_file!r} but must be a size such as '15MB'")


def read_video_config(
    path: str | Path,
    run_folder: str | Path,
    data: str | Path | None = None,
    device: str = "cpu",
    instead: Mapping[str, Any] | None = None,
) -> VideoTrainingConfig:
    """The configuration in a JSON file with fields of `VideoTrainingConfig`; those left out have their defaults.

    Folders that are not absolute lie in `data`, or else beside the file.

    Args:
        instead: fields that replace those of the file, in the form they have there.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    return read_config(path, VideoTrainingConfig, run_folder, data, device, source_fields, instead)


def source_fields(root: Path) -> dict[str, Callable[[Any], Any]]:
    """How fields that name sources or folders are made of their plain values; folders lie in `root` unless absolute."""

    def sources(values: list[dict[str, Any]]) -> tuple[ClipSourceConfig, ...]:
        folders = [{"folder": root / value["folder"]} if "folder" in value else {} for value in values]
        weights = [{"weight": float(value.get("weight", 1.0))} for value in values]
        return tuple(
            ClipSourceConfig(**(value | folder | weight))
            for value, folder, weight in zip(values, folders, weights, strict=True)
        )

    def folder(value: str | None) -> Path | None:
        return None if value is None else root / value

    return {"sources": sources, "samples": sources, "start": folder, "autoencoder": folder}
