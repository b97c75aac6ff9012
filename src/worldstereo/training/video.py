"""Training of the video model in the paper's layout: flow matching, one stage a run, resumable to the step.

What a stage trains says `STAGES`; everything else stays as it is, bit for bit. Conditions are made by the pipeline that
also serves them to users. A sample's clip, noise, time and missing conditions are functions of the seed, the sample's
number in the run and the step, however a step is divided into processes and passes.

Sources: WorldStereo (arXiv 2603.02049) for the stages; logit-normal times: Esser et al. (arXiv 2403.03206), §3.1.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.models.paper import PaperTransformer
from worldstereo.training.clip_sources import clip_mixture, in_advance
from worldstereo.training.flow_objective import FlowObjective
from worldstereo.training.lanes import open_lanes
from worldstereo.training.loop import (
    DataClock,
    Saving,
    Schedule,
    TrainingLog,
    TrainingProgress,
    TrainingState,
    make_optimizers,
    train_steps,
)
from worldstereo.training.model_folder import begin_model, write_part
from worldstereo.training.run_folder import alone_in_run_folder
from worldstereo.training.sample_sheets import sample_sheets
from worldstereo.training.setup import load_for_training, start_accelerator
from worldstereo.training.stages import STAGES
from worldstereo.training.training_clip import TrainingClip
from worldstereo.training.video_config import VideoTrainingConfig

_CLIP_NORM = 1.0


@alone_in_run_folder
def train_video(
    config: VideoTrainingConfig,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    deadline: float = math.inf,
) -> Path:
    """Run a stage, or go on with it, and return the model's folder, which generators load.

    The weights there are averaged and float16. Under `accelerate launch` every process calls this; the first one
    writes.

    Args:
        deadline: see `train_steps`.

    Raises:
        InputError: the configuration does not fit the data, the model it starts from or the checkpoint.
    """
    if config.lanes > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"lanes is {config.lanes} but must be 1 where several processes train")
    accelerator = start_accelerator(config)
    stage, main = STAGES[config.stage], accelerator.is_main_process
    with accelerator.main_process_first():
        folder = begin_model(config)
    pipeline = load_for_training(folder, config, str(accelerator.device))
    network: PaperTransformer = pipeline.network
    network.train_only(*stage.trains)
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    optimizers = make_optimizers(
        parameters,
        lambda name: "blocks." in name and not name.endswith("scale_shift_table"),
        config.learning_rate,
        config.adam_learning_rate,
        config.weight_decay,
        config.optimizer,
        config.mixed_precision,
    )
    prepared, *optimizers = accelerator.prepare(network, *optimizers)
    prefixes = tuple(f"{part}." for part in stage.trains)
    trained = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    state = TrainingState(trained, optimizers)
    checkpoint = config.run_folder / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(checkpoint)
    device = str(accelerator.device)
    objective = FlowObjective(config, pipeline)
    mixture = clip_mixture(config.sources, stage.recipe, config.batch_size, config.seed, device)
    processes, passes = accelerator.num_processes, config.accumulation
    first = state.step * passes * processes + accelerator.process_index
    batches = in_advance(
        lambda index: (index * config.batch_size, mixture.batch(index, index // (passes * processes))),
        range(first, config.steps * passes * processes, processes),
        config.loaders,
    )

    clock = DataClock()

    def learn(share: tuple[int, Sequence[TrainingClip]]) -> Tensor:
        first_sample, clips = share
        loss = objective.loss(prepared, clips, first_sample) * (len(clips) / config.batch_size)
        accelerator.backward(loss + 0 * sum(p.sum() for p in parameters.values()))
        return loss.detach()

    def take_step(step: int) -> tuple[dict[str, Tensor], int]:
        terms: dict[str, Tensor] = {}
        losses = []
        for _ in range(passes):
            with clock.waiting():
                shares = lanes.shares(*next(batches))
            with accelerator.accumulate(prepared):
                losses += lanes.map(learn, shares)
                if accelerator.sync_gradients:
                    terms["gradient_norm"] = accelerator.clip_grad_norm_(parameters.values(), _CLIP_NORM).detach()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        terms["total"] = accelerator.reduce(torch.stack(losses).sum() / passes, "mean")
        return terms, passes * processes * config.batch_size

    def export() -> None:
        for part, prefix in zip(stage.trains, prefixes, strict=True):
            weights = {name.removeprefix(prefix): x for name, x in state.average.items() if name.startswith(prefix)}
            write_part(folder / part, getattr(network, part), config.largest_file, weights)

    log = TrainingLog(config.run_folder, state.step) if main else None
    with open_lanes(config.lanes) as lanes:
        train_steps(
            state,
            Schedule(config.steps, config.warmup_steps, config.decay_steps),
            take_step,
            log,
            Saving(checkpoint, config.checkpoint_seconds, export) if main else None,
            [sample_sheets(pipeline, config, state, log, device)] if log else [],
            config.ema_decay,
            on_progress if main else None,
            clock,
            deadline,
        )
    accelerator.wait_for_everyone()
    return folder
