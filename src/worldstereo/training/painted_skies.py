"""Skies of other weather, hours and painters for training pictures whose own sky is known."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_ZENITH_AND_HORIZON = (
    ((0.25, 0.50, 0.85), (0.75, 0.85, 0.95)),
    ((0.10, 0.25, 0.60), (0.55, 0.75, 0.95)),
    ((0.60, 0.62, 0.66), (0.85, 0.86, 0.88)),
    ((0.35, 0.37, 0.42), (0.62, 0.62, 0.64)),
    ((0.97, 0.97, 0.98), (1.00, 1.00, 1.00)),
    ((0.35, 0.35, 0.55), (1.00, 0.70, 0.40)),
    ((0.55, 0.35, 0.50), (1.00, 0.50, 0.25)),
    ((0.80, 0.65, 0.45), (0.95, 0.85, 0.65)),
    ((0.02, 0.03, 0.08), (0.15, 0.15, 0.25)),
)
"""Clear, deep, overcast, stormy, overexposed, two evenings, dusty, night."""


def paint_sky(
    image: Float[Tensor, "3 h w"], share: Float[Tensor, "h w"], rng: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """The picture with another sky: a gradient between two colours, clouds of a random colour, cover and sharpness.

    Args:
        image: RGB in [0, 1].
        share: how much of each pixel is sky, in [0, 1].
        rng: draws the sky.
    """
    height, width = share.shape
    zenith, horizon = _ZENITH_AND_HORIZON[int(rng.integers(len(_ZENITH_AND_HORIZON)))]
    end = rng.uniform(0.3, 1.2)
    down = (torch.linspace(0, 1, height) / end).clamp(0, 1)[None, :, None] ** float(rng.uniform(0.5, 2))
    sky = torch.lerp(_tinted(zenith, rng), _tinted(horizon, rng), down).expand(3, height, width)
    clouds = _clouds(height, width, rng)
    cover = torch.sigmoid((clouds - float(rng.uniform(-1.5, 2))) * float(np.exp(rng.uniform(0.5, 2.5))))
    lit = _tinted(horizon if rng.random() < 0.6 else (0.95, 0.95, 0.95), rng)
    shaded = _tinted(zenith if rng.random() < 0.3 else (0.55, 0.57, 0.62), rng)
    cloud = torch.lerp(lit, shaded, torch.sigmoid(2 * _clouds(height, width, rng)) * float(rng.uniform(0, 1)))
    sky = torch.lerp(sky, cloud, cover * float(rng.uniform(0, 1)))
    return torch.lerp(image, sky.clamp(0, 1), share)


def _tinted(color: tuple[float, float, float], rng: np.random.Generator) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(np.clip(np.array(color) + rng.normal(0, 0.06, 3), 0, 1), dtype=torch.float32)[:, None, None]


def _clouds(height: int, width: int, rng: np.random.Generator) -> Float[Tensor, "h w"]:
    """Noise of about unit variance whose grains are wider than high, of five sizes."""
    stretch, roughness = rng.uniform(1, 4), rng.uniform(0.4, 0.8)
    total, variance = torch.zeros(height, width), 0.0
    for octave in range(5):
        rows = max(round(1.5 * stretch * 2**octave), 2)
        columns = max(round(1.5 * 2**octave * width / height), 2)
        grains = torch.from_numpy(rng.standard_normal((1, 1, rows, columns), dtype=np.float32))
        total += roughness**octave * F.interpolate(grains, (height, width), mode="bicubic", align_corners=False)[0, 0]
        variance += roughness ** (2 * octave)
    return total / variance**0.5
