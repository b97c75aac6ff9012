"""Point clouds as PLY files (the Stanford polygon format), which every 3D program opens."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.exporters import ply_vertices
from worldstereo.exporters.ply_vertices import PlyVertices, open_vertices
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.files import atomic_path
from worldstereo.geometry.point_cloud import PointCloud

_COORDINATES = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_COLORS = ("red", "green", "blue")
_FULL_SCALE = {"u1": 255.0, "u2": 65535.0, "f4": 1.0, "f8": 1.0}


def write_ply(
    path: str | Path,
    cloud: PointCloud,
    normals: Float[Tensor, "p 3"] | None = None,
    frame: SceneFrame | None = None,
) -> None:
    """Write binary little-endian `float x y z [nx ny nz], uchar red green blue`; atomic, in bounded memory.

    World coordinates are written as they are (OpenCV axes: x right, y down, z forward), as a comment says: the file
    fits the cameras that are exported beside it.

    Args:
        path: the file.
        cloud: the points.
        normals: unit vectors away from the surface, if known.
        frame: up and unit, for the comments.

    Raises:
        InputError: the file cannot be written, or the number of normals is another.
    """
    if normals is not None and len(normals) != len(cloud):
        raise InputError(f"{path}: there are {len(cloud)} points but {len(normals)} normals")
    floats = _COORDINATES if normals is None else _COORDINATES + _NORMALS
    row = np.dtype([(name, "<f4") for name in floats] + [(name, "u1") for name in _COLORS])
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment worldstereo point cloud",
        *(f"comment {line}" for line in (frame or SceneFrame()).comments()),
        f"element vertex {len(cloud)}",
        *(f"property float {name}" for name in floats),
        *(f"property uchar {name}" for name in _COLORS),
        "end_header",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        for start in range(0, len(cloud), ply_vertices.BLOCK):
            part = slice(start, start + ply_vertices.BLOCK)
            points, colors = cloud.points[part].cpu().numpy(), cloud.colors[part]
            levels = colors.clamp(0, 1).mul(255).round().byte().cpu().numpy()
            rows = np.empty(len(points), row)
            for axis in range(3):
                rows[_COORDINATES[axis]] = points[:, axis]
                rows[_COLORS[axis]] = levels[:, axis]
                if normals is not None:
                    rows[_NORMALS[axis]] = normals[part, axis].cpu().numpy()
            file.write(rows.tobytes())


def read_ply(path: str | Path) -> PointCloud:
    """Read the vertices of an ASCII or binary PLY; other properties and later elements are ignored.

    Coordinates of any number type; colours as 8 or 16 bits or floats in [0, 1], mid-grey where there are none.

    Raises:
        InputError: the file is missing, is no PLY, lacks coordinates, is cut short, or has a value that is not finite.
    """
    return read_ply_with_normals(path)[0]


def read_ply_with_normals(path: str | Path) -> tuple[PointCloud, Float[Tensor, "p 3"] | None]:
    """Read the vertices as `read_ply`, and their normals as they stand in the file, if it has them.

    Raises:
        InputError: as of `read_ply`, or a normal is not finite.
    """
    with open_vertices(path) as vertices:
        for name in _COLORS:
            if name in vertices.names and vertices.kind(name) not in _FULL_SCALE:
                raise InputError(f"{path}: '{name}' must be uchar, ushort, float or double")
        points = np.empty((vertices.count, 3), np.float32)
        colors = np.full((vertices.count, 3), 0.5, np.float32)
        normals = np.empty((vertices.count, 3), np.float32) if set(_NORMALS) <= set(vertices.names) else None
        for part, rows in vertices.blocks():
            vertices.fill(points, part, rows, _COORDINATES)
            _fill_colors(colors[part], rows, vertices)
            if normals is not None:
                vertices.fill(normals, part, rows, _NORMALS)
    for what, values in (("coordinate", points), ("normal", normals)):
        if values is not None and not np.isfinite(values).all():
            row = int((~np.isfinite(values)).any(axis=1).argmax())
            raise InputError(f"{path}: vertex {row} has a {what} that is not finite; remove it or copy the file again")
    cloud = PointCloud(torch.from_numpy(points), torch.from_numpy(colors))
    return cloud, None if normals is None else torch.from_numpy(normals)


def _fill_colors(colors: np.ndarray, rows: np.ndarray, vertices: PlyVertices) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, name in enumerate(_COLORS):
            if name in vertices.names:
                colors[:, axis] = rows[name] / _FULL_SCALE[vertices.kind(name)]
    np.clip(np.nan_to_num(colors, copy=False, nan=0.5, posinf=1.0, neginf=0.0), 0, 1, out=colors)
