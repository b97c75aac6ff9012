"""What rays hit: points, normals, and the colour of the texture there."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldstereo.data.procedural.noise import fractal_noise
from worldstereo.data.procedural.solids import BOX, Solids, length
from worldstereo.data.procedural.textures import TEXTURES, Spot


@dataclass(frozen=True)
class Hits:
    """What bundles of rays hit: [scenes, bundles, rays] flattened to [b, r].

    Attributes:
        solid: flat index of the solid.
        hit: whether there is one.
        point: in the world.
        local: in the solid's own axes, metres.
        face: axis of the box face or 1 for a cap, 0 for the side of a round solid.
        normal: unit, in the world, towards the ray's origin.
        footprint: size of a pixel at the point, metres.
        view: unit directions of the rays.
    """

    solid: Int[Tensor, "b r"]
    hit: Bool[Tensor, "b r"]
    point: Float[Tensor, "b 3 r"]
    local: Float[Tensor, "b 3 r"]
    face: Int[Tensor, "b r"]
    normal: Float[Tensor, "b 3 r"]
    footprint: Float[Tensor, "b r"]
    view: Float[Tensor, "b 3 r"]


def surface(
    origin: Float[Tensor, "b 3"],
    direction: Float[Tensor, "b 3 r"],
    t: Float[Tensor, "b r"],
    solid: Int[Tensor, "b r"],
    pixel_angle: Float[Tensor, " b"],
    solids: Solids,
) -> Hits:
    """Points and normals of the first hits at `origin + t · direction`."""
    hit = torch.isfinite(t)
    reach = torch.where(hit, t, 0.0)
    point = origin[..., None] + reach[:, None] * direction
    turn = solids.rotation.flatten(0, 1)[solid]
    local = torch.einsum("brij,bri->bjr", turn, point.transpose(1, 2) - solids.center.flatten(0, 1)[solid])
    half = solids.half.flatten(0, 1)[solid].transpose(1, 2)
    unit = local / half
    quadric = solids.quadric.flatten(0, 1)[solid]

    face = unit.abs().argmax(dim=1)
    flat = torch.zeros_like(unit).scatter_(1, face[:, None], unit.gather(1, face[:, None]).sign())
    b, c = quadric[..., 1], quadric[..., 2]
    x, y, z = unit.unbind(1)
    slope = torch.stack([x, -(b / 2 + c * y), z], dim=1)
    excess = (x * x + z * z - quadric[..., 0] - (b + c * y) * y) / (2 * length(slope, 1)).clamp(min=1e-6)
    capped = (y.abs() - 1 > excess) & (c >= 0)
    cap = torch.stack([torch.zeros_like(y), y.sign(), torch.zeros_like(y)], dim=1)
    is_box = solids.shape.flatten()[solid] == BOX
    own = torch.where(is_box[:, None], flat, torch.where(capped[:, None], cap, slope)) / half
    normal = torch.einsum("brij,bjr->bir", turn, own)
    normal = normal / length(normal, 1)[:, None].clamp(min=1e-12)
    distance = length(direction, 1)
    view = direction / distance[:, None]
    cosine = (normal * view).sum(dim=1)
    normal = torch.where(cosine[:, None] > 0, -normal, normal) * hit[:, None]
    footprint = reach * distance * pixel_angle[:, None] / cosine.abs().clamp(min=0.15)
    return Hits(solid, hit, point, local, torch.where(is_box, face, capped.long()), normal, footprint, view)


def albedo(hits: Hits, solids: Solids) -> tuple[Float[Tensor, "b 3 r"], Float[Tensor, "b 3 r"]]:
    """Colour of the texture, and the offset of the normal that its relief makes for the shading."""
    solid = hits.solid.flatten()

    def of(values: Tensor) -> Tensor:
        return values.flatten(0, 1)[solid]

    local = hits.local.transpose(1, 2).reshape(-1, 3)
    half, face, footprint = of(solids.half), hits.face.flatten(), hits.footprint.flatten()
    round_side = (of(solids.shape) != BOX) & (face == 0)
    girth = torch.atan2(local[:, 0], local[:, 2]) * (half[:, 0] + half[:, 2]) / 2
    from_corner = local + half
    u = torch.where(round_side, girth, torch.where(face == 0, from_corner[:, 2], from_corner[:, 0]))
    v = torch.where(face == 1, from_corner[:, 2], from_corner[:, 1])
    period, finish = of(solids.period), of(solids.finish)
    grain = of(solids.grain)
    serial = torch.remainder(solid, solids.shape.shape[-1]).float()
    noise = fractal_noise(local / grain + serial[:, None] * 3.17, footprint / grain.amin(dim=1))
    spot = Spot(
        u / period[:, 0],
        v / period[:, 1],
        footprint / period[:, 0],
        footprint / period[:, 1],
        noise * finish[:, :1],
        of(solids.colors),
        serial,
    )
    texture = of(solids.texture)
    color = torch.zeros_like(local)
    for index, paint in enumerate(TEXTURES.values()):
        chosen = ((texture == index) & hits.hit.flatten()).nonzero()[:, 0]
        if len(chosen):
            part = Spot(**{f.name: getattr(spot, f.name)[chosen] for f in fields(Spot)})
            color[chosen] = paint(part)
    relief = noise[:, 1:4] * finish[:, 1:2]
    shape = (*hits.solid.shape, 3)
    return color.clamp(0, 4).view(shape).transpose(1, 2), relief.view(shape).transpose(1, 2)
