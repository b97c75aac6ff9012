"""The vertices of PLY files, whatever their properties mean: header, blocks of rows, bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from worldstereo.errors import InputError

BLOCK = 1 << 18  # vertices held in memory at a time beside what is made of them
_HEADER_LIMIT = 1 << 16
_LINE_LIMIT = 1 << 16
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


@dataclass(frozen=True)
class PlyVertices:
    """The vertices of an open file.

    Attributes:
        path: the file, for messages.
        count: how many there are; the file is long enough for them.
        row: names and number types of the properties.
    """

    path: Path
    count: int
    row: np.dtype
    _ascii: bool
    _file: BinaryIO

    @property
    def names(self) -> tuple[str, ...]:
        """The properties' names."""
        return self.row.names or ()

    def kind(self, name: str) -> str:
        """The number type of a property, such as "f4"."""
        return self.row[name].str[1:]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows in order, some at a time, with their places among all.

        Raises:
            InputError: the file ends too early, or a line does not hold the right numbers.
        """
        for start in range(0, self.count, BLOCK):
            size = min(BLOCK, self.count - start)
            yield slice(start, start + size), self._ascii_rows(size) if self._ascii else self._binary_rows(size)

    def fill(self, columns: np.ndarray, part: slice, rows: np.ndarray, names: tuple[str, ...]) -> None:
        """Put properties of a block into columns of a float32 array [n, k]; what is too large becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, name in enumerate(names):
                columns[part, axis] = rows[name]

    def _binary_rows(self, size: int) -> np.ndarray:
        data = self._file.read(size * self.row.itemsize)
        if len(data) < size * self.row.itemsize:
            raise InputError(f"{self.path}: the file ends before the last vertex")
        return np.frombuffer(data, self.row)

    def _ascii_rows(self, size: int) -> np.ndarray:
        lines = [self._file.readline(_LINE_LIMIT) for _ in range(size)]
        try:
            values = np.array(b" ".join(lines).split(), dtype=np.float64).reshape(size, len(self.names))
        except ValueError:
            raise InputError(f"{self.path}: a vertex line does not hold {len(self.names)} numbers") from None
        rows = np.empty(size, self.row)
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(self.names):
                rows[name] = values[:, index]
        return rows


@contextmanager
def open_vertices(path: str | Path) -> Iterator[PlyVertices]:
    """Open a PLY file, ASCII or binary, and read its header; elements after the vertices are ignored.

    Raises:
        InputError: the file is missing, is no PLY, has no vertices with x, y and z first of its elements, or is too
            short for what its header promises.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            order, count, row = _read_header(file, path)
            left = path.stat().st_size - file.tell()
            smallest = 2 * len(row.names or ()) if order == "ascii" else row.itemsize
            if left + 1 < count * smallest:
                raise InputError(f"{path}: the header promises {count} vertices but the file is too short for them")
            yield PlyVertices(path, count, row, order == "ascii", file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[str, int, np.dtype]:
    """Format, number of vertices, and their properties."""
    if file.readline(8).rstrip() != b"ply":
        raise InputError(f"{path}: is not a PLY file (it does not start with 'ply')")
    order, count = "", -1
    fields: list[tuple[str, str]] = []
    element = ""
    for words in _header_lines(file, path):
        match words:
            case ["format", name, "1.0"] if name in _ORDERS:
                order = name
            case ["element", "vertex", number] if number.isdecimal() and len(number) < 19 and count < 0:
                element, count = "vertex", int(number)
            case ["element", name, _]:
                if count < 0:
                    raise InputError(
                        f"{path}: the element '{name[:40]}' stands before the vertices; save it with them first"
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
    if not order or count < 0 or not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names):
        raise InputError(f"{path}: the header must name a format and vertices with the properties x, y, z, each once")
    return order, count, np.dtype([(name, _ORDERS[order] + kind) for name, kind in fields])


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
