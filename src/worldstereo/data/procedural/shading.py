"""Light on surfaces: Lambert with shadow rays, ambient light with contact darkening, gloss.

All but the slight gloss depends on the world's point alone, so that cameras agree on a point's colour.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.data.procedural.lighting import LAMPS, Lighting
from worldstereo.data.procedural.solids import Solids, length
from worldstereo.data.procedural.surfaces import Hits, albedo
from worldstereo.data.procedural.tracing import Beams, clearance, touching_pairs, unblocked

_SUN_REACH = 300.0
_CONTACT = (0.12, 0.5)


@dataclass(frozen=True)
class _Tiles:
    """How the bundles `[b]` are laid out: scenes, groups of neighbours in each, bundles in each group."""

    scenes: int
    groups: int
    inner: int

    def beams(self, points: Float[Tensor, "b 3 r"], use: Bool[Tensor, "b r"], margin: float) -> tuple[Beams, Beams]:
        """Volumes around the points of groups and of bundles, `[scenes, groups]` and `[scenes, groups · inner]`."""
        inside = points.unflatten(0, (self.scenes, self.groups, self.inner))
        used = use.unflatten(0, (self.scenes, self.groups, self.inner))
        fine = Beams.around_points(inside.flatten(1, 2), used.flatten(1, 2), margin)
        return Beams.around_points(inside.transpose(2, 3).flatten(3), used.flatten(2), margin), fine


def shade(
    hits: Hits, solids: Solids, light: Lighting, groups: int, inner: int
) -> tuple[Float[Tensor, "b 3 r"], Float[Tensor, "b 1 r"]]:
    """Radiance of the hits, 0 where there is none, and the mean light that falls on them.

    The bundles are those of the scenes, in order, each of `groups` groups of `inner` neighbouring bundles.
    """
    tiles = _Tiles(solids.shape.shape[0], groups, inner)
    color, relief = albedo(hits, solids)
    each = light.repeated(groups * inner)
    bumpy = _unit(hits.normal + relief)
    finish = solids.finish.flatten(0, 1)[hits.solid]
    gloss, glow = finish[..., 2:3].transpose(1, 2), finish[..., 3:].transpose(1, 2)
    start = hits.point + hits.normal * (1e-3 + 1e-4 * hits.footprint.clamp(max=10))[:, None]

    sun = each.sun[..., None]
    lambert = _lambert(hits, bumpy, sun) * (each.sun_color.amax(dim=1) > 0)[:, None]
    coarse, fine = (beam.along(light.sun) for beam in tiles.beams(start, lambert > 0, 0.0))
    pairs = touching_pairs(coarse, fine, solids, _casting(solids))
    lambert = lambert * unblocked(start, sun * _SUN_REACH, solids, pairs)
    direct = each.sun_color[..., None] * lambert[:, None]
    shine = direct * _highlight(bumpy, sun, hits.view)

    for index in range(LAMPS):
        if not bool((light.lamps[:, index, 2] > 0).any()):
            continue
        place, _, strength = each.lamps[:, index].unbind(1)
        lambert, towards = _lamp(hits, bumpy, start, each.lamps[:, index])
        coarse, fine = (beam.towards(light.lamps[:, index, 0]) for beam in tiles.beams(start, lambert > 0, 0.0))
        pairs = touching_pairs(coarse, fine, solids, _casting(solids))
        lambert = lambert * unblocked(place[..., None], start - place[..., None], solids, pairs)
        lit = strength[..., None] * lambert[:, None]
        direct = direct + lit
        shine = shine + lit * _highlight(bumpy, towards, hits.view)

    ambient = _ambient(bumpy, start, each) * _openness(start, hits, solids, tiles)[:, None]
    light_sum = direct + ambient + glow
    return (color * light_sum + gloss * shine) * hits.hit[:, None], light_sum.mean(dim=1, keepdim=True)


def _lambert(hits: Hits, bumpy: Tensor, towards: Tensor) -> Tensor:
    """Cosine to the light, 0 on the side away from it by the true normal."""
    facing = (hits.normal * towards).sum(dim=1) > 0
    return (bumpy * towards).sum(dim=1).clamp(min=0) * facing


def _lamp(hits: Hits, bumpy: Tensor, start: Tensor, lamp: Tensor) -> tuple[Tensor, Tensor]:
    """Unshadowed light of a lamp `[b, 3, 3]` by its strength, and directions towards it; 0 where too weak to see."""
    place, axis, strength = lamp.unbind(1)
    path = place[..., None] - start
    square = (path * path).sum(dim=1)
    towards = path / square.sqrt().clamp(min=1e-6)[:, None]
    everywhere = (axis == 0).all(dim=1)[:, None]
    lobe = torch.where(everywhere, 1.0, -(towards * axis[..., None]).sum(dim=1).clamp(max=0))
    lambert = _lambert(hits, bumpy, towards) * lobe / (0.25 + square)
    return torch.where(lambert * strength.amax(dim=1, keepdim=True) > 6e-3, lambert, 0.0) * hits.hit, towards


def _openness(start: Tensor, hits: Hits, solids: Solids, tiles: _Tiles) -> Float[Tensor, "b r"]:
    """Contact darkening: how free two probes above the surface are, near and farther."""
    near, far = _CONTACT
    probes = torch.cat([start + near * hits.normal, start + far * hits.normal], dim=2)
    coarse, fine = tiles.beams(probes, hits.hit.repeat(1, 2), far)
    pairs = touching_pairs(coarse, fine, solids, solids.radius)
    free_near, free_far = clearance(probes, solids, pairs, far).chunk(2, dim=1)
    return (0.35 + 0.65 * (free_near / near).clamp(0, 1)) * (0.45 + 0.55 * (free_far / far).clamp(0, 1))


def _ambient(bumpy: Tensor, start: Tensor, light: Lighting) -> Float[Tensor, "b 3 r"]:
    """Light from all around: sky above and ground below outside, nearly even inside."""
    above, below, indoors = light.ambient[..., None].unbind(1)
    up = -bumpy[:, 1:2]
    center, half = light.inside[..., None].unbind(1)
    inner = ((start - center).abs() < half).all(dim=1, keepdim=True)
    return torch.where(inner, indoors * (1 + 0.15 * up), torch.lerp(below, above, 0.5 + 0.5 * up))


def _highlight(normal: Tensor, towards: Tensor, view: Tensor) -> Float[Tensor, "b 1 r"]:
    """A broad highlight by the half vector."""
    return (normal * _unit(towards - view)).sum(dim=1, keepdim=True).clamp(min=0) ** 40


def _unit(vectors: Tensor) -> Tensor:
    return vectors / length(vectors, 1).clamp(min=1e-6)[:, None]


def _casting(solids: Solids) -> Float[Tensor, "s p"]:
    """Bounding spheres of the solids that cast shadows: all but the glowing ones, which are lamps."""
    return torch.where(solids.finish[..., 3] > 0, -1e6, solids.radius)
