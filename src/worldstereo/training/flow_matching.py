"""Flow matching: x_t = (1 − t)·x_0 + t·noise, velocity = noise − x_0, t in [0, 1] per sample."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TIME_STEPS = 1000.0
"""The networks' time step at t = 1."""

_LEAST_TIME = 1e-3
_LEAST_WEIGHED_TIME = 0.5


def draw_time(rng: np.random.Generator, mean: float, std: float, uniform_share: float) -> float:
    """A time in [0.001, 1]: logit-normal, or of a share of the draws uniform.

    Args:
        mean, std: of the logit; a larger mean gives more samples near pure noise, where sampling begins.
        uniform_share: of the draws.
    """
    logit, uniform, chance = rng.normal(mean, std), rng.random(), rng.random()
    time = uniform if chance < uniform_share else 1 / (1 + np.exp(-logit))
    return float(np.clip(time, _LEAST_TIME, 1.0))


def noised(
    clean: Float[Tensor, "b c f h w"], noise: Float[Tensor, "b c f h w"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b c f h w"]:
    """x_t."""
    return torch.lerp(clean, noise, time.reshape(-1, 1, 1, 1, 1))


def velocity_loss(
    velocity: Float[Tensor, "b c f h w"],
    clean: Float[Tensor, "b c f h w"],
    noise: Float[Tensor, "b c f h w"],
    time: Float[Tensor, " b"],
    weight: Float[Tensor, "b f h w"],
    predicts_clean: bool,
) -> Float[Tensor, " b"]:
    """Mean square error of the velocity, of each sample.

    Args:
        weight: of the places; only ratios within a sample count.
        predicts_clean: the network gives clean latents, of which the velocity is made. Its error at time t is theirs
            over t, which would let small t drown the rest, where little is left to guess: it counts as theirs over
            max(t, 0.5).
    """
    error = (velocity - (noise - clean)).square().mean(dim=1)
    loss = (error * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))
    return loss * (time / time.clamp(min=_LEAST_WEIGHED_TIME)).square() if predicts_clean else loss
