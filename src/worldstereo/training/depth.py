"""Training of nano depth: one command, resumable to the step.

The learning rate warms up, stays constant, and falls linearly to zero over the last `decay_steps`: a run can be made
longer, or ended early, by resuming it with another `steps`. Weights shipped are the exponential moving average.
Every batch is a function of (seed, step) and of the frames at hand.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldstereo.data.rgbd import RgbdFrame, read_rgbd_folder, split_held_out
from worldstereo.errors import InputError
from worldstereo.files import atomic_path, write_json
from worldstereo.models.depth_network import STRIDE, DepthNetwork, DepthNetworkConfig
from worldstereo.training.depth_config import DepthTrainingConfig
from worldstereo.training.depth_losses import depth_loss
from worldstereo.training.depth_samples import draw_batch
from worldstereo.training.muon import Muon
from worldstereo.training.procedural_frames import procedural_frames

_SIZES = ((256, 192), (320, 192), (256, 160), (192, 256), (224, 224))
"""Training sizes at full growth, drawn per step."""


@dataclass(frozen=True)
class DepthTrainingProgress:
    """State of a run, for progress displays."""

    step: int
    steps: int
    loss: float
    samples_per_second: float
    seconds_left: float


def train_depth(
    config: DepthTrainingConfig, on_progress: Callable[[DepthTrainingProgress], None] | None = None
) -> Path:
    """Train, or resume, and return the folder with `model.safetensors` (float16) and `config.json`.

    Raises:
        InputError: a source cannot be read, or the checkpoint belongs to another network.
    """
    config.run_folder.mkdir(parents=True, exist_ok=True)
    pools, weights = _sources(config)
    torch.manual_seed(config.seed)
    network = DepthNetwork(config.network)
    network.to(device=config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizers = _optimizers(config, network)
    checkpoint = config.run_folder / "checkpoint.pt"
    step = _resume(checkpoint, network, optimizers, average) if checkpoint.is_file() else 0
    saved = logged = time.monotonic()
    sums: dict[str, float] = {}
    since, samples = step, 0
    with (config.run_folder / "log.jsonl").open("a") as log:
        while step < config.steps:
            terms, count = _train_step(config, step, pools, weights, network, optimizers)
            step += 1
            samples += count
            _update_average(average, network, min(config.ema_decay, (1 + step) / (10 + step)))
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            now = time.monotonic()
            if now - logged > 10 or step == config.steps:
                elapsed, taken = now - logged, step - since
                means = {name: value / taken for name, value in sums.items()}
                left = (config.steps - step) * elapsed / taken
                progress = DepthTrainingProgress(step, config.steps, means["total"], samples / elapsed, left)
                log.write(
                    json.dumps(
                        {"step": step, "samples_per_second": round(progress.samples_per_second, 2)}
                        | {name: round(value, 5) for name, value in means.items()}
                    )
                    + "\n"
                )
                log.flush()
                if on_progress:
                    on_progress(progress)
                sums, since, samples, logged = {}, step, 0, now
            if now - saved > config.checkpoint_seconds or step == config.steps:
                _save(checkpoint, step, network, optimizers, average)
                export_weights(config.run_folder / "weights", config.network, average, step)
                saved = now
    return config.run_folder / "weights"


def export_weights(folder: Path, network: DepthNetworkConfig, state: dict[str, Tensor], step: int) -> None:
    """Write `model.safetensors` (float16) and `config.json`."""
    from safetensors.torch import save_file

    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({name: value.to("cpu", torch.float16).contiguous() for name, value in state.items()}, temporary)
    write_json(folder / "config.json", {"network": network.to_dict(), "step": step})


def _optimizers(config: DepthTrainingConfig, network: DepthNetwork) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the first and the last layer, Adam for those two and for all vectors."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in network.named_parameters():
        hidden = parameter.ndim >= 2 and not name.startswith(("stem", "head"))
        (matrices if hidden else others).append(parameter)
    return [
        Muon(matrices, config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adam_learning_rate, weight_decay=0.0, betas=(0.9, 0.99)),
    ]


def _train_step(
    config: DepthTrainingConfig,
    step: int,
    pools: list[list[RgbdFrame]],
    weights: np.ndarray,
    network: DepthNetwork,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[dict[str, Tensor], int]:
    """One update; its loss terms and the number of samples."""
    rng = np.random.default_rng((config.seed, step))
    growth = [factor for start, factor in config.growth if start <= step][-1]
    width, height = (round(side * growth / STRIDE) * STRIDE for side in _SIZES[int(rng.integers(len(_SIZES)))])
    count = max(config.batch_pixels // (width * height), 1)
    chosen = [pools[i] for i in rng.choice(len(pools), size=count, p=weights)]
    frames = [pool[int(rng.integers(len(pool)))] for pool in chosen]
    batch = draw_batch(frames, width, height, config.hint_share, rng).to(config.device)
    factor = _schedule(config, step)
    for optimizer, rate in zip(optimizers, (config.learning_rate, config.adam_learning_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
    log_depth, sky_logit = network(batch.image, batch.rays, batch.hint)
    terms = depth_loss(log_depth, sky_logit, batch.depth, batch.sky, (batch.hint > 0).any(dim=2).any(dim=1))
    network.zero_grad(set_to_none=True)
    terms["total"].backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {name: value.detach() for name, value in terms.items()}, count


def _schedule(config: DepthTrainingConfig, step: int) -> float:
    """Warm up, stay, fall linearly to zero."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return warm * min(1.0, (config.steps - step) / max(config.decay_steps, 1))


def _update_average(average: dict[str, Tensor], network: DepthNetwork, decay: float) -> None:
    with torch.no_grad():
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)


def _sources(config: DepthTrainingConfig) -> tuple[list[list[RgbdFrame]], np.ndarray]:
    """Pools of frames and the share of each."""
    pools, weights = [], []
    real = sum(source.weight for source in config.sources)
    for source in config.sources:
        pools.append(split_held_out(read_rgbd_folder(source.folder, 320), source.held_out)[0])
        weights.append((1 - config.procedural_share) * source.weight / real)
    if config.procedural_share > 0:
        folder = config.procedural_folder or config.run_folder / "procedural"
        pools.append(procedural_frames(folder, config.procedural_count, config.seed, config.device))
        weights.append(config.procedural_share)
    return pools, np.array(weights) / sum(weights)


def _save(
    path: Path, step: int, network: DepthNetwork, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]
) -> None:
    state = {"step": step, "network": network.state_dict(), "average": average}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path, network: DepthNetwork, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]
) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise InputError(f"{path}: belongs to another network; choose another run folder") from error
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    for name, value in state["average"].items():
        average[name].copy_(value)
    return int(state["step"])
