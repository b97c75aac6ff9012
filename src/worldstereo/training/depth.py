"""Training of nano depth: one command, resumable to the step. Every batch is a function of (seed, step) and of the
frames at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldstereo.devices import find_device
from worldstereo.files import write_json, write_tensors
from worldstereo.models.depth_network import STRIDE, DepthNetwork, DepthNetworkConfig
from worldstereo.training.depth_config import DepthTrainingConfig
from worldstereo.training.depth_losses import depth_loss
from worldstereo.training.depth_samples import draw_batch
from worldstereo.training.frame_pools import FramePools, read_frame_pools
from worldstereo.training.loop import (
    Saving,
    Schedule,
    TrainingLog,
    TrainingProgress,
    TrainingState,
    make_optimizers,
    train_steps,
)
from worldstereo.training.run_folder import alone_in_run_folder

_SIZES = ((256, 192), (320, 192), (256, 160), (192, 256), (224, 224))
"""Training sizes at full growth, drawn per step."""


@alone_in_run_folder
def train_depth(config: DepthTrainingConfig, on_progress: Callable[[TrainingProgress], None] | None = None) -> Path:
    """Train, or resume, and return the folder with `model.safetensors` (float16) and `config.json`.

    Raises:
        InputError: there is no such device, a source cannot be read, or the checkpoint belongs to another network.
    """
    find_device(config.device)
    config.run_folder.mkdir(parents=True, exist_ok=True)
    pools = read_frame_pools(config)
    torch.manual_seed(config.seed)
    network = DepthNetwork(config.network)
    network.to(device=config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = make_optimizers(
        dict(network.named_parameters()),
        lambda name: not name.startswith(("stem", "head")),
        config.learning_rate,
        config.adam_learning_rate,
        config.weight_decay,
        mixed_precision=config.mixed_precision,
    )
    state = TrainingState(network.state_dict(), optimizers)
    checkpoint, weights = config.run_folder / "checkpoint.pt", config.run_folder / "weights"
    if checkpoint.is_file():
        state.load(checkpoint)

    train_steps(
        state,
        Schedule(config.steps, config.warmup_steps, config.decay_steps),
        lambda step: _train_step(config, step, pools, network, optimizers),
        TrainingLog(config.run_folder, state.step),
        Saving(
            checkpoint,
            config.checkpoint_seconds,
            lambda: export_weights(weights, config.network, state.average, state.step),
        ),
        [],
        config.ema_decay,
        on_progress,
    )
    return weights


def export_weights(folder: Path, network: DepthNetworkConfig, state: dict[str, Tensor], step: int) -> None:
    """Write `model.safetensors` (float16) and `config.json`."""
    write_tensors(folder / "model.safetensors", {name: value.half() for name, value in state.items()})
    write_json(folder / "config.json", {"network": network.to_dict(), "step": step})


def _train_step(
    config: DepthTrainingConfig,
    step: int,
    pools: FramePools,
    network: DepthNetwork,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], int]:
    """One update; its loss terms and the number of samples."""
    rng = np.random.default_rng((config.seed, step))
    growth = [factor for start, factor in config.growth if start <= step][-1]
    width, height = (round(side * growth / STRIDE) * STRIDE for side in _SIZES[int(rng.integers(len(_SIZES)))])
    count = max(config.batch_pixels // (width * height), 1)
    batch = draw_batch(pools.draw(count, rng), width, height, config.hint_share, rng).to(config.device)
    with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        log_depth, sky_logit = network(batch.image, batch.rays, batch.hint)
    terms = depth_loss(log_depth, sky_logit, batch.depth, batch.sky, (batch.hint > 0).any(dim=2).any(dim=1))
    network.zero_grad(set_to_none=True)
    terms["total"].backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {name: value.detach() for name, value in terms.items()}, count
