"""The sampler of the distilled models: a few deterministic Euler steps along the flow from noise to latents."""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FewStepOutput:
    """The latents after a step."""

    prev_sample: Float[Tensor, "*b"]


class FewStepFlowScheduler(SchedulerMixin, ConfigMixin):
    """Flow matching in `steps` Euler steps; x(σ) = (1 − σ)·latents + σ·noise, velocity = noise − latents.

    σ runs through `steps` equal parts of [`start`, `end`] / `end`, from the noisy end down, bent by `shift`:
    σ' = shift·σ / (1 + (shift − 1)·σ); after the last one σ = 0. The network's time step is σ'·`end`.
    Source: the official release's distilled scheduler; (250, 1000, 4, 5) gives times 1000, 937.5, 833.3, 625.

    Args:
        start: the last step's time before bending; unused with one step, which is at `end`.
        end: the first step's time; the network's time step at pure noise.
        steps: number of steps.
        shift: of the times, at least 1 keeps more of them near noise.

    Raises:
        ValueError: not 0 <= start < end, or steps or shift not positive.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, start: float, end: float, steps: int, shift: float) -> None:
        if not 0 <= start < end or steps < 1 or shift <= 0:
            raise ValueError(f"no schedule of {steps} steps from {end} to {start} with shift {shift} exists")
        sigmas = torch.linspace(end, start, steps, dtype=torch.float32) / end
        self.sigmas: Float[Tensor, " steps"] = shift * sigmas / (1 + (shift - 1) * sigmas)
        self.timesteps: Float[Tensor, " steps"] = self.sigmas * end

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device = "cpu") -> None:
        """Move to `device`; a distilled model has only its own number of steps.

        Raises:
            ValueError: another number of steps.
        """
        if num_inference_steps != self.config.steps:
            raise ValueError(f"this model was distilled to {self.config.steps} steps, not {num_inference_steps}")
        self.sigmas, self.timesteps = self.sigmas.to(device), self.timesteps.to(device)

    def step(
        self, model_output: Float[Tensor, "*b"], timestep: Float[Tensor, ""], sample: Float[Tensor, "*b"]
    ) -> FewStepOutput:
        """One Euler step from `timestep`, one of `timesteps`, to the next, or to the clean latents."""
        index = int((self.timesteps - timestep).abs().argmin())
        after = self.sigmas[index + 1] if index + 1 < len(self.sigmas) else 0.0
        return FewStepOutput(sample + (after - self.sigmas[index]) * model_output)

    def add_noise(
        self, latents: Float[Tensor, "b *d"], noise: Float[Tensor, "b *d"], timesteps: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *d"]:
        """The latents at these time steps of the flow."""
        sigma = (timesteps / self.config.end).reshape(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise
