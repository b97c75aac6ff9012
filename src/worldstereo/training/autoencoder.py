"""Training of nano's keyframe autoencoder on pictures: resumable to the step, without downloaded networks.

The loss asks for the right values and, at several scales, for the right differences between neighbours: errors of
values alone leave pictures blurred. Latents get a little noise before they are decoded, since those that a video model
draws are never exact.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from worldstereo.data.rgbd import RgbdFrame
from worldstereo.devices import find_device
from worldstereo.errors import InputError
from worldstereo.images import save_png
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.training.autoencoder_config import AutoencoderTrainingConfig
from worldstereo.training.frame_pools import FramePools, read_frame_pools
from worldstereo.training.loop import (
    DataClock,
    Occasion,
    Saving,
    Schedule,
    TrainingLog,
    TrainingProgress,
    TrainingState,
    make_optimizers,
    train_steps,
)
from worldstereo.training.model_folder import write_part
from worldstereo.training.picture_sheet import picture_sheet
from worldstereo.training.procedural_frames import render_frames
from worldstereo.training.run_folder import alone_in_run_folder

_CLIP_NORM = 1.0
_GRADIENT_SCALES = 3
_HELD_OUT_SEED = 1_000_003
_MOST_HELD_OUT = 64
_SHEET_COLUMNS = 4


@alone_in_run_folder
def train_autoencoder(
    config: AutoencoderTrainingConfig,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    deadline: float = math.inf,
) -> Path:
    """Train, or resume, and return the folder of the autoencoder: averaged weights, float16, normalisation fitted.

    Args:
        deadline: see `train_steps`.

    Raises:
        InputError: there is no such device, a source cannot be read, or the checkpoint belongs to another network.
    """
    find_device(config.device)
    config.run_folder.mkdir(parents=True, exist_ok=True)
    pools = read_frame_pools(config)
    held_out = pools.held_out[:: max(1, len(pools.held_out) // _MOST_HELD_OUT)]
    held_out += render_frames(config.held_out_procedural, config.seed + _HELD_OUT_SEED, config.device)
    torch.manual_seed(config.seed)
    try:
        network = KeyframeAutoencoder(**config.network).to(config.device)
    except TypeError as error:
        raise InputError(f"network: no such autoencoder can be made ({error})") from error
    parameters = dict(network.named_parameters())
    optimizers = make_optimizers(parameters, lambda name: True, 0.0, config.learning_rate, config.weight_decay, "adamw")
    state = TrainingState({name: value.detach() for name, value in parameters.items()}, optimizers)
    checkpoint, folder = config.run_folder / "checkpoint.pt", config.run_folder / "autoencoder"
    if checkpoint.is_file():
        state.load(checkpoint)
    log, clock = TrainingLog(config.run_folder, state.step), DataClock()

    def take_step(step: int) -> tuple[dict[str, Tensor], int]:
        rng = np.random.default_rng((config.seed, step))
        with clock.waiting():
            frames = draw_crops(pools, config.batch_size, config.crop, rng).to(config.device)
        terms = autoencoder_losses(network, frames, config, rng)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), _CLIP_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {name: value.detach() for name, value in terms.items()}, len(frames)

    def export() -> None:
        with state.averaged():
            _fit_normalisation(network, pools, config)
            write_part(folder, network, "1GB")

    def show() -> None:
        with state.averaged():
            _fit_normalisation(network, pools, config)
            pairs = [(picture, _round_trip(network, picture)) for picture in _pictures(held_out, network)]
        errors = [(truth - again).square().mean() for truth, again in pairs]
        if errors:
            psnr = float(torch.stack([-10 * error.clamp(min=1e-10).log10() for error in errors]).mean())
            log.add(state.step, {"held_out_psnr": psnr})
            rows = [row for truth, again in pairs[:: max(1, len(pairs) // _SHEET_COLUMNS)] for row in (truth, again)]
            sheet = picture_sheet([row[None] for row in rows], 1)
            save_png(config.run_folder / "sheets" / f"step_{state.step:07d}.png", sheet)
            log.add_picture(state.step, "held_out", sheet)

    train_steps(
        state,
        Schedule(config.steps, config.warmup_steps, config.decay_steps),
        take_step,
        log,
        Saving(checkpoint, config.checkpoint_seconds, export),
        [Occasion(config.sheet_seconds, show)],
        config.ema_decay,
        on_progress,
        clock,
        deadline,
    )
    return folder


def autoencoder_losses(
    network: KeyframeAutoencoder,
    frames: Float[Tensor, "b 3 h w"],
    config: AutoencoderTrainingConfig,
    rng: np.random.Generator,
) -> dict[str, Float[Tensor, ""]]:
    """Mean absolute error of values and of gradients, the latents' excess of variance, and the weighted sum `total`."""
    latents = network.encode_raw(frames)
    random = torch.Generator().manual_seed(int(rng.integers(2**63)))
    noise = torch.randn(latents.shape, generator=random).to(latents)
    scale = latents.detach().std(dim=(0, 2, 3), keepdim=True)
    error = network.decode_raw(latents + config.latent_noise * scale * noise) - frames
    terms = {
        "value": error.abs().mean(),
        "gradient": gradient_error(error),
        "latent": (latents.square().mean(dim=(0, 2, 3)) - 1).clamp(min=0).mean(),
    }
    total = terms["value"] + config.gradient_weight * terms["gradient"] + config.latent_weight * terms["latent"]
    return terms | {"total": total}


def gradient_error(error: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean absolute difference between neighbours, at full size and reduced by 2 and 4."""
    total = error.new_zeros(())
    for scale in range(_GRADIENT_SCALES):
        if scale:
            error = F.avg_pool2d(error, 2)
        total = total + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return total / (2 * _GRADIENT_SCALES)


def draw_crops(pools: FramePools, count: int, side: int, rng: np.random.Generator) -> Float[Tensor, "b 3 side side"]:
    """Square pieces of frames at a random place, half of them mirrored, RGB in [0, 1]."""
    crops = []
    for frame in pools.draw(count, rng):
        image = frame.image
        if min(image.shape[1:]) < side:
            factor = side / min(image.shape[1:])
            size = [max(side, round(length * factor)) for length in image.shape[1:]]
            image = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        row, column = (int(rng.integers(length - side + 1)) for length in image.shape[1:])
        crop = image[:, row : row + side, column : column + side].float() / 255
        crops.append(crop.flip(2) if rng.random() < 0.5 else crop)
    return torch.stack(crops)


@torch.no_grad()
def _fit_normalisation(network: KeyframeAutoencoder, pools: FramePools, config: AutoencoderTrainingConfig) -> None:
    rng = np.random.default_rng((config.seed, 1, 0))
    crops = draw_crops(pools, config.normalisation_frames, config.crop, rng).to(config.device)
    network.fit_normalisation(torch.cat([network.encode_raw(batch) for batch in crops.split(config.batch_size)]))


def _round_trip(network: KeyframeAutoencoder, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    return network.decode(network.encode(picture[None]))[0].cpu()


def _pictures(frames: Sequence[RgbdFrame], network: KeyframeAutoencoder) -> list[Float[Tensor, "3 _ _"]]:
    """Cut to whole latents."""
    factor = network.spatial_factor
    sizes = [[length // factor * factor for length in frame.image.shape[1:]] for frame in frames]
    return [frame.image[:, :h, :w].float() / 255 for frame, (h, w) in zip(frames, sizes, strict=True)]
