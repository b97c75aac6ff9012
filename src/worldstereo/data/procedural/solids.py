"""Solids of a scene as packed tensors: geometry, appearance, bounding spheres, distances."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

NOTHING, BOX, ROUND = -1, 0, 1
"""Kinds of solid. A round solid is `x² + z² ≤ a + b·y + c·y²` between `y = -1` and `y = 1`, in units of its half size:
(1, 0, 0) is a cylinder, (1, 0, -1) an ellipsoid, others are cones and their frusta."""


@dataclass(frozen=True)
class Solids:
    """Solids, in order, of one scene (or with a leading dimension of several).

    Attributes:
        shape: `BOX`, `ROUND`, or `NOTHING` for padding.
        center: centres in the world, metres.
        rotation: columns are the solid's own axes in the world.
        half: half sizes along the own axes, metres; of a tube those of its base.
        quadric: (a, b, c) of a round solid.
        texture: index into `textures.TEXTURES`.
        colors: three linear RGB colours of the texture.
        period: size of the pattern along its two directions, metres.
        grain: size of the noise along the solid's own axes, metres.
        finish: strength of the noise, of the relief in the shading, of the gloss; light emitted.
    """

    shape: Int[Tensor, "*b p"]
    center: Float[Tensor, "*b p 3"]
    rotation: Float[Tensor, "*b p 3 3"]
    half: Float[Tensor, "*b p 3"]
    quadric: Float[Tensor, "*b p 3"]
    texture: Int[Tensor, "*b p"]
    colors: Float[Tensor, "*b p 3 3"]
    period: Float[Tensor, "*b p 2"]
    grain: Float[Tensor, "*b p 3"]
    finish: Float[Tensor, "*b p 4"]

    def taken(self, scene: Int[Tensor, " v"]) -> "Solids":
        """The solids of some of several scenes."""
        return Solids(**{f.name: getattr(self, f.name)[scene] for f in fields(Solids)})

    @property
    def extent(self) -> Float[Tensor, "*b p 3"]:
        """Half sizes of the bounding boxes along the own axes, metres: more than `half` where a tube's top is wider."""
        a, b, c = self.quadric.unbind(-1)
        widest = (a - b + c).clamp(min=1).sqrt()
        return self.half * torch.stack([widest, torch.ones_like(widest), widest], dim=-1)

    @property
    def radius(self) -> Float[Tensor, "*b p"]:
        """Radii of the bounding spheres; far below zero for padding, so that nothing touches it."""
        return torch.where(self.shape == NOTHING, -1e6, self.extent.norm(dim=-1))

    @property
    def unit_from_world(self) -> Float[Tensor, "*b p 3 3"]:
        """Linear maps from the world to units of the half size along the own axes."""
        return self.rotation.transpose(-1, -2) / self.half[..., None]


def pad_and_stack(parts: Sequence[Solids]) -> Solids:
    """Solids of several scenes with a leading dimension, padded with `NOTHING` to the longest."""
    longest = max(part.shape.shape[0] for part in parts)

    def stack(name: str) -> Tensor:
        fill = NOTHING if name == "shape" else 1 if name == "half" else 0
        tensors = [getattr(part, name) for part in parts]
        return torch.stack([pad(x, (0, 0) * (x.ndim - 1) + (0, longest - len(x)), value=fill) for x in tensors])

    return Solids(**{field.name: stack(field.name) for field in fields(Solids)})


def length(vectors: Tensor, dim: int) -> Tensor:
    """Euclidean length along a dimension of size 3 (much faster than `norm` when it is not the last)."""
    x, y, z = vectors.unbind(dim)
    return (x * x + y * y + z * z).sqrt()


def box_distance(local: Float[Tensor, "k 3 r"], half: Float[Tensor, "k 3"]) -> Float[Tensor, "k r"]:
    """Signed distance in metres from points in a box's own axes to its surface, negative inside; exact."""
    q = local.abs() - half[..., None]
    inner = torch.maximum(torch.maximum(q[:, 0], q[:, 1]), q[:, 2])
    return length(q.clamp(min=0), 1) + inner.clamp(max=0)


def round_distance(
    local: Float[Tensor, "k 3 r"], half: Float[Tensor, "k 3"], quadric: Float[Tensor, "k 3"]
) -> Float[Tensor, "k r"]:
    """Signed distance in metres from points in a round solid's own axes to its surface, negative inside.

    Exact for spheres and for round cylinders; to first order for other ellipsoids and for cones.
    """
    size = half[..., None]
    a, b, c = quadric[..., None].unbind(1)
    x, y, z = (local / size).unbind(1)
    flat2 = x * x + z * z
    narrow = torch.minimum(half[:, 0], half[:, 2])[:, None]
    level = y.clamp(-1, 1)
    edge = (a + (b + c * level) * level).clamp(min=0).sqrt()
    slope = c.clamp(min=0).sqrt() * narrow / half[:, 1:2]
    side = (flat2.sqrt() - edge) * (narrow / (1 + slope * slope).sqrt())
    cap = local[:, 1].abs() - half[:, 1:2]
    tube = (side.clamp(min=0) ** 2 + cap.clamp(min=0) ** 2).sqrt() + torch.maximum(side, cap).clamp(max=0)

    inside = (flat2 + y * y).sqrt()
    gradient = length(local / size**2, 1).clamp(min=1e-9)
    ball = torch.where(inside > 1e-3, inside * (inside - 1) / gradient, -half.amin(dim=1)[:, None])
    return torch.where(c < 0, ball, tube)
