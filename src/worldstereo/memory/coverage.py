"""How much of what a camera sees another camera sees too, measured through a point cloud with occlusion.

The way of the data: cloud -> surface (few points, each with its size and its normal) -> coarse depth buffers of all
cameras -> samples of what the targets see, and of what they may see in the cloud's holes -> worth of each bank camera
for each target.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from numpy import ndarray
from scipy.spatial import cKDTree
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.geometry.inpainting import continued_depth

_POINTS = 16_000  # a cloud is thinned to this many points
_NEIGHBOURS = 8  # to find a point's size and normal
_CELLS = 48  # of a depth buffer along the longer side of the image
_SAMPLE_EVERY = 2  # one sample of what a target sees per 2×2 cells
_HOLES_COUNT = 3.0  # times what a sample counts that the cloud shows


@dataclass(frozen=True)
class Surface:
    """A thinned cloud.

    Attributes:
        points: world coordinates.
        spacing: distance to the fourth neighbour: points of this half width leave hardly a hole in a surface.
        normals: unit normals of either sign; 0 where the neighbourhood is not flat.
    """

    points: Float32[ndarray, "p 3"]
    spacing: Float32[ndarray, " p"]
    normals: Float32[ndarray, "p 3"]

    @classmethod
    def from_cloud(cls, cloud: PointCloud) -> "Surface":
        """Thin a cloud to at most 16,000 points (evenly over their order, the same ones in every call)."""
        points = _thin(cloud.points.detach().cpu().numpy())
        if len(points) <= 4:
            return cls(points, np.zeros(len(points), np.float32), np.zeros_like(points))
        k = min(_NEIGHBOURS, len(points) - 1)
        distances, neighbours = cKDTree(points).query(points, k=k + 1)
        offsets = points[neighbours].astype(np.float64) - points[:, None]
        offsets -= offsets.mean(axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(offsets.transpose(0, 2, 1) @ offsets)
        flat = values[:, 0] < 0.25 * values[:, 1]
        normals = np.where(flat[:, None], vectors[:, :, 0], 0)
        return cls(points, distances[:, 4].astype(np.float32), normals.astype(np.float32))

    def arrays(self) -> tuple[ndarray, ndarray, ndarray]:
        """As the kernels take them."""
        return self.points, self.normals, self.spacing


def coverage_scores(targets: Cameras, bank: Cameras, cloud: PointCloud) -> Float[Tensor, "t b"]:
    """How much of what each target sees each bank camera sees as well, in [0, 1].

    A target sees the points that are nearest in the cells of a coarse depth buffer. Where the cloud leaves it a hole,
    depth is taken to go on from around (`continued_depth`; a target that sees nothing of the cloud has the median
    depth of the others). There references are needed most, so these points count three times. Each counts for a bank
    camera that has it in the image, in front of it and not behind other points (its own depth buffer of the same cloud,
    5 % tolerance beyond the farthest of the 3×3 cells around, so that grazing floors are not taken for occluded).
    It counts less where the two views differ: by (1 + cos a) / 2 for the angle a between the two rays, by
    √min(s, 1/s) for the ratio s of the sizes that the surface has in the two images, and not at all where the
    bank camera looks at the back of the surface. A camera covers itself by 1.

    Nothing depends on the orientation, the origin or the unit of the world but rounding. The same input gives
    the same bytes. Cost: bank × (16,000 points + targets × 300 samples) on one core, 10 kB per bank camera.

    Args:
        targets: cameras of a clip.
        bank: cameras of one image size, the targets' own: sizes of surfaces are compared in pixels.
        cloud: what is known of the scene.

    Returns:
        scores, all 0 if no target sees anything of the cloud.

    Raises:
        InputError: the image sizes differ.
    """
    if (targets.width, targets.height) != (bank.width, bank.height):
        raise InputError(
            f"targets of {targets.width}×{targets.height} and bank cameras of {bank.width}×{bank.height} pixels "
            "cannot be compared; fit the bank cameras to the targets' size first"
        )
    surface = Surface.from_cloud(cloud)
    scores = np.zeros((len(targets), len(bank)))
    if len(surface.points) and len(targets) and len(bank):
        from worldstereo.memory import coverage_kernels as kernels

        seen, views = _Views.from_cameras(targets), _Views.from_cameras(bank)
        everything = np.ones(len(targets), np.bool_)
        limits, owners = kernels.depth_buffers(*surface.arrays(), *seen.arrays(), *seen.grid, everything)
        guesses, owners = _guess_holes(seen, limits, owners, len(surface.points))
        points = np.concatenate([surface.points, guesses])
        normals = np.concatenate([surface.normals, np.zeros_like(guesses)])
        weights = np.where(np.arange(len(points)) < len(surface.points), 1.0, _HOLES_COUNT)
        samples = owners[:, ::_SAMPLE_EVERY, ::_SAMPLE_EVERY].reshape(len(targets), -1)
        samples = kernels.visible_only(samples, points, seen.projections, limits)
        useful = kernels.sees_any(samples, points, views.projections, *views.grid)
        limits, _ = kernels.depth_buffers(*surface.arrays(), *views.arrays(), *views.grid, useful)
        scores = kernels.mean_worth(
            *(samples, points, normals, weights),
            *(seen.centers, seen.focals),
            *(views.projections, views.centers, views.focals, limits),
        )
    return torch.from_numpy(scores).to(targets.cam_from_world)


@dataclass(frozen=True)
class _Views:
    """Cameras as the kernels want them, in cells of the depth buffers instead of pixels."""

    projections: Float32[ndarray, "n 3 4"]
    inverses: Float32[ndarray, "n 3 3"]
    centers: Float32[ndarray, "n 3"]
    focals: Float32[ndarray, " n"]
    grid: tuple[int, int]

    @classmethod
    def from_cameras(cls, cameras: Cameras) -> "_Views":
        longest = max(cameras.width, cameras.height)
        width = max(1, round(_CELLS * cameras.width / longest))
        height = max(1, round(_CELLS * cameras.height / longest))
        small = cameras.resized(width, height)
        k, pose = small.intrinsics.double(), small.cam_from_world.double()
        projections = k @ pose[:, :3]
        return cls(
            projections.float().cpu().numpy(),
            torch.linalg.inv(projections[:, :, :3]).float().cpu().numpy(),
            small.centers.cpu().numpy(),
            torch.sqrt(k[:, 0, 0] * k[:, 1, 1]).float().cpu().numpy(),
            (height, width),
        )

    def arrays(self) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        return self.projections, self.inverses, self.centers, self.focals


def _guess_holes(
    seen: _Views, limits: Float32[ndarray, "t y x"], owners: Int32[ndarray, "t y x"], first: int
) -> tuple[Float32[ndarray, "g 3"], Int32[ndarray, "t y x"]]:
    """Points where surfaces may be that the cloud has not, and the owners with them, numbered from `first`."""
    known = np.isfinite(limits)
    if not known.any():
        return np.zeros((0, 3), np.float32), owners
    depth = np.where(known, limits, 0)
    for view, shown in zip(depth, known, strict=True):
        view[:] = continued_depth(torch.from_numpy(view), torch.from_numpy(shown)).numpy()
    depth[depth <= 0] = np.median(limits[known])
    holes = owners < 0
    owners = owners.copy()
    owners[holes] = first + np.arange(holes.sum())
    view, row, column = np.nonzero(holes)
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(view))], axis=1) * depth[holes][:, None]
    points = np.einsum("gij,gj->gi", seen.inverses[view], pixels) + seen.centers[view]
    return points.astype(np.float32), owners


def _thin(points: Float32[ndarray, "p 3"]) -> Float32[ndarray, "q 3"]:
    """Even over the order, but never in step with the rows of an image: multiples of the golden ratio, modulo 1."""
    if len(points) <= _POINTS:
        return points
    position = np.arange(_POINTS) * ((np.sqrt(5) - 1) / 2) % 1
    return points[np.unique((position * len(points)).astype(np.int64))]
