"""The configuration of a training run of nano's keyframe autoencoder, and its JSON form."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldstereo.data.rgbd import RgbdSource
from worldstereo.errors import InputError
from worldstereo.training.config_file import read_config
from worldstereo.training.depth_config import read_sources


@dataclass(frozen=True)
class AutoencoderTrainingConfig:
    """One training run.

    Attributes:
        run_folder: checkpoint, log, pictures and the autoencoder go here; an existing checkpoint is resumed.
        network: config fields of the `KeyframeAutoencoder` that differ from its defaults.
        sources: folders of real frames; may be empty.
        procedural_share: share of the samples that are procedural.
        procedural_count: number of procedural frames, rendered once into `procedural_folder` (default: inside the run
            folder) before training.
        crop: sides of the square samples, in pixels; frames that are smaller are enlarged.
        gradient_weight: of the errors of gradients, which keep edges sharp, beside that of values.
        latent_noise: added to the latents, in their standard deviations, so that the decoder forgives small errors.
        latent_weight: of the latents' mean square beyond variance 1, which keeps their scale.
        learning_rate: 4e-4 is steady; 1e-3 was not.
        normalisation_frames: over which the latents' normalisation is fitted whenever the autoencoder is written.
        held_out_procedural: number of procedural frames, of other scenes, beside the held-out real ones.
    """

    run_folder: Path
    network: dict[str, Any] = field(default_factory=dict)
    sources: tuple[RgbdSource, ...] = ()
    procedural_share: float = 0.5
    procedural_count: int = 1440
    procedural_folder: Path | None = None
    crop: int = 128
    batch_size: int = 8
    gradient_weight: float = 1.0
    latent_noise: float = 0.05
    latent_weight: float = 1e-3
    steps: int = 20000
    warmup_steps: int = 200
    decay_steps: int = 5000
    learning_rate: float = 4e-4
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    normalisation_frames: int = 256
    held_out_procedural: int = 12
    seed: int = 0
    device: str = "cpu"
    checkpoint_seconds: float = 120.0
    sheet_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.procedural_share <= 1:
            raise InputError(f"procedural_share is {self.procedural_share} but must be between 0 and 1")
        if self.procedural_share < 1 and not self.sources:
            raise InputError("sources is empty: without folders of real frames procedural_share must be 1")
        for name in ("steps", "batch_size", "crop", "normalisation_frames"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)} but must be at least 1")
        if not 0 <= self.decay_steps <= self.steps:
            raise InputError(f"decay_steps is {self.decay_steps} but must be from 0 to steps, {self.steps}")
        for name in ("gradient_weight", "latent_noise", "latent_weight", "held_out_procedural"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)} but must not be negative")


def read_autoencoder_config(
    path: str | Path, run_folder: str | Path, data: str | Path | None = None, device: str = "cpu"
) -> AutoencoderTrainingConfig:
    """The configuration in a JSON file with fields of `AutoencoderTrainingConfig`; those left out have their defaults.

    `sources` is a list of `{"folder", "weight", "held_out"}`; a folder that is not absolute lies in `data`, or else
    beside the file.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    root = Path(data) if data else Path(path).parent
    convert: dict[str, Callable[[Any], Any]] = {"sources": lambda values: read_sources(values, root)}
    given = {"run_folder": Path(run_folder), "device": device}
    return read_config(path, AutoencoderTrainingConfig, given, convert)
