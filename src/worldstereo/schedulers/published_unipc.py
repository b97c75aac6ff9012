"""The sampler of the published camera and memory models: UniPC over flow sigmas as of their release."""

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler


class PublishedUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC whose sigmas run from 1 − 1/N evenly down to 0, left out, before the flow shift.

    N is the number of training steps. The official release was made with diffusers 0.36, which spaced sigmas so; later
    versions begin at 1 and end at 1/N, which moves the latents of a 6-step clip by up to 0.17.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device = "cpu") -> None:
        """Choose the time steps and forget the last clip."""
        sigmas = np.linspace(1 - 1 / self.config.num_train_timesteps, 0, num_inference_steps + 1)[:-1]
        super().set_timesteps(sigmas=sigmas, device=device)
