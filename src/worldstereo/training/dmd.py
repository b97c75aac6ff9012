"""Distribution-matching distillation (DMD): a few-step generator learns the distribution of a slow teacher.

Nothing here knows of videos: a model is a module `velocity = model(x_t, t, conditions)` of linear flow matching,
x_t = (1 − t)·x_0 + t·noise and velocity = noise − x_0, with t in [0, 1] per sample.

Three of them take part. The generator makes samples in a few steps. The real score is the teacher, frozen and guided.
The fake score follows the generator: it is trained, several times per generator step, by flow matching on the
generator's samples. Where both scores denoise a noised sample differently, the sample moves from what the fake score
sees towards what the real score sees. There is no GAN loss and no regression to the teacher's samples.

Sources: DMD (arXiv 2311.18828; gradient and its normalisation), DMD2 (arXiv 2405.14867; more fake updates than
generator steps, no regression, the generator is trained on inputs from its own earlier steps), WorldStereo (arXiv
2603.02049; 4 steps, 5 fake updates, guidance 5 of the real score only, gradient through the last step alone).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.schedulers.few_step import FewStepFlowScheduler
from worldstereo.training.config_file import require_whole
from worldstereo.training.flow_matching import TIME_STEPS

_LEAST_DISTANCE = 1e-5
_LEAST_WEIGHED_TIME = 0.1
"""Below it the error of a velocity counts less, like that of the clean samples: networks that predict these would
otherwise learn only of the smallest times."""


@dataclass(frozen=True)
class DmdConfig:
    """How a generator is distilled; the defaults are the paper's, and for what it does not say, common practice.

    Attributes:
        steps: of the finished generator.
        last_step_time: of its last step before bending, of 1000 (`FewStepFlowScheduler`'s start).
        shift: bends the times of the generator's steps towards noise.
        guidance: of the real score; 1 for models without an unconditional context.
        fake_updates: updates of the fake score per generator step.
        least_time, most_time: between which both scores are compared.
        score_shift: bends the times at which they are compared, and at which the fake score is trained.
        clip_norm: largest norm of a gradient.
        seed: of all noise and times.
    """

    steps: int = 4
    last_step_time: float = 250.0
    shift: float = 5.0
    guidance: float = 5.0
    fake_updates: int = 5
    least_time: float = 0.02
    most_time: float = 0.98
    score_shift: float = 5.0
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole(self, 0, "seed")
        if self.steps < 1 or self.fake_updates < 1 or not 0 <= self.last_step_time < TIME_STEPS:
            raise InputError("steps and fake_updates must be at least 1, and last_step_time in [0, 1000)")
        if not 0 < self.least_time < self.most_time <= 1:
            raise InputError("least_time and most_time must be increasing within (0, 1]")
        if not all(0 < x < math.inf for x in (self.shift, self.score_shift, self.guidance, self.clip_norm)):
            raise InputError("shift, score_shift, guidance and clip_norm must be positive and finite")

    def scheduler(self) -> FewStepFlowScheduler:
        """The generator's sampler."""
        return FewStepFlowScheduler(self.last_step_time, TIME_STEPS, self.steps, self.shift)


@dataclass(frozen=True)
class DmdBatch:
    """What samples to make; no data is needed, only conditions.

    Attributes:
        shape: of the samples, [b, ...].
        conditions: handed to the models as they are.
        unconditional: what the real score is guided away from; unused with guidance 1.
    """

    shape: tuple[int, ...]
    conditions: Any
    unconditional: Any = None


@dataclass(frozen=True)
class DmdLosses:
    """Of one generator step and the fake updates before it.

    Attributes:
        fake: flow-matching loss of the fake score, mean of the updates.
        difference: mean distance between what both scores see; towards 0 as the generator becomes the teacher.
    """

    fake: Float[Tensor, ""]
    difference: Float[Tensor, ""]


class DistributionMatching:
    """One distillation. A step is a function of the weights, the optimisers, the seed and its number, so those are all
    that a checkpoint must hold."""

    def __init__(
        self,
        generator: nn.Module,
        real_score: nn.Module,
        fake_score: nn.Module,
        generator_optimizers: Sequence[Any],
        fake_optimizers: Sequence[Any],
        config: DmdConfig,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """
        Args:
            generator: starts as a copy of the teacher.
            real_score: the teacher; never changed.
            fake_score: starts as a copy of the teacher too.
            generator_optimizers, fake_optimizers: of all that is trained.
            process, processes: the number of this one, and how many there are; each makes samples of its own.
        """
        self.generator, self.real_score, self.fake_score = generator, real_score, fake_score
        self.generator_optimizers, self.fake_optimizers = generator_optimizers, fake_optimizers
        self.config = config
        self._process, self._processes = process, processes
        self._device = next(generator.parameters()).device
        self._scheduler = config.scheduler()
        self._scheduler.set_timesteps(config.steps, device=self._device)

    def train_step(self, step: int, batches: Callable[[int], DmdBatch]) -> DmdLosses:
        """Update the fake score `fake_updates` times, then the generator once.

        All of them look at samples after the same random number of the generator's steps. Were it drawn anew for every
        update, the fake score would know only the mixture of what comes out after 1, 2, ... steps, and errors of one
        that others make up for would stay (in the test's toy four steps end 0.11 to 0.20 from the teacher, not 0.07).

        Args:
            batches: from the number of an update, of all processes and of the whole run, to its batch.
        """
        count = 1 + int(np.random.default_rng((self.config.seed, step)).integers(self.config.steps))
        updates = self.config.fake_updates + 1
        *before, last = ((step * updates + i) * self._processes + self._process for i in range(updates))
        fake = torch.stack([self._update_fake(number, batches(number), count) for number in before]).mean()
        return DmdLosses(fake, self._update_generator(last, batches(last), count))

    def _update_fake(self, number: int, batch: DmdBatch, count: int) -> Float[Tensor, ""]:
        """Flow matching on samples of the generator as it is now."""
        random = self._random(number)
        with torch.no_grad():
            samples = self._samples(random, batch, count)
        time, noise = self._time(random, len(samples)), self._noise(random, batch)
        velocity = self.fake_score(_noised(samples, noise, time), time, batch.conditions)
        weight = _per_sample(time / time.clamp(min=_LEAST_WEIGHED_TIME), samples)
        loss = nn.functional.mse_loss(weight * velocity.float(), weight * (noise - samples))
        self._descend(loss, self.fake_optimizers)
        return loss.detach()

    def _update_generator(self, number: int, batch: DmdBatch, count: int) -> Float[Tensor, ""]:
        """Move the generator's samples from the fake towards the real distribution."""
        random = self._random(number)
        samples = self._samples(random, batch, count)
        time, noise = self._time(random, len(samples)), self._noise(random, batch)
        with torch.no_grad():
            x = _noised(samples, noise, time)
            real = clean(x, guided_velocity(self.real_score, x, time, batch, self.config.guidance), time)
            fake = clean(x, self.fake_score(x, time, batch.conditions), time)
        self._descend(matching_loss(samples, real, fake), self.generator_optimizers)
        return (fake - real).abs().mean()

    def _samples(self, random: torch.Generator, batch: DmdBatch, count: int) -> Float[Tensor, "b *d"]:
        return few_step_samples(self.generator, self._scheduler, self._noise(random, batch), batch.conditions, count)

    def _time(self, random: torch.Generator, count: int) -> Float[Tensor, " b"]:
        least, most, shift = self.config.least_time, self.config.most_time, self.config.score_shift
        time = torch.rand(count, generator=random)
        return (least + (most - least) * shift * time / (1 + (shift - 1) * time)).to(self._device)

    def _noise(self, random: torch.Generator, batch: DmdBatch) -> Float[Tensor, "b *d"]:
        return torch.randn(batch.shape, generator=random).to(self._device)

    def _random(self, number: int) -> torch.Generator:
        """Chance of one update, the same on every device."""
        seed = np.random.SeedSequence((self.config.seed, number)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))

    def _descend(self, loss: Float[Tensor, ""], optimizers: Sequence[Any]) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()


def few_step_samples(
    generator: nn.Module,
    scheduler: FewStepFlowScheduler,
    noise: Float[Tensor, "b *d"],
    conditions: Any,
    count: int,
) -> Float[Tensor, "b *d"]:
    """What the generator takes for the clean samples in step `count`; in the sampler's last, its result.

    Gradients reach only this step, not the `count` − 1 before it, which make its input.
    """
    x = noise
    with torch.no_grad():
        for timestep, sigma in zip(scheduler.timesteps[: count - 1], scheduler.sigmas, strict=False):
            x = scheduler.step(generator(x, sigma.expand(len(x)), conditions).float(), timestep, x).prev_sample
    time = scheduler.sigmas[count - 1].expand(len(x))
    return clean(x, generator(x, time, conditions), time)


def guided_velocity(
    model: nn.Module, x: Float[Tensor, "b *d"], time: Float[Tensor, " b"], batch: DmdBatch, guidance: float
) -> Float[Tensor, "b *d"]:
    """Classifier-free guidance: away from the unconditional velocity, which guidance 1 does without."""
    velocity = model(x, time, batch.conditions).float()
    if guidance == 1:
        return velocity
    unconditional = model(x, time, batch.unconditional).float()
    return unconditional + guidance * (velocity - unconditional)


def matching_loss(
    samples: Float[Tensor, "b *d"], real: Float[Tensor, "b *d"], fake: Float[Tensor, "b *d"]
) -> Float[Tensor, ""]:
    """A loss whose gradient in `samples` is DMD's: (fake − real) / mean |samples − real|, over the number of elements.

    Args:
        samples: of the generator.
        real, fake: what both scores take for clean when these samples, noised, are shown to them. The mean is each
            sample's own, so that all times count alike.
    """
    with torch.no_grad():
        distance = (samples - real).abs().flatten(1).mean(dim=1).clamp(min=_LEAST_DISTANCE)
        target = samples - (fake - real) / _per_sample(distance, samples)
    return 0.5 * nn.functional.mse_loss(samples, target)


def clean(
    x: Float[Tensor, "b *d"], velocity: Float[Tensor, "b *d"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b *d"]:
    """The clean samples that this velocity points to."""
    return x - _per_sample(time, x) * velocity.float()


def _noised(
    samples: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b *d"]:
    return torch.lerp(samples, noise, _per_sample(time, samples))


def _per_sample(values: Float[Tensor, " b"], like: Float[Tensor, "b *d"]) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
