"""Smooth lattice noise of three dimensions, from one fixed random lattice."""

from functools import lru_cache
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

_SIZE = 32
CHANNELS = 4


@lru_cache(maxsize=8)
def _lattice(device: torch.device) -> Float[Tensor, "1 c d h w"]:
    """Uniform values in [-1, 1] of `CHANNELS` independent noises, periodic, with the first slice repeated last."""
    values = torch.rand(1, CHANNELS, _SIZE, _SIZE, _SIZE, generator=torch.Generator().manual_seed(20240)) * 2 - 1
    for dim in (2, 3, 4):
        values = torch.cat([values, values.narrow(dim, 0, 1)], dim=dim)
    return values.to(device)


def smooth_noise(points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b c"]:
    """`CHANNELS` values about 0 in [-1, 1] at points in units of the lattice (period 32), smooth everywhere."""
    whole = points.floor()
    part = points - whole
    place = torch.remainder(whole, _SIZE) + part * part * (3 - 2 * part)
    grid = (place * (2 / _SIZE) - 1).reshape(1, 1, 1, -1, 3)
    values = grid_sample(_lattice(points.device), grid, align_corners=True)
    return values.reshape(CHANNELS, -1).T.reshape(*points.shape[:-1], CHANNELS)


def fractal_noise(
    points: Float[Tensor, "n 3"], footprint: Float[Tensor, " n"], octaves: int = 3
) -> Float[Tensor, "n c"]:
    """Sum of octaves of halving size, of about unit range; octaves finer than the footprint (lattice units) fade."""
    total = points.new_zeros(len(points), CHANNELS)
    for octave in range(octaves):
        frequency = 2.03**octave
        fade = (1.5 - 2 * footprint * frequency).clamp(0, 1)
        shifted = points * frequency + 7.31 * octave
        total = total + smooth_noise(shifted) * (fade * 0.6**octave)[:, None]
    return total / sqrt(sum(0.36**octave for octave in range(octaves))) * 0.9


def hashed(*cells: Tensor) -> Tensor:
    """Repeatable values in [0, 1) of integer cells (given as floats below 2^20)."""
    mixed = torch.zeros_like(cells[0], dtype=torch.int64)
    for cell in cells:
        mixed = (mixed ^ (cell.to(torch.int64) + 0x9E3779B9)) * 0x45D9F3B & 0xFFFFFFFF
        mixed = (mixed ^ (mixed >> 16)) * 0x45D9F3B & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return (mixed & 0xFFFFFF).to(torch.float32) / 0x1000000
