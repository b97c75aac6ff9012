"""Rays against solids: bundles of rays are culled against bounding spheres, the rest is tested ray by ray.

Rays come in bundles (tiles of a picture). A bundle and a solid that may touch make a pair; all rays of all pairs are
tested at once, in chunks of bounded memory, and reduced with a minimum over the solids, which does not depend on the
order. With `m` pairs of `r` rays the cost is O(m · r); culling leaves a few solids a bundle out of hundreds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldstereo.data.procedural.solids import BOX, Solids, box_distance, length, round_distance

_NEAR = 1e-6
"""No hit is nearer, in units of the ray's direction."""
_CPU_CHUNK, _GPU_CHUNK = 1 << 16, 1 << 23


@dataclass(frozen=True)
class Pairs:
    """Bundles and solids that may touch, as flat indices, boxes first."""

    bundle: Int[Tensor, " m"]
    solid: Int[Tensor, " m"]
    boxes: int

    def chunks(self, rays: int) -> Iterator[tuple[bool, Int[Tensor, " k"], Int[Tensor, " k"]]]:
        """Whether boxes, bundles and solids of pieces with a bounded number of rays."""
        step = max(1, (_CPU_CHUNK if self.bundle.device.type == "cpu" else _GPU_CHUNK) // rays)
        for is_box, start, stop in ((True, 0, self.boxes), (False, self.boxes, len(self.bundle))):
            for first in range(start, stop, step):
                piece = slice(first, min(first + step, stop))
                yield is_box, self.bundle[piece], self.solid[piece]


@dataclass(frozen=True)
class Beams:
    """Volumes around the bundles of rays: from `start` along `path`, `radius` thick and growing by `spread` a metre.

    A negative radius makes an empty volume. A path without an end has `endless` true and unit length.
    """

    start: Float[Tensor, "*b 3"]
    path: Float[Tensor, "*b 3"]
    radius: Float[Tensor, "*b"]
    spread: Float[Tensor, "*b"]
    endless: bool

    @classmethod
    def around_rays(cls, origin: Float[Tensor, "*b 3"], unit: Float[Tensor, "*b 3 r"]) -> "Beams":
        """Cones of rays of unit directions that share their origin."""
        axis = unit.sum(dim=-1)
        axis = axis / length(axis, -1).clamp(min=1e-9)[..., None]
        cos = ((axis[..., None] * unit).sum(dim=-2).amin(dim=-1) - 1e-6).clamp(min=0.05)
        return cls(origin, axis, torch.full_like(cos, 1e-3), (1 - cos * cos).clamp(min=0).sqrt() / cos, True)

    @classmethod
    def around_points(cls, points: Float[Tensor, "*b 3 r"], use: Bool[Tensor, "*b r"], margin: float) -> "Beams":
        """Balls around the used points of each bundle, `margin` wider; empty where none is used."""
        low = torch.where(use[..., None, :], points, torch.inf).amin(dim=-1)
        high = torch.where(use[..., None, :], points, -torch.inf).amax(dim=-1)
        empty = ~use.any(dim=-1)
        start = torch.where(empty[..., None], 0.0, (low + high) / 2)
        radius = torch.where(empty, -1e6, length(high - low, -1) / 2 + margin + 1e-3)
        return cls(start, torch.zeros_like(start), radius, torch.zeros_like(radius), False)

    def towards(self, end: Float[Tensor, "s 3"]) -> "Beams":
        """The volumes `[s, b]` drawn out to the end of their scene."""
        return replace(self, path=end[:, None] - self.start)

    def along(self, direction: Float[Tensor, "s 3"]) -> "Beams":
        """The volumes `[s, b]` drawn out without end along the unit direction of their scene."""
        return replace(self, path=direction[:, None].expand_as(self.start), endless=True)

    def taken(self, index: Int[Tensor, " m"]) -> "Beams":
        """Some of the flattened volumes."""
        return Beams(
            self.start.reshape(-1, 3)[index],
            self.path.reshape(-1, 3)[index],
            self.radius.flatten()[index],
            self.spread.flatten()[index],
            self.endless,
        )

    def touch_balls(self, center: Float[Tensor, "*c 3"], radius: Float[Tensor, "*c"]) -> Bool[Tensor, "*d"]:
        """Whether each volume may touch a ball (leading dimensions broadcast)."""
        px, py, pz = self.path.unbind(-1)
        sx, sy, sz = self.start.unbind(-1)
        x, y, z = center[..., 0] - sx, center[..., 1] - sy, center[..., 2] - sz
        along = x * px + y * py + z * pz
        if self.endless:
            along = along.clamp(min=0)
            across2 = (x * x + y * y + z * z - along * along).clamp(min=0)
            reach = self.radius + radius + self.spread * (along + radius.clamp(min=0))
        else:
            share = (along / (px * px + py * py + pz * pz).clamp(min=1e-9)).clamp(0, 1)
            across2 = (x - share * px) ** 2 + (y - share * py) ** 2 + (z - share * pz) ** 2
            reach = self.radius + radius
        return (across2 <= reach * reach) & (reach >= 0)

    def touch_boxes(
        self, center: Float[Tensor, "m 3"], rotation: Float[Tensor, "m 3 3"], half: Float[Tensor, "m 3"]
    ) -> Bool[Tensor, " m"]:
        """Whether each volume may touch a turned box, pair by pair."""
        offset = self.start - center
        local = (offset[:, None] @ rotation)[:, 0]
        step = (self.path[:, None] @ rotation)[:, 0]
        size = half + (self.radius + self.spread * (length(offset, -1) + length(half, -1)))[:, None]
        inverse = 1 / torch.where(step.abs() < 1e-12, 1e-12, step)
        middle, reach = -local * inverse, inverse.abs() * size
        enter, leave = (middle - reach).amax(dim=-1), (middle + reach).amin(dim=-1)
        return (enter <= leave) & (leave >= 0) & (self.endless | (enter <= 1))


def touching_pairs(coarse: Beams, fine: Beams, solids: Solids, radius: Float[Tensor, "s p"]) -> Pairs:
    """Pairs of the fine volumes `[s, g·n]` with solids, by way of the coarse volumes `[s, g]` that hold n each.

    Coarse volumes are tested against all bounding balls, then the fine ones of those that touch against the ball and
    the turned box of the solid.
    """
    groups, bundles = coarse.radius.shape[1], fine.radius.shape[1]
    inner, count = bundles // groups, radius.shape[1]
    wide = Beams(
        coarse.start[:, :, None],
        coarse.path[:, :, None],
        coarse.radius[..., None],
        coarse.spread[..., None],
        coarse.endless,
    )
    scene, group, solid = wide.touch_balls(solids.center[:, None], radius[:, None]).nonzero(as_tuple=True)
    solid = (scene * count + solid)[:, None].expand(-1, inner).flatten()
    first = (scene * groups + group) * inner
    bundle = (first[:, None] + torch.arange(inner, device=first.device)).flatten()
    center, turn, extent = solids.center.flatten(0, 1), solids.rotation.flatten(0, 1), solids.extent.flatten(0, 1)
    near = fine.taken(bundle).touch_balls(center[solid], radius.flatten()[solid])
    bundle, solid = bundle[near], solid[near]
    near = fine.taken(bundle).touch_boxes(center[solid], turn[solid], extent[solid])
    bundle, solid = bundle[near], solid[near]
    box = solids.shape.flatten()[solid] == BOX
    return Pairs(torch.cat([bundle[box], bundle[~box]]), torch.cat([solid[box], solid[~box]]), int(box.sum()))


def nearest_hit(
    origin: Float[Tensor, "b 3"], direction: Float[Tensor, "b 3 r"], solids: Solids, pairs: Pairs
) -> tuple[Float[Tensor, "b r"], Int[Tensor, "b r"]]:
    """Distance of the first surface along each ray in units of its direction, and the solid's flat index.

    The distance is infinite and the index 0 where nothing is hit.
    """
    maps, center = solids.unit_from_world.flatten(0, 1), solids.center.flatten(0, 1)
    quadric = solids.quadric.flatten(0, 1)
    nothing = _key(torch.tensor(torch.inf, device=direction.device), torch.tensor(0, device=direction.device))
    best = nothing.expand(direction.shape[0], direction.shape[2]).clone()
    for is_box, bundle, solid in pairs.chunks(direction.shape[2]):
        to_unit = maps[solid]
        o = to_unit @ (origin[bundle] - center[solid])[..., None]
        d = to_unit @ direction[bundle]
        t = _hit_box(o, d) if is_box else _hit_round(o, d, quadric[solid])
        best.scatter_reduce_(0, bundle[:, None].expand_as(t), _key(t, solid[:, None]), "amin")
    return (best >> 32).to(torch.int32).view(torch.float32), best & 0xFFFFFFFF


def unblocked(
    origin: Float[Tensor, "b 3 p"], path: Float[Tensor, "b 3 q"], solids: Solids, pairs: Pairs
) -> Float[Tensor, "b r"]:
    """1 where no solid lies between `origin` and `origin + path`, else 0; p or q is 1 where a bundle shares it."""
    maps, center = solids.unit_from_world.flatten(0, 1), solids.center.flatten(0, 1)
    quadric = solids.quadric.flatten(0, 1)
    rays = max(origin.shape[2], path.shape[2])
    clear = origin.new_ones(len(origin), rays)
    for is_box, bundle, solid in pairs.chunks(rays):
        to_unit = maps[solid]
        o = to_unit @ (origin[bundle] - center[solid][..., None])
        d = to_unit @ path[bundle]
        t = _hit_box(o, d) if is_box else _hit_round(o, d, quadric[solid])
        clear.scatter_reduce_(0, bundle[:, None].expand_as(t), (t > 1).to(clear.dtype), "amin")
    return clear


def clearance(points: Float[Tensor, "b 3 r"], solids: Solids, pairs: Pairs, most: float) -> Float[Tensor, "b r"]:
    """Signed distance of points to the nearest of the paired solids, at most `most` metres."""
    turn, center = solids.rotation.flatten(0, 1).transpose(1, 2), solids.center.flatten(0, 1)
    half, quadric = solids.half.flatten(0, 1), solids.quadric.flatten(0, 1)
    least = torch.full_like(points[:, 0], most)
    for is_box, bundle, solid in pairs.chunks(points.shape[2]):
        local = turn[solid] @ (points[bundle] - center[solid][..., None])
        gap = box_distance(local, half[solid]) if is_box else round_distance(local, half[solid], quadric[solid])
        least.scatter_reduce_(0, bundle[:, None].expand_as(gap), gap, "amin")
    return least


def _key(t: Tensor, solid: Tensor) -> Tensor:
    """One integer that sorts by distance, then by solid: positive floats sort like their bits."""
    return (t.view(torch.int32).to(torch.int64) << 32) | solid


def _hit_box(o: Tensor, d: Tensor) -> Tensor:
    """First positive hit of the cube [-1, 1]³, from outside or inside; infinite if none."""
    inverse = (d + 1e-20).reciprocal()
    middle, reach = -o * inverse, inverse.abs()
    enter, leave = middle - reach, middle + reach
    near = torch.maximum(torch.maximum(enter[:, 0], enter[:, 1]), enter[:, 2])
    far = torch.minimum(torch.minimum(leave[:, 0], leave[:, 1]), leave[:, 2])
    t = torch.where(near > _NEAR, near, far)
    return torch.where((near <= far) & (t > _NEAR), t, torch.inf)


def _hit_round(o: Tensor, d: Tensor, quadric: Tensor) -> Tensor:
    """First positive hit of a round solid, from outside or inside; infinite if none.

    The roots are taken about the ray's middle point inside the quadric, where nothing cancels.
    """
    a, b, c = quadric[..., None].unbind(1)
    ox, oy, oz = o.unbind(1)
    dx, dy, dz = d.unbind(1)
    square = dx * dx + dz * dz - c * dy * dy
    square = torch.where(square.abs() < 1e-12, 1e-12, square)
    middle = (b / 2 * dy + c * oy * dy - ox * dx - oz * dz) / square

    def excess(t: Tensor) -> Tensor:
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        return x * x + z * z - a - (b + c * y) * y

    reach2 = -excess(middle) / square
    reach = reach2.clamp(min=0).sqrt()
    flat = (dy + 1e-20).reciprocal()
    best = torch.full_like(middle, torch.inf)
    for t in (middle - reach, middle + reach):
        ok = (reach2 >= 0) & ((oy + t * dy).abs() <= 1) & (t > _NEAR)
        best = torch.where(ok, torch.minimum(best, t), best)
    for t in (-oy * flat - flat.abs(), -oy * flat + flat.abs()):
        ok = (excess(t) <= 0) & (t > _NEAR)
        best = torch.where(ok, torch.minimum(best, t), best)
    return best
