"""Pictures of scenes with exact geometry."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from worldstereo.data.procedural.lighting import Lighting, sky_color, tone_map
from worldstereo.data.procedural.shading import shade
from worldstereo.data.procedural.solids import Solids, length
from worldstereo.data.procedural.surfaces import Hits, surface
from worldstereo.data.procedural.tracing import Beams, nearest_hit, touching_pairs

_TILE = 8
_GROUP = (2, 4)
_CONTRAST = 0.08
_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
_CPU_RAYS, _GPU_RAYS = 1 << 17, 1 << 21


@dataclass(frozen=True)
class SceneRender:
    """Pictures and their exact geometry.

    Attributes:
        rgb: in [0, 1].
        depth: z-depth in metres, 0 in the sky; of a panorama, the distance along the ray.
        normals: unit, in world axes, towards the camera; 0 in the sky.
        sky: where no surface is seen.
    """

    rgb: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n h w"]
    normals: Float[Tensor, "n 3 h w"]
    sky: Bool[Tensor, "n h w"]


@dataclass(frozen=True)
class Tiling:
    """Square tiles of a picture; the last ones repeat the border."""

    height: int
    width: int

    @property
    def groups(self) -> tuple[int, int]:
        """Rows and columns of groups of tiles."""
        return -(-self.height // (_TILE * _GROUP[0])), -(-self.width // (_TILE * _GROUP[1]))

    def split(self, picture: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n g t 3 r"]:
        """Values of pixels by group and tile."""
        (rows, columns), n, device = self.groups, len(picture), picture.device
        y = torch.arange(rows * _GROUP[0] * _TILE, device=device).clamp(max=self.height - 1)
        x = torch.arange(columns * _GROUP[1] * _TILE, device=device).clamp(max=self.width - 1)
        whole = picture[:, y][:, :, x].view(n, rows, _GROUP[0], _TILE, columns, _GROUP[1], _TILE, 3)
        tiles = whole.permute(0, 1, 4, 2, 5, 7, 3, 6)
        return tiles.reshape(n, rows * columns, _GROUP[0] * _GROUP[1], 3, _TILE**2)

    def order(self, device: torch.device) -> tuple[Int[Tensor, " m"], Bool[Tensor, " m"]]:
        """Numbers of the pixels in the order of the tiles, and which of them do not repeat the border."""
        (rows, columns), size = self.groups, (_GROUP[0] * _TILE, _GROUP[1] * _TILE)
        y = torch.arange(rows * size[0], device=device)[:, None]
        x = torch.arange(columns * size[1], device=device)
        number = y.clamp(max=self.height - 1) * self.width + x.clamp(max=self.width - 1)
        real = (y < self.height) & (x < self.width)
        both = torch.stack([number, real.long()]).view(2, rows, _GROUP[0], _TILE, columns, _GROUP[1], _TILE)
        flat = both.permute(0, 1, 4, 2, 5, 3, 6).reshape(2, -1)
        return flat[0], flat[1].bool()

    def join(self, tiles: Tensor) -> Tensor:
        """The pictures `[n, c, h, w]` of tiles `[n·g·t, c, r]`."""
        (rows, columns), c = self.groups, tiles.shape[1]
        parts = tiles.view(-1, rows, columns, *_GROUP, c, _TILE, _TILE).permute(0, 5, 1, 3, 6, 2, 4, 7)
        whole = parts.reshape(-1, c, rows * _GROUP[0] * _TILE, columns * _GROUP[1] * _TILE)
        return whole[:, :, : self.height, : self.width].contiguous()


def trace_views(
    solids: Solids,
    light: Lighting,
    view_scene: Int[Tensor, " v"],
    origin: Float[Tensor, "v 3"],
    direction: Float[Tensor, "v h w 3"],
    pixel_angle: Float[Tensor, " v"],
) -> SceneRender:
    """Render views, each one origin and its rays, of scenes packed along the first dimension.

    Depth is in units of the rays' directions and belongs to the ray of the pixel's centre, as do the normals; the
    colours of pixels on the edges of solids and shadows are means over four more rays. Views are taken a few at a time,
    so that memory stays bounded.
    """
    views, height, width = direction.shape[:3]
    step = max(1, (_CPU_RAYS if direction.device.type == "cpu" else _GPU_RAYS) // (height * width))
    parts = []
    for first in range(0, views, step):
        some = slice(first, first + step)
        scene = view_scene[some]
        parts.append(_trace(solids.taken(scene), light.taken(scene), origin[some], direction[some], pixel_angle[some]))
    return SceneRender(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(SceneRender)})


def trace_depth(
    solids: Solids, view_scene: Int[Tensor, " v"], origin: Float[Tensor, "v 3"], direction: Float[Tensor, "v h w 3"]
) -> Float[Tensor, "v h w"]:
    """Only the depth of `trace_views`, in one piece: for small previews."""
    tiling = Tiling(direction.shape[1], direction.shape[2])
    t, _ = _first_hits(solids.taken(view_scene), origin, tiling.split(direction))
    return tiling.join(torch.where(torch.isfinite(t), t, 0.0)[:, None])[:, 0]


def _trace(
    solids: Solids,
    light: Lighting,
    origin: Float[Tensor, "v 3"],
    direction: Float[Tensor, "v h w 3"],
    pixel_angle: Float[Tensor, " v"],
) -> SceneRender:
    """Render one view of each scene."""
    tiling = Tiling(direction.shape[1], direction.shape[2])
    colors, hits, t, fallen = _look(solids, light, origin, tiling.split(direction), pixel_angle)
    rgb, depth = tiling.join(colors), tiling.join(torch.where(hits.hit, t, 0.0)[:, None])[:, 0]
    normals, sky = tiling.join(hits.normal), tiling.join(~hits.hit[:, None])[:, 0]
    borders = tiling.join(torch.cat([hits.solid[:, None].float(), hits.normal, fallen], dim=1))
    edges = (_step(rgb) > _CONTRAST) & (_step(borders) > 2 * _CONTRAST)
    rgb = _smooth_edges(rgb, edges, tiling, solids, light, origin, direction, pixel_angle)
    return SceneRender(rgb, depth, normals, sky)


def _first_hits(
    solids: Solids, origin: Float[Tensor, "v 3"], rays: Float[Tensor, "v g t 3 r"]
) -> tuple[Float[Tensor, "b r"], Int[Tensor, "b r"]]:
    """Distance along the rays and flat index of what groups of bundles of rays hit, with b = v·g·t."""
    groups, inner = rays.shape[1:3]
    unit = rays / length(rays, 3)[:, :, :, None]
    place = origin[:, None].expand(-1, groups, 3)
    coarse = Beams.around_rays(place, unit.transpose(2, 3).flatten(3))
    fine = Beams.around_rays(place.repeat_interleave(inner, dim=1), unit.flatten(1, 2))
    pairs = touching_pairs(coarse, fine, solids, solids.radius)
    return nearest_hit(origin.repeat_interleave(groups * inner, dim=0), rays.flatten(0, 2), solids, pairs)


def _look(
    solids: Solids,
    light: Lighting,
    origin: Float[Tensor, "v 3"],
    rays: Float[Tensor, "v g t 3 r"],
    pixel_angle: Float[Tensor, " v"],
) -> tuple[Float[Tensor, "b 3 r"], Hits, Float[Tensor, "b r"], Float[Tensor, "b 1 r"]]:
    """Display colours that groups of bundles of rays see, what they hit, how far along the rays, the light there."""
    groups, inner = rays.shape[1:3]
    per_view = groups * inner
    t, solid = _first_hits(solids, origin, rays)
    flat_origin, flat_rays = origin.repeat_interleave(per_view, dim=0), rays.flatten(0, 2)
    hits = surface(flat_origin, flat_rays, t, solid, pixel_angle.repeat_interleave(per_view), solids)
    each = light.repeated(per_view)
    far = torch.where(hits.hit, t, 0.0) * length(flat_rays, 1)
    haze = 1 - torch.exp(-far / each.haze[:, None])
    radiance, fallen = shade(hits, solids, light, groups, inner)
    radiance = torch.lerp(radiance, each.horizon[..., None], haze[:, None])
    radiance = torch.where(hits.hit[:, None], radiance, sky_color(each, hits.view))
    return tone_map(radiance, each.exposure), hits, t, fallen


def _step(picture: Float[Tensor, "v c h w"]) -> Float[Tensor, "v h w"]:
    """Largest difference of any channel to a direct neighbour."""
    down = pad((picture[:, :, 1:] - picture[:, :, :-1]).abs().amax(dim=1), (0, 0, 1, 1))
    across = pad((picture[..., 1:] - picture[..., :-1]).abs().amax(dim=1), (1, 1))
    return torch.maximum(torch.maximum(down[:, 1:], down[:, :-1]), torch.maximum(across[..., 1:], across[..., :-1]))


def _smooth_edges(
    rgb: Float[Tensor, "v 3 h w"],
    edges: Bool[Tensor, "v h w"],
    tiling: Tiling,
    solids: Solids,
    light: Lighting,
    origin: Float[Tensor, "v 3"],
    direction: Float[Tensor, "v h w 3"],
    pixel_angle: Float[Tensor, " v"],
) -> Float[Tensor, "v 3 h w"]:
    """The pictures with the pixels on edges averaged over four more rays each.

    The pixels are taken in the order of the tiles, so that bundles of 16 pixels' rays stay narrow.
    """
    views, height, width = direction.shape[:3]
    number, real = tiling.order(rgb.device)
    marked = edges.flatten(1)[:, number] & real
    counts = marked.sum(dim=1, keepdim=True)
    block = 16 * _GROUP[0] * _GROUP[1]
    most = -(-int(counts.max()) // block) * block
    if most == 0:
        return rgb
    first = torch.sort((~marked).to(torch.uint8), dim=1, stable=True).indices[:, :most]
    first = pad(first, (0, most - first.shape[1]))
    chosen = number[first]
    valid = torch.arange(most, device=rgb.device) < counts

    flat = direction.flatten(1, 2)
    row, column = chosen // width, chosen % width
    across = torch.where(column + 1 < width, chosen + 1, chosen - 1).clamp(min=0)
    down = torch.where(row + 1 < height, chosen + width, chosen - width).clamp(min=0)

    def taken(index: Tensor) -> Tensor:
        return flat.gather(1, index[..., None].expand(-1, -1, 3))

    middle = taken(chosen)
    right = (taken(across) - middle) * torch.where(column + 1 < width, 1.0, -1.0)[..., None]
    below = (taken(down) - middle) * torch.where(row + 1 < height, 1.0, -1.0)[..., None]
    rays = torch.stack([middle + x * right + y * below for x, y in _SUBPIXELS], dim=2)
    rays = rays.view(views, most // block, _GROUP[0] * _GROUP[1], 64, 3).transpose(3, 4)
    colors, *_ = _look(solids, light, origin, rays, pixel_angle)
    means = colors.view(views, -1, 3, 16, 4).mean(dim=-1).transpose(2, 3).reshape(views, most, 3)
    smooth = rgb.flatten(2).transpose(1, 2).clone()
    view = torch.arange(views, device=rgb.device)[:, None].expand_as(chosen)
    smooth[view[valid], chosen[valid]] = 0.2 * smooth[view[valid], chosen[valid]] + 0.8 * means[valid]
    return smooth.transpose(1, 2).view_as(rgb)
