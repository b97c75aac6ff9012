"""A truncated signed distance field in blocks around a cloud, and its surface as triangles."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError

BAND_VOXELS = 4.0
MAX_BLOCKS = 60_000
_SIDE = 8
_COARSER = 1.2
_CHUNK = 8
_LEAST_WEIGHT = 0.5


class SignedDistanceField:
    """Distances to the nearest surface along the views, in blocks of 8³ voxels where a cloud has points.

    Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996. Blocks that
    come within the truncation band (4 voxels) of a point exist; nothing else takes memory (4 KiB a block).

    Args:
        points: the cloud.
        voxel: side of a voxel; enlarged until there are at most `max_blocks`.

    Raises:
        InputError: there is no point, or `voxel` is not positive.
    """

    def __init__(self, points: Float[Tensor, "p 3"], voxel: float, *, max_blocks: int = MAX_BLOCKS) -> None:
        if not len(points):
            raise InputError("a mesh needs points with depth, and there are none")
        if not voxel > 0:
            raise InputError(f"voxel is {voxel} but must be positive")
        places = points.double().cpu().numpy()
        self._blocks = _blocks_around(places, voxel)
        while len(self._blocks) > max_blocks:
            voxel *= _COARSER
            self._blocks = _blocks_around(places, voxel)
        self.voxel = voxel
        self._corners = (self._blocks * (_SIDE * voxel)).astype(np.float32)
        shape = (len(self._blocks), _SIDE, _SIDE, _SIDE)
        self._distance, self._weight = np.ones(shape, np.float32), np.zeros(shape, np.float32)

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, depth: Float[Tensor, "h w"], confidence: Float[Tensor, "h w"], camera: Cameras) -> None:
        """Add a frame: depth (0 = unknown) with the weight of each pixel. O(voxels in view)."""
        from worldstereo.reconstruction import tsdf_kernels as kernels

        pose = camera.cam_from_world[0, :3].contiguous().numpy()
        intrinsics = camera.intrinsics[0].contiguous().numpy()
        depths, weights = depth.contiguous().numpy(), confidence.contiguous().numpy()
        voxel, band = np.float32(self.voxel), np.float32(BAND_VOXELS * self.voxel)
        workers = max(1, torch.get_num_threads())
        bounds = np.linspace(0, len(self._blocks), 4 * workers + 1).astype(int).tolist()

        def part(first: int, last: int) -> None:
            kernels.integrate(
                first, last, self._corners, voxel, band, depths, weights, pose, intrinsics, self._distance, self._weight
            )

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(part, bounds[:-1], bounds[1:]))

    def triangles(self, *, least_weight: float = _LEAST_WEIGHT) -> tuple[np.ndarray, np.ndarray]:
        """The zero surface where all eight corners of a cell were seen: vertices [v, 3] float64 and faces [f, 3].

        Counter-clockwise as seen from the free side. Marching cubes (Lewiner et al., 2003) by scikit-image, in
        chunks of 64³ voxels, so that memory stays bounded; vertices of neighbouring chunks are joined.
        Needs scikit-image.
        """
        from skimage.measure import marching_cubes

        index = {tuple(block): number for number, block in enumerate(self._blocks.tolist())}
        chunks = sorted({tuple(chunk) for chunk in (self._blocks // _CHUNK).tolist()})
        vertices, faces, count = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
        for chunk in chunks:
            start = np.array(chunk) * _CHUNK
            distance, weight = self._dense(index, start)
            seen = weight >= least_weight
            whole = np.zeros_like(seen)
            whole[1:, 1:, 1:] = _all_corners(seen)
            if not whole.any() or not (distance[seen] < 0).any():
                continue
            try:
                found, corners, _, _ = marching_cubes(distance, 0.0, mask=whole, allow_degenerate=False)
            except (RuntimeError, ValueError):  # no surface in this chunk
                continue
            vertices.append((found.astype(np.float64) + 0.5 + start * _SIDE) * self.voxel)
            faces.append(corners.astype(np.int64) + count)
            count += len(found)
        return _joined(np.concatenate(vertices), np.concatenate(faces), 1e-3 * self.voxel)

    def _dense(self, index: dict[tuple[int, ...], int], start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances and weights of a chunk and of the first voxels of its upper neighbours."""
        size = _CHUNK * _SIDE + 1
        distance, weight = np.ones((size,) * 3, np.float32), np.zeros((size,) * 3, np.float32)
        for offset in np.ndindex((_CHUNK + 1,) * 3):
            number = index.get(tuple((start + offset).tolist()))
            if number is None:
                continue
            low = [_SIDE * o for o in offset]
            into = tuple(slice(a, min(a + _SIDE, size)) for a in low)
            part = tuple(slice(0, s.stop - s.start) for s in into)
            distance[into] = self._distance[number][part]
            weight[into] = self._weight[number][part]
        return distance, weight


def _blocks_around(points: np.ndarray, voxel: float) -> np.ndarray:
    """The blocks within the band of any point, in order."""
    band, side = BAND_VOXELS * voxel, _SIDE * voxel
    coarse = np.unique(np.floor(points / (side / 4)).astype(np.int64), axis=0)
    middles = (coarse + 0.5) * (side / 4)
    reach = band + side / 8
    corners = [
        np.floor((middles + reach * (2 * np.array(sign) - 1)) / side).astype(np.int64) for sign in np.ndindex(2, 2, 2)
    ]
    return np.unique(np.concatenate(corners), axis=0)


def _all_corners(seen: np.ndarray) -> np.ndarray:
    cells = seen[:-1, :-1, :-1].copy()
    for i, j, k in np.ndindex(2, 2, 2):
        n = len(seen) - 1
        cells &= seen[i : i + n, j : j + n, k : k + n]
    return cells


def _joined(vertices: np.ndarray, faces: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices nearer than `distance` become one; faces that lose a corner by it go."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    pairs = cKDTree(vertices).query_pairs(distance, output_type="ndarray") if len(vertices) else np.zeros((0, 2), int)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2)
    label = connected_components(links, directed=False)[1] if len(vertices) else np.zeros(0, int)
    first = np.unique(label, return_index=True)[1]
    faces = label[faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return vertices[first], faces[whole]
