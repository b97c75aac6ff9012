"""One cloud from the depth of all frames: averages by confidence, with normals; the sky apart."""

from dataclasses import dataclass
from math import log2

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.memory.lifting import SKY_MEDIANS, near_surface
from worldstereo.reconstruction.consistency import surface_normals
from worldstereo.reconstruction.voxel_table import Cells, VoxelTable

LEAST_CONFIDENCE = 0.6
SPACING = 1.0
MAX_POINTS = 2_000_000
_SKY_CELL_PIXELS = 2.0
_WEIGHT, _SQUARE, _PLACE, _COLOR, _NORMAL = 0, 1, slice(2, 5), slice(5, 8), slice(8, 11)
_VALUES = 11


@dataclass(frozen=True, eq=False)
class FusedCloud:
    """Coloured points with normals.

    Attributes:
        points: in the world.
        colors: RGB in [0, 1].
        normals: unit, towards the free side; 0 where unknown.
        confidence: in [0, 1], the mean of the pixels that made the point, weighted by itself.

    Raises:
        InputError: the numbers of values differ.
    """

    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    normals: Float[Tensor, "p 3"]
    confidence: Float[Tensor, " p"]

    def __post_init__(self) -> None:
        counts = {len(self.points), len(self.colors), len(self.normals), len(self.confidence)}
        if len(counts) > 1:
            raise InputError(f"a cloud needs as many of each value, but there are {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: slice | Int[Tensor, " k"] | Bool[Tensor, " p"]) -> "FusedCloud":
        """Some of the points."""
        return FusedCloud(self.points[index], self.colors[index], self.normals[index], self.confidence[index])

    @property
    def cloud(self) -> PointCloud:
        """Points and colours."""
        return PointCloud(self.points, self.colors)


class CloudFusion:
    """Collects pixels with depth, frame by frame, into a cloud.

    Pixels of at least their frame's least confidence fall into cubes as wide as a pixel's footprint at their depth
    times `spacing`, rounded down to a power of two. A cube's point, colour and normal are the averages of its pixels by
    confidence. A surface seen from near and from far falls into cubes of several sizes; only the finest count. The
    result is the same whatever the order of the frames (to rounding). Time O(pixels), memory O(cubes).

    Sky pixels fall into cubes of directions, two pixels wide, and lie far behind everything.
    """

    def __init__(self, *, spacing: float = SPACING) -> None:
        self._spacing = spacing
        self._table = VoxelTable(_VALUES)
        self._sky = VoxelTable(_VALUES)
        self._sky_cell = 0.0
        self._centers: list[Tensor] = []
        self._medians: list[float] = []

    def add(
        self,
        image: Float[Tensor, "3 h w"],
        depth: Float[Tensor, "h w"],
        confidence: Float[Tensor, "h w"],
        sky: Bool[Tensor, "h w"],
        camera: Cameras,
        least_confidence: float = LEAST_CONFIDENCE,
    ) -> None:
        """Add the pixels of a frame that have a depth, of at least that confidence."""
        colors, focal = image.permute(1, 2, 0), float(camera.intrinsics[0, 0, 0])
        keep = (depth > 0) & (confidence >= least_confidence)
        points = camera.unproject(depth[None])[0][keep]
        normals = surface_normals(depth, camera)[keep]
        level = (depth[keep] * (self._spacing / focal)).log2().floor()
        self._put(self._table, level.long(), points, colors[keep], normals, confidence[keep])
        self._centers.append(camera.centers[0])
        if bool((depth > 0).any()):
            self._medians.append(float(depth[depth > 0].median()))
        seen = sky & ~near_surface(depth)
        rays = camera.pixel_rays()[0][seen] @ camera.cam_from_world[0, :3, :3]
        directions = functional.normalize(rays, dim=-1)
        self._sky_cell = self._sky_cell or log2(_SKY_CELL_PIXELS / focal) // 1
        level = torch.full((len(directions),), int(self._sky_cell))
        ones = torch.ones(len(directions))
        self._put(self._sky, level, directions, colors[seen], torch.zeros_like(directions), ones)

    @staticmethod
    def _put(
        table: VoxelTable,
        level: Int[Tensor, " p"],
        points: Float[Tensor, "p 3"],
        colors: Float[Tensor, "p 3"],
        normals: Float[Tensor, "p 3"],
        weight: Float[Tensor, " p"],
    ) -> None:
        """Places are summed relative to their cube, in sides of it, so that nothing is lost to rounding."""
        scaled = points.double() / torch.exp2(level.double())[:, None]
        place = scaled.floor()
        values = torch.cat([torch.ones(len(points), 1), weight[:, None], (scaled - place).float(), colors, normals], 1)
        table.add(level, place.long(), values * weight[:, None])

    def sky(self) -> PointCloud:
        """The sky on a sphere around the cameras, 100 median depths wide; empty if no frame shows any."""
        cells = self._sky.cells()
        if not len(cells.level):
            return PointCloud.empty()
        directions, colors, _, _ = _averages(cells)
        radius = SKY_MEDIANS * (sorted(self._medians)[len(self._medians) // 2] if self._medians else 1.0)
        middle = torch.stack(self._centers).mean(dim=0)
        return PointCloud(middle + radius * functional.normalize(directions, dim=1), colors)

    def surface(self, *, max_points: int = MAX_POINTS) -> FusedCloud:
        """The cloud so far, thinned to wider cubes until it has at most `max_points`."""
        table = self._table
        cells = table.cells(finest_only=True)
        while len(cells.level) > max_points:
            coarser = VoxelTable(_VALUES)
            cells = table.cells()
            sums = cells.sums.clone()
            half = (cells.place % 2).float()
            sums[:, _PLACE] = (sums[:, _PLACE] + half * sums[:, :1]) / 2
            coarser.add(cells.level + 1, cells.place.div(2, rounding_mode="floor"), sums)
            table = coarser
            cells = table.cells(finest_only=True)
        points, colors, normals, confidence = _averages(cells)
        return FusedCloud(points, colors, functional.normalize(normals, dim=1), confidence)


def _averages(cells: Cells) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, colours, sums of normals, and confidence."""
    weight = cells.sums[:, :1].clamp(min=1e-12)
    side = torch.exp2(cells.level.double())[:, None]
    points = (cells.place + (cells.sums[:, _PLACE] / weight).double()) * side
    return points.float(), cells.sums[:, _COLOR] / weight, cells.sums[:, _NORMAL], cells.sums[:, _SQUARE] / weight[:, 0]
