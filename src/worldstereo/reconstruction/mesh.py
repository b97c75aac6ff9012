"""From a signed distance field to a light, clean, coloured mesh."""

from importlib.util import find_spec

import numpy as np
import torch

from worldstereo.errors import MissingExtraError
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.tsdf import SignedDistanceField

SMALLEST_PART = 0.002
MAX_TRIANGLES = 400_000
VOXEL_SPACINGS = 2.0
_SAMPLE = 20_000
_COLOR_NEIGHBOURS = 3


def voxel_for(cloud: FusedCloud) -> float:
    """Twice the median distance of a point to its nearest: the mesh is then as fine as what the cloud resolves."""
    from scipy.spatial import cKDTree

    points = cloud.points.cpu().numpy()
    if len(points) < 2:
        return 1.0
    some = points[:: max(1, len(points) // _SAMPLE)]
    return VOXEL_SPACINGS * max(float(np.median(cKDTree(points).query(some, k=2)[0][:, 1])), 1e-9)


def build_mesh(
    field: SignedDistanceField,
    cloud: FusedCloud,
    *,
    smallest_part: float = SMALLEST_PART,
    max_triangles: int = MAX_TRIANGLES,
) -> TriangleMesh:
    """The field's surface without small parts, simplified, with the colours of the cloud.

    Parts with less than the share `smallest_part` of all triangles are removed; then, if there are more than
    `max_triangles`, edges are collapsed by quadric error (Garland and Heckbert, 1997; fast-simplification). A vertex
    takes the mean colour of the three nearest points, by inverse distance.

    Needs the libraries of `require_mesh_libraries`.
    """
    vertices, faces = field.triangles()
    vertices, faces = _without_small_parts(vertices, faces, smallest_part)
    vertices, faces = _simplified(vertices, faces, max_triangles)
    places = torch.from_numpy(vertices.astype(np.float32))
    return TriangleMesh(places, torch.from_numpy(faces.astype(np.int64)), _colors(vertices, cloud))


def _without_small_parts(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(faces):
        return vertices, faces
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    links = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    part = connected_components(links, directed=False)[1][faces[:, 0]]
    kept = (np.bincount(part) >= share * len(faces))[part]
    return _used(vertices, faces[kept])


def require_mesh_libraries() -> None:
    """Find out before the work, not after it, that a mesh cannot be made.

    Raises:
        InputError: scikit-image or fast-simplification is missing.
    """
    for module, package in (("skimage", "scikit-image"), ("fast_simplification", "fast-simplification")):
        if find_spec(module) is None:
            raise MissingExtraError(package, "mesh", "a mesh (--no-mesh goes without)")


def _simplified(vertices: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    if len(faces) <= most:
        return vertices, faces
    from fast_simplification import simplify

    simpler, left = simplify(vertices.astype(np.float32), faces.astype(np.int32), target_count=most)
    return _used(np.asarray(simpler, np.float64), np.asarray(left, np.int64))


def _used(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the vertices that a face has."""
    used, again = np.unique(faces, return_inverse=True)
    return vertices[used], again.reshape(faces.shape)


def _colors(vertices: np.ndarray, cloud: FusedCloud) -> torch.Tensor:
    from scipy.spatial import cKDTree

    if not len(vertices):
        return torch.zeros(0, 3)
    count = min(_COLOR_NEIGHBOURS, len(cloud))
    distance, nearest = cKDTree(cloud.points.cpu().numpy()).query(vertices, k=[*range(1, count + 1)])
    weight = torch.from_numpy(1 / (distance + 1e-9)).float()
    colors = cloud.colors.cpu()[torch.from_numpy(nearest)]
    return (colors * (weight / weight.sum(dim=1, keepdim=True))[..., None]).sum(dim=1).clamp(0, 1)
