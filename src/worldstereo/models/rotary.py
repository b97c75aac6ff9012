"""Three-dimensional rotary positions (frame, row, column) of video tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_THETA = 10_000.0

Rotary = tuple[Float[Tensor, "_ p"], Float[Tensor, "_ p"]]
"""Cosines and sines of the angle of every token and every pair of channels of a head."""


def axis_channels(head_channels: int) -> tuple[int, int, int]:
    """How the channels of a head are shared among frame, row and column (Wan 2.1: 128 = 44 + 42 + 42).

    Raises:
        ValueError: the head has an odd number of channels.
    """
    if head_channels % 2:
        raise ValueError(f"a head of {head_channels} channels cannot carry rotary positions; the number must be even")
    space = 2 * (head_channels // 6)
    return head_channels - 2 * space, space, space


def rotary_table(
    head_channels: int,
    frames: Int[Tensor, " f"],
    rows: Int[Tensor, " h"],
    columns: Int[Tensor, " w"],
) -> Rotary:
    """The table of a grid of tokens, frame by frame and row by row: f·h·w tokens.

    Angles are computed in float64. Source: Wan 2.1; base 10,000, neighbouring channels form a pair.
    """
    angles = []
    for channels, positions in zip(axis_channels(head_channels), (frames, rows, columns), strict=True):
        exponents = torch.arange(0, channels, 2, dtype=torch.float64) / max(channels, 1)
        angles.append(positions.cpu().double()[:, None] / _THETA**exponents)
    f, h, w = (len(a) for a in angles)
    grid = torch.cat(
        [
            angles[0][:, None, None].expand(f, h, w, -1),
            angles[1][None, :, None].expand(f, h, w, -1),
            angles[2][None, None, :].expand(f, h, w, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    return grid.cos().float().to(frames.device), grid.sin().float().to(frames.device)


def apply_rotary(x: Float[Tensor, "b n heads c"], rotary: Rotary) -> Float[Tensor, "b n heads c"]:
    """Turn every pair of neighbouring channels by its token's angle; computed in float32, given back as it came.

    Pairs are multiplied as complex numbers, in one pass over memory.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(*rotary)[:, None]).flatten(-2).type_as(x)
