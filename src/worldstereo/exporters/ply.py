"""Point clouds as PLY files (the Stanford polygon format), which every 3D program opens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from worldstereo.errors import InputError
from worldstereo.files import atomic_path
from worldstereo.geometry.point_cloud import PointCloud

_BLOCK = 1 << 18  # points held in memory at a time beside the cloud itself
_HEADER_LIMIT = 1 << 16
_COORDINATES = ("x", "y", "z")
_COLORS = ("red", "green", "blue")
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_FULL_SCALE = {"u1": 255.0, "u2": 65535.0, "f4": 1.0, "f8": 1.0}
_WRITTEN = np.dtype([(name, "<f4") for name in _COORDINATES] + [(name, "u1") for name in _COLORS])


def write_ply(path: str | Path, cloud: PointCloud) -> None:
    """Write binary little-endian `float x y z, uchar red green blue`; atomic, in bounded memory.

    World coordinates are written as they are (OpenCV axes: x right, y down, z forward), as a comment says.

    Raises:
        InputError: the file cannot be written.
    """
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment worldstereo point cloud",
        "comment axes OpenCV: x right, y down, z forward, of the first camera; units of the scene's depth",
        f"element vertex {len(cloud)}",
        *(f"property float {name}" for name in _COORDINATES),
        *(f"property uchar {name}" for name in _COLORS),
        "end_header",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        for start in range(0, len(cloud), _BLOCK):
            part = cloud[start : start + _BLOCK]
            points = part.points.cpu().numpy()
            colors = part.colors.clamp(0, 1).mul(255).round().byte().cpu().numpy()
            rows = np.empty(len(points), _WRITTEN)
            for axis, (coordinate, color) in enumerate(zip(_COORDINATES, _COLORS, strict=True)):
                rows[coordinate] = points[:, axis]
                rows[color] = colors[:, axis]
            file.write(rows.tobytes())


def read_ply(path: str | Path) -> PointCloud:
    """Read the vertices of an ASCII or binary PLY; other properties and later elements are ignored.

    Coordinates of any number type; colours as 8 or 16 bits or floats in [0, 1], mid-grey where there are none.

    Raises:
        InputError: the file is missing, is no PLY, lacks coordinates, is cut short, or has a value that is not finite.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            layout = _read_header(file, path)
            return _read_vertices(file, path, layout)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class _Layout:
    """What a header says about the vertices."""

    ascii: bool
    count: int
    row: np.dtype


def _read_header(file: BinaryIO, path: Path) -> _Layout:
    if file.readline(8).rstrip() != b"ply":
        raise InputError(f"{path}: is not a PLY file (it does not start with 'ply')")
    order, count = "", -1
    fields: list[tuple[str, str]] = []
    element = ""
    for words in _header_lines(file, path):
        match words:
            case ["format", name, "1.0"] if name in _ORDERS:
                order = name
            case ["element", "vertex", number] if number.isdecimal() and count < 0:
                element, count = "vertex", int(number)
            case ["element", name, _]:
                if count < 0:
                    raise InputError(
                        f"{path}: the element '{name}' stands before the vertices; save it with them first"
                    )
                element = name
            case ["property", "list", *_] if element == "vertex":
                raise InputError(f"{path}: the vertices have a list property, which point clouds do not have")
            case ["property", kind, name] if element == "vertex" and kind in _TYPES:
                fields.append((name, _TYPES[kind]))
            case ["property", *_] if element not in ("", "vertex"):
                pass
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise InputError(f"{path}: the header line '{' '.join(words)[:80]}' cannot be understood")
    names = [name for name, _ in fields]
    if not order or count < 0 or not set(_COORDINATES) <= set(names) or len(set(names)) < len(names):
        raise InputError(f"{path}: the header must name a format and vertices with the properties x, y, z, each once")
    for name, kind in fields:
        if name in _COLORS and kind not in _FULL_SCALE:
            raise InputError(f"{path}: '{name}' must be uchar, ushort, float or double")
    return _Layout(order == "ascii", count, np.dtype([(name, _ORDERS[order] + kind) for name, kind in fields]))


def _header_lines(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    while file.tell() < _HEADER_LIMIT:
        line = file.readline(_HEADER_LIMIT)
        if not line.endswith(b"\n"):
            break
        words = line.decode("ascii", errors="replace").split()
        if words == ["end_header"]:
            return
        yield words
    raise InputError(f"{path}: the PLY header does not end; the file is damaged")


def _read_vertices(file: BinaryIO, path: Path, layout: _Layout) -> PointCloud:
    left = path.stat().st_size - file.tell()
    smallest = 2 * len(layout.row.descr) if layout.ascii else layout.row.itemsize
    if left + 1 < layout.count * smallest:
        raise InputError(f"{path}: the header promises {layout.count} vertices but the file is too short for them")
    points, colors = torch.empty(layout.count, 3), torch.full((layout.count, 3), 0.5)
    names = layout.row.names or ()
    for start in range(0, layout.count, _BLOCK):
        size = min(_BLOCK, layout.count - start)
        rows = _ascii_rows(file, path, layout.row, size) if layout.ascii else _binary_rows(file, path, layout.row, size)
        part = slice(start, start + size)
        for axis, name in enumerate(_COORDINATES):
            points[part, axis] = torch.from_numpy(rows[name].astype(np.float32))
        for axis, name in enumerate(_COLORS):
            if name in names:
                full_scale = _FULL_SCALE[layout.row[name].str[1:]]
                colors[part, axis] = torch.from_numpy((rows[name] / full_scale).astype(np.float32))
        bad = ~torch.isfinite(points[part]).all(dim=1)
        if bool(bad.any()):
            raise InputError(f"{path}: vertex {start + int(bad.nonzero()[0])} has a coordinate that is not finite")
    return PointCloud(points, colors.nan_to_num(0.5).clamp(0, 1))


def _binary_rows(file: BinaryIO, path: Path, row: np.dtype, size: int) -> np.ndarray:
    data = file.read(size * row.itemsize)
    if len(data) < size * row.itemsize:
        raise InputError(f"{path}: the file ends before the last vertex")
    return np.frombuffer(data, row)


def _ascii_rows(file: BinaryIO, path: Path, row: np.dtype, size: int) -> np.ndarray:
    lines = [file.readline() for _ in range(size)]
    try:
        values = np.array(b" ".join(lines).split(), dtype=np.float64).reshape(size, len(row.descr))
    except ValueError:
        raise InputError(f"{path}: a vertex line does not hold {len(row.descr)} numbers") from None
    rows = np.empty(size, row)
    for index, name in enumerate(row.names or ()):
        rows[name] = values[:, index]
    return rows
