"""Distribution-matching distillation on distributions of the plane, whose velocities are known exactly."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.training.dmd import (
    DistributionMatching,
    DmdBatch,
    DmdConfig,
    clean,
    few_step_samples,
    matching_loss,
)
from worldstereo.training.loop import TrainingState

ANGLES = torch.arange(8) * math.pi / 4
RING = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
RING_STD = 0.4
CLASSES = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])


class Mixture(nn.Module):
    """The exact velocity of equally likely Gaussians; a condition picks one of them for each sample, -1 all."""

    def __init__(self, means: Tensor, std: float) -> None:
        super().__init__()
        self.means, self.std = nn.Parameter(means.clone()), std

    def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        time = time[:, None]
        variance = (1 - time) ** 2 * self.std**2 + time**2
        offset = x[:, None] - (1 - time[:, None]) * self.means
        likelihood = -offset.square().sum(dim=2) / (2 * variance)
        if conditions is not None:
            others = (torch.arange(len(self.means)) != conditions[:, None]) & (conditions[:, None] >= 0)
            likelihood = likelihood.masked_fill(others, -math.inf)
        expected = self.means + ((1 - time) * self.std**2 / variance)[:, None] * offset
        return (x - (likelihood.softmax(dim=1)[..., None] * expected).sum(dim=1)) / time

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        which = torch.randint(len(self.means), (count,), generator=random)
        return self.means.detach()[which] + self.std * torch.randn(count, 2, generator=random)


class SmallNetwork(nn.Module):
    """A velocity that has to be learned; the condition is a class or none."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [(2 + 8 + 1, width), (width, width), (width, width)]
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        waves = time[:, None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        label = torch.zeros(len(x), 1) if conditions is None else conditions[:, None].float()
        return self.layers(torch.cat([x, waves.sin(), waves.cos(), label], dim=1))


class Affine(nn.Module):
    """As a generator of one step: mean + std · noise. As a score: the exact velocity of that Gaussian."""

    def __init__(self, mean: float, std: float, is_generator: bool) -> None:
        super().__init__()
        self.mean, self.std, self.is_generator = nn.Parameter(torch.full((2,), mean)), std, is_generator

    def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        if self.is_generator:
            return x - (self.mean + self.std * x)
        time = time[:, None]
        variance = (1 - time) ** 2 * self.std**2 + time**2
        return (x - self.mean - (1 - time) * self.std**2 / variance * (x - (1 - time) * self.mean)) / time


class Calls(nn.Module):
    """Notes for each call of a model whether it was differentiated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.with_gradient = model, []

    def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
        self.with_gradient.append(torch.is_grad_enabled())
        return self.model(x, time, conditions)


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Mean distance of sorted projections, over 32 directions."""
    angles = torch.arange(32) * math.pi / 32
    directions = torch.stack([angles.cos(), angles.sin()])
    return float(((a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values).abs().mean())


def roughly_taught(teacher: Mixture, seed: int, steps: int = 500) -> SmallNetwork:
    """A network after a little flow matching: fair with many steps, poor with few."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = SmallNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        samples, noise = teacher.draw(256, random), torch.randn(256, 2, generator=random)
        time = torch.rand(256, generator=random)
        velocity = network(torch.lerp(samples, noise, time[:, None]), time, None)
        loss = nn.functional.mse_loss(velocity, noise - samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def distillation(
    teacher: nn.Module, generator: nn.Module, fake: nn.Module, rate: float = 5e-4, **config: Any
) -> DistributionMatching:
    adam = {"betas": (0.0, 0.99)}
    optimizers = (
        [torch.optim.Adam(generator.parameters(), lr=rate, **adam)],
        [torch.optim.Adam(fake.parameters(), lr=4 * rate, **adam)],
    )
    return DistributionMatching(
        generator, teacher, fake, *optimizers, DmdConfig(**({"guidance": 1.0, "score_shift": 1.0} | config))
    )


def run(dmd: DistributionMatching, steps: int, batch: DmdBatch) -> dict[str, Tensor]:
    """Train; the generator's weights, averaged as trainers average them. Rates fall over the second half."""
    generator, fake = (dict(model.named_parameters()) for model in (dmd.generator, dmd.fake_score))
    both = {f"g.{name}": x for name, x in generator.items()} | {f"f.{name}": x for name, x in fake.items()}
    state = TrainingState(both, [*dmd.generator_optimizers, *dmd.fake_optimizers])
    for step in range(steps):
        state.set_rates(min(1.0, 2 * (steps - step) / steps))
        dmd.train_step(step, lambda number: batch)
        state.finish_step(0.98)
    return {name.removeprefix("g."): x for name, x in state.average.items() if name.startswith("g.")}


def distances(seed: int, count: int = 8192) -> tuple[float, float]:
    """Sliced Wasserstein distance of four-step samples to the teacher's, before and after distillation."""
    teacher = Mixture(RING, RING_STD)
    generator = roughly_taught(teacher, seed)
    dmd = distillation(teacher, generator, copy.deepcopy(generator), seed=seed)
    random = torch.Generator().manual_seed(1000 + seed)
    noise, truth = torch.randn(count, 2, generator=random), teacher.draw(count, random)

    def distance() -> float:
        with torch.no_grad():
            return sliced_wasserstein(few_step_samples(generator, dmd.config.scheduler(), noise, None, 4), truth)

    before = distance()
    generator.load_state_dict(run(dmd, 600, DmdBatch((256, 2), None)))
    assert torch.equal(teacher.means, RING)
    assert teacher.means.grad is None
    return before, distance()


def test_four_steps_reach_the_teachers_distribution():
    before, after = distances(seed=0)
    assert before > 0.3
    assert after < before / 5


def test_a_gradient_reaches_the_last_step_alone():
    class OneValueAStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.ones(1000))

        def forward(self, x: Tensor, time: Tensor, conditions: Any) -> Tensor:
            return x * self.values[(time * 999).long()][:, None]

    scheduler = DmdConfig().scheduler()
    for count in (1, 2, 3, 4):
        model = OneValueAStep()
        few_step_samples(model, scheduler, torch.randn(5, 2), None, count).sum().backward()
        assert model.values.grad is not None
        assert model.values.grad.nonzero().flatten().tolist() == [int(scheduler.sigmas[count - 1] * 999)]


def test_samples_of_all_steps_are_the_samplers():
    torch.manual_seed(0)
    model, scheduler, noise = SmallNetwork(), DmdConfig().scheduler(), torch.randn(7, 2)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(x, (timestep / 1000).expand(7), None), timestep, x).prev_sample
    torch.testing.assert_close(few_step_samples(model, scheduler, noise, None, 4), x)


@pytest.mark.parametrize("fake_updates", [1, 5])
def test_each_model_is_differentiated_and_updated_as_often_as_it_should(fake_updates):
    torch.manual_seed(0)
    generator, fake, real = Calls(SmallNetwork()), Calls(SmallNetwork()), Calls(Mixture(RING, 0.3))
    dmd = distillation(real, generator, fake, fake_updates=fake_updates)
    updates = {"generator": 0, "fake": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            updates[name] += 1

        return hook

    dmd.generator_optimizers[0].register_step_post_hook(count("generator"))
    dmd.fake_optimizers[0].register_step_post_hook(count("fake"))
    numbers: list[int] = []

    def batches(number: int) -> DmdBatch:
        numbers.append(number)
        return DmdBatch((4, 2), None)

    counts = set()
    for step in range(12):
        before = len(generator.with_gradient)
        dmd.train_step(step, batches)
        calls = generator.with_gradient[before:]
        assert len(calls) % (fake_updates + 1) == 0
        assert calls == [False] * (len(calls) - 1) + [True]
        counts.add(len(calls) // (fake_updates + 1))
    assert counts == {1, 2, 3, 4}
    assert updates == {"generator": 12, "fake": 12 * fake_updates}
    assert fake.with_gradient == ([True] * fake_updates + [False]) * 12
    assert real.with_gradient == [False] * 12
    assert numbers == list(range(12 * (fake_updates + 1)))
    assert torch.equal(real.model.means, RING)
    assert real.model.means.grad is None


def test_the_loss_has_the_gradient_of_dmd():
    random = torch.Generator().manual_seed(0)
    samples, real, fake = (torch.randn(3, 4, 5, generator=random) for _ in range(3))
    samples.requires_grad_()
    matching_loss(samples, real, fake).backward()
    scale = (samples.detach() - real).abs().mean(dim=(1, 2), keepdim=True)
    assert samples.grad is not None
    torch.testing.assert_close(samples.grad, (fake - real) / scale / samples.numel())


def test_clean_inverts_the_flow():
    samples, noise, time = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0.1, 0.5, 1.0])
    torch.testing.assert_close(clean(torch.lerp(samples, noise, time[:, None]), noise - samples, time), samples)


@pytest.mark.parametrize(("offset", "moves"), [(0.0, 0.0), (0.5, -0.5), (-0.5, 0.5)])
def test_only_a_generator_off_the_teacher_is_moved(offset, moves):
    """The fake score starts wrong and has to find out what the generator, which stands still, makes."""
    teacher, generator = Affine(1.0, 0.5, is_generator=False), Affine(1.0 + offset, 0.5, is_generator=True)
    fake = Affine(0.0, 0.5, is_generator=False)
    still = torch.optim.SGD(generator.parameters(), lr=0.0)
    finding = torch.optim.Adam(fake.parameters(), lr=0.01)
    dmd = DistributionMatching(
        generator, teacher, fake, [still], [finding], DmdConfig(steps=1, guidance=1.0, score_shift=1.0)
    )
    gradients = []
    for step in range(300):
        dmd.train_step(step, lambda number: DmdBatch((256, 2), None))
        assert generator.mean.grad is not None
        gradients.append(generator.mean.grad.clone())
    assert gradients[0].abs().min() > 0.1
    late = -torch.stack(gradients[200:]).mean(dim=0)
    assert ((late.sign() == np.sign(moves)) | (moves == 0)).all()
    assert (late.abs() > 0.1).all() if moves else (late.abs() < 0.01).all()


def test_guidance_sharpens_classes():
    """Two wide classes overlap; under guidance fewer of a class's samples lie on the other's side."""
    teacher = Mixture(CLASSES, 1.0)
    label = torch.arange(256) % 2
    batch = DmdBatch((256, 2), label, torch.full_like(label, -1))
    noise = torch.randn(4096, 2, generator=torch.Generator().manual_seed(1))
    many = torch.arange(4096) % 2
    wrong = {}
    for guidance in (1.0, 3.0):
        torch.manual_seed(0)
        generator = SmallNetwork()
        dmd = distillation(teacher, generator, copy.deepcopy(generator), 1e-3, guidance=guidance, steps=1)
        generator.load_state_dict(run(dmd, 200, batch))
        with torch.no_grad():
            samples = few_step_samples(generator, dmd.config.scheduler(), noise, many, 1)
        wrong[guidance] = float((samples[:, 0].sign() != 2 * many - 1).float().mean())
    assert wrong[1.0] == pytest.approx(0.159, abs=0.06)  # of the classes themselves
    assert wrong[3.0] < wrong[1.0] / 2


def test_a_resumed_run_has_the_same_curve(tmp_path):
    def start() -> tuple[DistributionMatching, TrainingState]:
        torch.manual_seed(0)
        generator, fake = SmallNetwork(), SmallNetwork()
        dmd = distillation(Mixture(RING, 0.3), generator, fake)
        both = nn.ModuleDict({"generator": generator, "fake": fake})
        return dmd, TrainingState(dict(both.named_parameters()), [*dmd.generator_optimizers, *dmd.fake_optimizers])

    def go_on(dmd: DistributionMatching, state: TrainingState, until: int) -> list[tuple[float, float]]:
        curve = []
        while state.step < until:
            losses = dmd.train_step(state.step, lambda number: DmdBatch((16, 2), None))
            state.finish_step(0.9)
            curve.append((float(losses.fake), float(losses.difference)))
        return curve

    dmd, state = start()
    whole = go_on(dmd, state, 6)
    stopped, kept = start()
    assert go_on(stopped, kept, 3) == whole[:3]
    kept.save(tmp_path / "checkpoint.pt")
    resumed, fresh = start()
    fresh.load(tmp_path / "checkpoint.pt")
    assert go_on(resumed, fresh, 6) == whole[3:]
    for name, value in state.average.items():
        assert torch.equal(fresh.average[name], value), name


def test_processes_make_samples_of_their_own():
    curves = []
    for process in (0, 1):
        torch.manual_seed(0)
        dmd = distillation(Mixture(RING, 0.3), SmallNetwork(), SmallNetwork())
        both = DistributionMatching(
            dmd.generator,
            dmd.real_score,
            dmd.fake_score,
            dmd.generator_optimizers,
            dmd.fake_optimizers,
            dmd.config,
            process,
            processes=2,
        )
        numbers: list[int] = []

        def batches(number: int, numbers: list[int] = numbers) -> DmdBatch:
            numbers.append(number)
            return DmdBatch((4, 2), None)

        losses = both.train_step(1, batches)
        curves.append(float(losses.fake))
        assert numbers == [12 + 2 * i + process for i in range(6)]
    assert curves[0] != curves[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"fake_updates": 0},
        {"last_step_time": 1000.0},
        {"least_time": 0.0},
        {"least_time": 0.9, "most_time": 0.5},
        {"guidance": 0.0},
        {"score_shift": -1.0},
    ],
)
def test_wrong_settings_are_refused(fields):
    with pytest.raises(InputError):
        DmdConfig(**fields)
