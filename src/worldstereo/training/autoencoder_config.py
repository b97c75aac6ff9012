"""The configuration of a training run of nano's keyframe autoencoder, and its JSON form."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldstereo.training.config_file import read_config, require_number, require_whole
from worldstereo.training.frames_config import FrameTrainingConfig, frame_fields


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainingConfig(FrameTrainingConfig):
    """One training run; what is not said here is said by `FrameTrainingConfig`.

    Attributes:
        network: config fields of the `KeyframeAutoencoder` that differ from its defaults.
        crop: sides of the square samples, in pixels; frames that are smaller are enlarged.
        gradient_weight: of the errors of gradients, which keep edges sharp, beside that of values.
        latent_noise: added to the latents, in their standard deviations, so that the decoder forgives small errors.
        latent_weight: of the latents' mean square beyond variance 1, which keeps their scale.
        learning_rate: 4e-4 is steady; 1e-3 was not.
        normalisation_frames: over which the latents' normalisation is fitted whenever the autoencoder is written.
        held_out_procedural: number of procedural frames, of other scenes, beside the held-out real ones.
    """

    network: dict[str, Any] = field(default_factory=dict)
    procedural_share: float = 0.5
    procedural_count: int = 1440
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
    normalisation_frames: int = 256
    held_out_procedural: int = 12
    sheet_seconds: float = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(self, 1, "batch_size", "crop", "normalisation_frames")
        require_whole(self, 0, "held_out_procedural")
        require_number(self, 0, "gradient_weight", "latent_noise", "latent_weight")


def read_autoencoder_config(
    path: str | Path, run_folder: str | Path, data: str | Path | None = None, device: str = "cpu"
) -> AutoencoderTrainingConfig:
    """The configuration in a JSON file with fields of `AutoencoderTrainingConfig`; those left out have their defaults.

    `sources` is a list of `{"folder", "weight", "held_out"}`; a folder that is not absolute lies in `data`, or else
    beside the file.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    return read_config(path, AutoencoderTrainingConfig, run_folder, data, device, frame_fields)
