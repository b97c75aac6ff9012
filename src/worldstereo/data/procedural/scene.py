"""A procedural scene: what it holds, and the ways to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import pi
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.data.procedural.building import Number
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.gardens import garden
from worldstereo.data.procedural.halls import hall
from worldstereo.data.procedural.layout import Layout
from worldstereo.data.procedural.lighting import Lighting
from worldstereo.data.procedural.rendering import SceneRender, trace_depth, trace_views
from worldstereo.data.procedural.rooms import room
from worldstereo.data.procedural.solids import Solids, pad_and_stack
from worldstereo.data.procedural.streets import street
from worldstereo.data.procedural.tracing import Beams, clearance, touching_pairs
from worldstereo.data.procedural.viewpoints import propose, worth_taking
from worldstereo.errors import InputError

SceneKind = Literal["room", "hall", "street", "garden"]
_BUILDERS = {"room": room, "hall": hall, "street": street, "garden": garden}
_CLEARANCE = 0.35
_FAR = 1000.0
_PREVIEW = (32, 18)


@dataclass(frozen=True)
class ProceduralScene:
    """A seeded scene of analytic solids, with exact geometry from any camera.

    World axes: y down is gravity, the ground or floor is at y = 0 or close to it, metres.

    Attributes:
        kind: what it shows.
        seed: the same seed and kind give the same scene.
        solids: geometry and appearance.
        light: sun, sky, lamps.
        walks: boxes (low and high corner) in which `sample_cameras` stands.
    """

    kind: SceneKind
    seed: int
    solids: Solids
    light: Lighting
    walks: Float[Tensor, "w 2 3"]

    @classmethod
    def sample(cls, seed: int, kind: SceneKind | None = None, device: torch.device | str = "cpu") -> "ProceduralScene":
        """The scene of a seed; without a kind, one of the four kinds is drawn from the seed.

        Raises:
            InputError: the seed is negative or the kind is unknown.
        """
        kinds: tuple[SceneKind, ...] = get_args(SceneKind)
        if seed < 0:
            raise InputError(f"the scene seed {seed} must not be negative")
        if kind is None:
            kind = Chance(seed, 1).choice(kinds)
        if kind not in kinds:
            raise InputError(f"the scene kind '{kind}' is unknown; choose one of {', '.join(kinds)}")
        layout = Layout.empty(Chance(seed, 2, kinds.index(kind)))
        _BUILDERS[kind](layout)
        light = layout.daylight.packed(layout.indoors)
        walks = torch.tensor(layout.walks, dtype=torch.float32)
        return cls(kind, seed, layout.builder.solids(), light, walks).to(device)

    def to(self, device: torch.device | str) -> "ProceduralScene":
        """The same scene with tensors on `device`."""
        return replace(
            self,
            solids=Solids(**{f.name: getattr(self.solids, f.name).to(device) for f in fields(Solids)}),
            light=Lighting(**{f.name: getattr(self.light, f.name).to(device) for f in fields(Lighting)}),
            walks=self.walks.to(device),
        )

    def render(self, cameras: Cameras) -> SceneRender:
        """What the cameras see; see `render_scenes`."""
        return render_scenes([self], [cameras])

    def render_panorama(self, world_from_rig: Float[Tensor, "4 4"], height: int) -> SceneRender:
        """An equirectangular picture `[1, ..., height, 2·height]` around the rig's origin.

        Column `u` looks at the azimuth `(u + 0.5) / W · 2π - π` (0 is forward, +z of the rig; to the right, +x, is
        positive), row `v` at the elevation `π/2 - (v + 0.5) / H · π` (up is -y). Depth is the distance along the ray.

        Raises:
            InputError: the height is not positive.
        """
        if height < 1:
            raise InputError(f"the panorama's height {height} must be positive")
        device = self.walks.device
        azimuth = (torch.arange(2 * height, device=device) + 0.5) / height * pi - pi
        elevation = pi / 2 - (torch.arange(height, device=device) + 0.5) / height * pi
        level = elevation.cos()[:, None]
        rig = torch.stack(
            [level * azimuth.sin(), -elevation.sin()[:, None].expand(height, 2 * height), level * azimuth.cos()], dim=-1
        )
        pose = world_from_rig.to(device)
        direction = torch.einsum("ij,hwj->hwi", pose[:3, :3], rig)
        solids, light = _stacked([self])
        view = torch.zeros(1, dtype=torch.int64, device=device)
        angle = torch.full((1,), pi / height, device=device)
        return trace_views(solids, light, view, pose[None, :3, 3], direction[None], angle)

    def distance(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, " p"]:
        """Signed distance from points to the nearest surface in metres, negative inside a solid, at most 1000.

        Exact for boxes, spheres and upright round cylinders, to first order for other ellipsoids and cones.
        """
        solids = pad_and_stack([self.solids])
        everywhere = torch.ones(1, len(points), 1, dtype=torch.bool, device=points.device)
        balls = Beams.around_points(points[None, :, :, None], everywhere, _FAR)
        pairs = touching_pairs(balls, balls, solids, solids.radius)
        return clearance(points[:, :, None], solids, pairs, _FAR)[:, 0]

    def sample_cameras(
        self, count: int, seed: int, width: int, height: int, fov_x_degrees: tuple[Number, Number] = (45, 85)
    ) -> Cameras:
        """Upright-ish hand-held views from free space, at least 0.35 m from every surface, of something to see.

        Raises:
            InputError: the count is not positive, or the scene has no such place (not seen so far).
        """
        if count < 1:
            raise InputError(f"the number of cameras {count} must be positive")
        rng = Chance(seed, self.seed, 3)
        found: list[Cameras] = []
        number = 0
        for _ in range(60):
            some = propose(rng, 2 * count + 4, self.walks, self.solids, (width, height), fov_x_degrees)
            some = some.to(self.walks.device)
            free = (self.distance(some.centers) > _CLEARANCE).nonzero()[:, 0]
            if len(free):
                some = some[free]
                good = worth_taking(self._preview(some.resized(*_PREVIEW))).nonzero()[:, 0]
                if len(good):
                    found.append(some[good])
                    number += len(good)
            if number >= count:
                return Cameras.cat(found)[:count]
        raise InputError(f"the {self.kind} scene of seed {self.seed} has no free view; take another seed")

    def _preview(self, cameras: Cameras) -> Float[Tensor, "n h w"]:
        solids, _ = _stacked([self])
        view = torch.zeros(len(cameras), dtype=torch.int64, device=self.walks.device)
        return trace_depth(solids, view, cameras.centers, _directions(cameras))


def render_scenes(scenes: Sequence[ProceduralScene], cameras: Sequence[Cameras]) -> SceneRender:
    """What each scene's cameras see, in order, in one batch: `[sum of cameras, ...]`.

    Rays through the pixel centres are cast at all solids that their tile may touch, then towards the sun and the
    lamps. All cameras have one image size; scenes and cameras are on one device. Memory is bounded (views are taken
    a few at a time); the cost is linear in pixels and in the solids near each tile.

    Raises:
        InputError: no scene, not one batch of cameras a scene, or image sizes that differ.
    """
    if not scenes or len(scenes) != len(cameras):
        raise InputError(
            f"there are {len(scenes)} scenes but {len(cameras)} batches of cameras; give one batch a scene"
        )
    every = Cameras.cat(cameras).to(scenes[0].walks.device)
    solids, light = _stacked(scenes)
    counts = torch.tensor([len(batch) for batch in cameras])
    view = torch.arange(len(scenes)).repeat_interleave(counts).to(every.intrinsics.device)
    return trace_views(solids, light, view, every.centers, _directions(every), 1 / every.intrinsics[:, 1, 1])


def _directions(cameras: Cameras) -> Float[Tensor, "n h w 3"]:
    """World directions of the rays through the pixel centres, of z-depth 1."""
    return torch.einsum("nji,nhwj->nhwi", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())


def _stacked(scenes: Sequence[ProceduralScene]) -> tuple[Solids, Lighting]:
    light = Lighting(**{f.name: torch.stack([getattr(s.light, f.name) for s in scenes]) for f in fields(Lighting)})
    return pad_and_stack([scene.solids for scene in scenes]), light
