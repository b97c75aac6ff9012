"""Patterns of surfaces: colours from coordinates on a solid, filtered to the footprint of a pixel.

Every pattern is a function of a `Spot`: coordinates in periods of the pattern, the footprint of a pixel in the same
units (patterns fade to their mean where pixels are coarser), noise, and three colours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.data.procedural.noise import hashed


@dataclass(frozen=True)
class Spot:
    """Where surfaces are coloured.

    Attributes:
        u, v: coordinates on the surface in periods of the pattern.
        du, dv: footprint of a pixel in the same units.
        noise: fractal noises about 0.
        colors: three linear RGB colours.
        seed: a number of the solid, for patterns that differ from one to the next.
    """

    u: Float[Tensor, " n"]
    v: Float[Tensor, " n"]
    du: Float[Tensor, " n"]
    dv: Float[Tensor, " n"]
    noise: Float[Tensor, "n c"]
    colors: Float[Tensor, "n 3 3"]
    seed: Float[Tensor, " n"]

    def mixed(self, share: Tensor, first: int = 0, second: int = 1) -> Float[Tensor, "n 3"]:
        """The second colour's share over the first."""
        return torch.lerp(self.colors[:, first], self.colors[:, second], share.clamp(0, 1)[:, None])


def pulse(x: Tensor, width: Tensor, start: float | Tensor, length: float | Tensor) -> Tensor:
    """Mean over `width` of the wave of period 1 that is 1 on `[start, start + length)`, else 0: exact box filter."""
    width = width.clamp(min=1e-4)
    low, high = x - width / 2 - start, x + width / 2 - start

    def integral(s: Tensor) -> Tensor:
        whole = s.floor()
        return whole * length + torch.minimum(s - whole, torch.as_tensor(length, device=s.device, dtype=s.dtype))

    return ((integral(high) - integral(low)) / width).clamp(0, 1)


def _cells(value: Tensor, width: Tensor, mean: float = 0.5) -> Tensor:
    """A value of each cell of size 1, faded to its mean as pixels grow to a cell."""
    return mean + (value - mean) * (1.6 - 1.6 * width).clamp(0, 1)


def _joints(s: Spot, width_u: float, width_v: float, shift: Tensor) -> Tensor:
    """1 on the lines between cells, whose rows are shifted along u."""
    across = pulse(s.u + shift, s.du, 0.0, width_u)
    along = pulse(s.v, s.dv, 0.0, width_v)
    return 1 - (1 - across) * (1 - along)


def _plain(s: Spot) -> Tensor:
    return s.mixed(0.5 + 0.5 * s.noise[:, 0])


def _planks(s: Spot) -> Tensor:
    row = s.v.floor()
    shift = hashed(row, s.seed)
    tone = _cells(hashed(row, (s.u + shift).floor(), s.seed + 1), s.dv)
    wood = s.mixed(0.45 + 0.5 * (tone - 0.5) * 1.6 + 0.45 * s.noise[:, 0])
    return torch.lerp(wood, s.colors[:, 2], 0.75 * _joints(s, 0.004, 0.035, shift)[:, None])


def _bricks(s: Spot) -> Tensor:
    row = s.v.floor()
    shift = 0.5 * torch.remainder(row, 2)
    tone = _cells(hashed(row, (s.u + shift).floor(), s.seed), s.dv)
    face = s.mixed(tone * 0.9 + 0.35 * s.noise[:, 0])
    return torch.lerp(face, s.colors[:, 2], _joints(s, 0.05, 0.13, shift)[:, None])


def _tiles(s: Spot) -> Tensor:
    tone = _cells(hashed(s.v.floor(), s.u.floor(), s.seed), s.dv)
    face = s.mixed(0.3 * tone + 0.4 + 0.45 * s.noise[:, 0])
    return torch.lerp(face, s.colors[:, 2], _joints(s, 0.025, 0.025, torch.zeros_like(s.u))[:, None])


def _checks(s: Spot) -> Tensor:
    a, b = pulse(s.u, s.du, 0.0, 0.5), pulse(s.v, s.dv, 0.0, 0.5)
    dark = a * b + (1 - a) * (1 - b)
    face = s.mixed(dark)
    return torch.lerp(face, s.colors[:, 2], (0.12 + 0.25 * s.noise[:, 0]).clamp(0, 1)[:, None])


def _stripes(s: Spot) -> Tensor:
    share = pulse(s.u, s.du, 0.0, 0.5) + 0.12 * s.noise[:, 0]
    return torch.lerp(s.mixed(share), s.colors[:, 2], pulse(s.u, s.du, 0.62, 0.09)[:, None])


def _marble(s: Spot) -> Tensor:
    vein = (1 - 4 * (s.noise[:, 0] + 0.3 * s.noise[:, 1]).abs()).clamp(0, 1)
    return torch.lerp(s.mixed(0.5 + 0.4 * s.noise[:, 2]), s.colors[:, 2], 0.8 * vein[:, None])


def _fabric(s: Spot) -> Tensor:
    weave = 0.5 * (pulse(s.u, s.du, 0.0, 0.5) + pulse(s.v, s.dv, 0.0, 0.5))
    return s.mixed(0.2 + 0.45 * weave + 0.35 * s.noise[:, 0])


def _leaves(s: Spot) -> Tensor:
    speckle = s.noise[:, 0] + 0.6 * s.noise[:, 1]
    green = s.mixed(0.5 + 0.6 * speckle)
    return torch.lerp(green, s.colors[:, 2], (1.6 * s.noise[:, 2] - 0.6).clamp(0, 0.8)[:, None])


def _lawn(s: Spot) -> Tensor:
    """Grass: broad patches, mown or worn, with tufts."""
    tufts = s.noise[:, 0] + 0.5 * s.noise[:, 1]
    blades = _cells(hashed((s.u * 30).floor(), (s.v * 30).floor(), s.seed), s.du * 30) - 0.5
    return torch.lerp(
        s.mixed(0.5 + 0.4 * tufts + 0.8 * blades), s.colors[:, 2], (0.6 * s.noise[:, 2] - 0.1).clamp(0, 0.5)[:, None]
    )


def _goods(s: Spot) -> Tensor:
    """Things behind glass: rows of boxes of a few colours on a dark ground."""
    cell_u, cell_v = (s.u * 3).floor(), (s.v * 2).floor()
    tone = hashed(cell_u, cell_v, s.seed)
    body = pulse(s.u * 3, s.du * 3, 0.15, 0.7) * pulse(s.v * 2, s.dv * 2, 0.2, 0.7)
    thing = torch.lerp(s.mixed(tone), s.colors[:, 2], (hashed(cell_u, cell_v, s.seed + 2) > 0.7).float()[:, None])
    dark = thing.new_tensor([0.05, 0.06, 0.065]) + 0.02 * (1 + s.noise[:, :1])
    return torch.lerp(dark.expand_as(thing), thing, (body * (0.3 + 0.65 * hashed(cell_u, s.seed)))[:, None])


def _picture(s: Spot) -> Tensor:
    """A painting: bands and blobs of made-up colours."""
    bend = s.v + 0.35 * s.noise[:, 0]
    band = hashed((bend * 4).floor(), s.seed)
    other = hashed(((s.u + 0.3 * s.noise[:, 1]) * 3).floor(), (bend * 2).floor(), s.seed + 3)
    tint = torch.stack([hashed((band * 5).floor(), s.seed + k) for k in (5, 6, 7)], dim=1) ** 2
    base = torch.lerp(s.mixed(other), s.colors[:, 2], (band * 1.4 - 0.5).clamp(0, 1)[:, None])
    return torch.lerp(base, tint, 0.45)


def _windows(s: Spot) -> Tensor:
    """A façade of windows in frames: panes of different darkness in a wall."""
    cell_u, cell_v = s.u.floor(), s.v.floor()
    pane_u, pane_v = pulse(s.u, s.du, 0.27, 0.46), pulse(s.v, s.dv, 0.2, 0.58)
    frame = pulse(s.u, s.du, 0.22, 0.56) * pulse(s.v, s.dv, 0.16, 0.66)
    mullion = pulse(s.u, s.du, 0.485, 0.03) + pulse(s.v, s.dv, 0.4, 0.03)
    sill = pulse(s.v, s.dv, 0.82, 0.05) * pulse(s.u, s.du, 0.19, 0.62)
    dark = _cells(hashed(cell_u, cell_v, s.seed), s.du, 0.5)
    wall = s.mixed(0.35 + 0.5 * s.noise[:, 0])
    trim = torch.lerp(wall, s.colors[:, 2], torch.maximum(frame, sill)[:, None])
    glass = (0.02 + 0.13 * dark**2)[:, None] * trim.new_tensor([0.85, 0.97, 1.15])
    return torch.lerp(trim, glass, (pane_u * pane_v * (1 - mullion.clamp(0, 1)))[:, None])


def _books(s: Spot) -> Tensor:
    """Spines of many colours and heights along u, v from 0 at the top to 1."""
    place = s.u + 0.25 * hashed((s.u / 4).floor(), s.seed)
    book = place.floor()
    tint = torch.stack([hashed(book, s.seed + k) for k in (1, 2, 3)], dim=1) ** 2 * 0.6 + 0.02
    spine = torch.lerp(tint, s.mixed(hashed(book, s.seed + 4)), 0.4)
    band = pulse(s.v + hashed(book, s.seed + 5) * 0.5, s.dv, 0.2, 0.1) * (hashed(book, s.seed + 6) > 0.5)
    spine = torch.lerp(spine, s.colors[:, 2], 0.6 * band[:, None])
    return spine * (1 - 0.8 * pulse(place, s.du, 0.0, 0.08))[:, None]


def _wallpaper(s: Spot) -> Tensor:
    """Rounded motifs in staggered rows."""
    row = s.v.floor()
    x = torch.remainder(s.u + 0.5 * torch.remainder(row, 2), 1) - 0.5
    y = s.v - row - 0.5
    far = (x * x + y * y).sqrt()
    width = (s.du + s.dv).clamp(min=0.02)
    disc = (0.5 + (0.27 - far) / width).clamp(0, 1)
    heart = (0.5 + (0.12 - far) / width).clamp(0, 1)
    fade = (1.5 - 1.5 * width).clamp(0, 1)
    base = s.mixed(0.25 + disc * fade * 0.6 + 0.15 * s.noise[:, 0])
    return torch.lerp(base, s.colors[:, 2], (heart * fade * 0.8)[:, None])


def _gravel(s: Spot) -> Tensor:
    """Asphalt, gravel, soil: fine speckle on large patches."""
    grain = _cells(hashed((s.u * 40).floor(), (s.v * 40).floor(), s.seed), s.du * 40)
    patch = s.mixed(0.5 + 0.6 * s.noise[:, 0])
    return torch.lerp(patch, s.colors[:, 2], (0.55 * grain - 0.2 + 0.25 * s.noise[:, 1]).clamp(0, 1)[:, None])


def _stones(s: Spot) -> Tensor:
    """Paving of staggered stones of two widths with worn joints."""
    row = s.v.floor()
    shift = hashed(row, s.seed) + 0.06 * s.noise[:, 1]
    tone = _cells(hashed(row, (s.u + shift).floor(), s.seed), s.dv)
    face = s.mixed(0.7 * tone + 0.15 + 0.4 * s.noise[:, 0])
    return torch.lerp(face, s.colors[:, 2], 0.85 * _joints(s, 0.05, 0.08, shift)[:, None])


TEXTURES: dict[str, Callable[[Spot], Tensor]] = {
    "plain": _plain,
    "planks": _planks,
    "bricks": _bricks,
    "tiles": _tiles,
    "checks": _checks,
    "stripes": _stripes,
    "marble": _marble,
    "fabric": _fabric,
    "leaves": _leaves,
    "lawn": _lawn,
    "goods": _goods,
    "picture": _picture,
    "windows": _windows,
    "books": _books,
    "wallpaper": _wallpaper,
    "gravel": _gravel,
    "stones": _stones,
}
