"""Distillation of a model in the paper's layout to a few steps, resumable to the step.

Only the backbone is trained, on the camera task alone: the control branch with guidance renders, which is frozen, and
no stereo branch. All branches are then copied unchanged beside the new backbone, into which they plug without joint
training (WorldStereo, arXiv 2603.02049). No frames are needed, only conditions; the pipeline makes them of the clips.
"""

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.files import read_json, write_json
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.pretrained import load_complete
from worldstereo.models.transformer import KeyframeTransformer
from worldstereo.pipelines.keyframe_video import KeyframeVideoPipeline
from worldstereo.training.beginning import Beginning
from worldstereo.training.clip_sources import clip_mixture, in_advance
from worldstereo.training.distillation_config import DistillationConfig
from worldstereo.training.dmd import DistributionMatching, DmdBatch
from worldstereo.training.flow_matching import TIME_STEPS
from worldstereo.training.loop import (
    DataClock,
    Saving,
    Schedule,
    TrainingLog,
    TrainingProgress,
    TrainingState,
    train_steps,
)
from worldstereo.training.model_folder import write_part
from worldstereo.training.run_folder import alone_in_run_folder
from worldstereo.training.sample_sheets import sample_sheets
from worldstereo.training.setup import load_for_training, start_accelerator
from worldstereo.training.stages import STAGES
from worldstereo.training.training_clip import TrainingClip, collate

_BETAS = (0.0, 0.99)
"""Of Adam: without momentum, as both scores chase each other."""


@alone_in_run_folder
def distill_video(
    config: DistillationConfig,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    deadline: float = math.inf,
) -> Path:
    """Distil, or go on with it, and return the model's folder, which generators load as one of few steps.

    Its branches and autoencoder are the teacher's files; the backbone's weights are averaged and float16. Under
    `accelerate launch` every process calls this; the first one writes.

    Args:
        deadline: see `train_steps`.

    Raises:
        InputError: the configuration does not fit the clips, the teacher or the checkpoint.
    """
    training, recipe = config.as_training(), STAGES["distill"].recipe
    accelerator = start_accelerator(training)
    process, processes, device = accelerator.process_index, accelerator.num_processes, str(accelerator.device)
    with accelerator.main_process_first():
        folder = _begin(config)
    pipeline = load_for_training(folder, training, device)
    student, fake, teacher = _players(pipeline.network, config, device)
    pipeline.network = student
    optimizers = [
        torch.optim.AdamW(network.backbone.parameters(), lr=rate, betas=_BETAS, weight_decay=0.0)
        for network, rate in ((student, config.learning_rate), (fake, config.fake_learning_rate))
    ]
    trained = {"student": student.backbone, "fake": fake.backbone}
    tensors = {f"{name}.{key}": x for name, part in trained.items() for key, x in part.state_dict().items()}
    models = [VideoVelocity(network, config.mixed_precision == "bf16") for network in (student, fake, teacher)]
    generator, fake_score, *optimizers = accelerator.prepare(*models[:2], *optimizers)
    state = TrainingState(tensors, optimizers)
    checkpoint = config.run_folder / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(checkpoint)
    dmd = DistributionMatching(
        generator, models[2], fake_score, optimizers[:1], optimizers[1:], config.dmd, process, processes
    )
    updates = (config.dmd.fake_updates + 1) * processes
    mixture = clip_mixture(config.sources, recipe, config.batch_size, config.seed, device)
    numbers = range(state.step * updates + process, config.steps * updates, processes)
    clips = in_advance(lambda number: mixture.batch(number, number // processes), numbers, config.loaders)
    text = pipeline.encode_prompts((config.prompt, pipeline.clip_format.negative_prompt)).to(device)

    clock = DataClock()

    def next_batch(number: int) -> DmdBatch:
        with clock.waiting():
            chosen = next(clips)
        return dmd_batch(pipeline, chosen, text)

    def take_step(step: int) -> tuple[dict[str, Tensor], int]:
        losses = dmd.train_step(step, next_batch)
        terms = {"total": losses.difference, "fake": losses.fake}
        return {name: accelerator.reduce(x, "mean") for name, x in terms.items()}, updates * config.batch_size

    def export() -> None:
        weights = {k.removeprefix("student."): x for k, x in state.average.items() if k.startswith("student.")}
        write_part(folder / "backbone", student.backbone, config.largest_file, weights)

    log = TrainingLog(config.run_folder, state.step) if accelerator.is_main_process else None
    train_steps(
        state,
        Schedule(config.steps, config.warmup_steps, config.decay_steps),
        take_step,
        log,
        Saving(checkpoint, config.checkpoint_seconds, export) if log else None,
        [sample_sheets(pipeline, training, state, log, device)] if log else [],
        config.ema_decay,
        on_progress if log else None,
        clock,
        deadline,
    )
    accelerator.wait_for_everyone()
    return folder


class VideoVelocity(nn.Module):
    """A network as distribution matching calls it. Conditions are its arguments by name; `first_frame` is mask and
    condition latent."""

    def __init__(self, network: PaperTransformer, in_bfloat16: bool) -> None:
        super().__init__()
        self.network, self._in_bfloat16 = network, in_bfloat16

    def forward(
        self, x: Float[Tensor, "b c f h w"], time: Float[Tensor, " b"], conditions: dict[str, Any]
    ) -> Float[Tensor, "b c f h w"]:
        """The velocity at a time in [0, 1]."""
        arguments = {name: value for name, value in conditions.items() if name != "first_frame"}
        latents = torch.cat([x, conditions["first_frame"]], dim=1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            return self.network(latents, time * TIME_STEPS, return_dict=False, **arguments)[0]


@torch.no_grad()
def dmd_batch(pipeline: KeyframeVideoPipeline, clips: Sequence[TrainingClip], text: Float[Tensor, "2 t d"]) -> DmdBatch:
    """The conditions of clips, with the prompt and with the negative prompt."""
    batch = collate(clips)
    conditions: dict[str, Any] = pipeline.prepare_batch(batch)
    images = [pipeline.encode_image(image, 1) for image in batch["image"]]
    conditions["encoder_hidden_states_image"] = None if images[0] is None else torch.cat(images)  # type: ignore[arg-type]
    wanted, unwanted = (conditions | {"encoder_hidden_states": tokens.expand(len(clips), -1, -1)} for tokens in text)
    shape = (len(clips), pipeline.codec.latent_channels, *conditions["first_frame"].shape[2:])
    return DmdBatch(shape, wanted, unwanted)


def _begin(config: DistillationConfig) -> Path:
    """A copy of the teacher's folder in the run folder, made if it is not there, whose config says few steps.

    Raises:
        InputError: the run began with another teacher, or is another stage's.
    """
    folder = config.run_folder / "model"
    beginning = Beginning.of("distill", {"start": config.start})
    if not folder.is_dir():
        config.run_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.run_folder, prefix=".writing-") as temporary:
            made = shutil.copytree(config.start, Path(temporary) / "model")
            beginning.keep(config.run_folder)  # first, so that no model is without
            os.replace(made, folder)
    elif kept := Beginning.kept(config.run_folder):
        kept.require_same(beginning, config.run_folder)
    few_steps = {
        "dmd_start_steps": config.dmd.last_step_time,
        "dmd_end_steps": TIME_STEPS,
        "dmd_steps": config.dmd.steps,
        "gen_shift": config.dmd.shift,
    }
    write_json(folder / "config.json", read_json(config.start / "config.json") | few_steps)
    return folder


def _players(
    network: PaperTransformer, config: DistillationConfig, device: str
) -> tuple[PaperTransformer, PaperTransformer, PaperTransformer]:
    """Student, fake score and teacher: the teacher's backbone three times, and one frozen control branch."""
    backbone = load_complete(KeyframeTransformer, config.start / "backbone", torch_dtype=torch.float32).to(device)
    network.backbone.load_state_dict(backbone.state_dict())  # the folder's may have been distilled in part
    student = PaperTransformer(network.backbone, network.control)
    fake = PaperTransformer(copy.deepcopy(student.backbone), network.control)
    for trained in (student, fake):
        trained.train_only("backbone")
    return student, fake, PaperTransformer(backbone, network.control).requires_grad_(False)
