"""The points of COLMAP sparse models, and which image sees which point (https://colmap.github.io/format.html).

`points3D` holds, per point: number, X Y Z, R G B, error, and its track: pairs of an image and the place of the
observation in that image's list. `images` holds the lists: pixels (centres at +0.5) and the number of the point.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras.files.colmap_reading import lines
from worldstereo.errors import InputError

_BLOCK = 1 << 16
_POINT_BYTES = 51
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_OBSERVATION = np.dtype([("pixel", "<f8", 2), ("point", "<u8")])


@dataclass(frozen=True, eq=False)
class Observations:
    """Where images see points.

    Attributes:
        image: which image, from 0.
        point: which point, from 0.
        pixels: where in the image, in pixels with centres at +0.5.
    """

    image: Int[Tensor, " o"]
    point: Int[Tensor, " o"]
    pixels: Float[Tensor, "o 2"]

    @classmethod
    def none(cls) -> "Observations":
        """No observation."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(nothing, nothing, torch.zeros(0, 2))


@dataclass(frozen=True, eq=False)
class ColmapPoints:
    """The points of a model, in the order of the file.

    Attributes:
        points: in the world.
        colors: RGB in [0, 1].
        track_lengths: how many observations each has; 0 where nothing is known of them.
    """

    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    track_lengths: Int[Tensor, " p"]


def read_colmap_points(folder: str | Path) -> ColmapPoints:
    """Read `points3D.bin` or, where there is none, `points3D.txt`.

    Raises:
        InputError: there is neither, or it is cut off, malformed or not finite.
    """
    folder = Path(folder)
    path = folder / "points3D.bin"
    if path.is_file():
        blocks = list(_read_binary(path))
    else:
        path = folder / "points3D.txt"
        if not path.is_file():
            raise InputError(f"{folder}: holds no points3D.bin or points3D.txt; name the folder of a COLMAP model")
        blocks = list(_read_text(path))
    table = np.concatenate([np.zeros(0, _POINT), *blocks])
    if not (np.abs(table["xyz"]) < 1e30).all():
        row = int((~(np.abs(table["xyz"]) < 1e30)).any(axis=1).argmax())
        raise InputError(f"{path}: point {row} has a coordinate that is not finite or beyond 10³⁰; remove it")
    return ColmapPoints(
        points=torch.from_numpy(table["xyz"].astype(np.float32)),
        colors=torch.from_numpy(table["rgb"].astype(np.float32) / 255),
        track_lengths=torch.from_numpy(table["track"].astype(np.int64)),
    )


class Tracks:
    """Observations sorted for both tables."""

    def __init__(self, path: Path, observations: Observations, images: int, points: int) -> None:
        """Sort them.

        Raises:
            InputError: one names an image or a point that is not there.
        """
        image, point = observations.image.cpu().numpy(), observations.point.cpu().numpy()
        for name, index, count in (("image", image, images), ("point", point, points)):
            if len(index) and not (index.min() >= 0 and index.max() < count):
                raise InputError(f"{path}: an observation names {name} {index.max()} of {count}")
        order = np.lexsort((point, image))
        image, point = image[order], point[order]
        self._observed = np.empty(len(order), _OBSERVATION)
        self._observed["pixel"] = observations.pixels.cpu().double().numpy()[order]
        self._observed["point"] = point + 1
        self._image_starts = np.searchsorted(image, np.arange(images + 1))
        pairs = np.column_stack([image + 1, np.arange(len(image)) - self._image_starts[image]]).astype("<u4")
        self._pairs = pairs[np.argsort(point, kind="stable")]
        self.lengths = np.bincount(point, minlength=points)
        self._point_starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def of_image(self, image: int) -> np.ndarray:
        """What an image sees: `pixel` and the number of the `point`, from 1."""
        return self._observed[self._image_starts[image] : self._image_starts[image + 1]]

    def of_points(self, start: int, stop: int) -> np.ndarray:
        """Pairs of image number (from 1) and place in its list, of these points one after the other, uint32 [o, 2]."""
        return self._pairs[self._point_starts[start] : self._point_starts[stop]]


def write_points_text(file: TextIO, points: np.ndarray, rgb: np.ndarray, tracks: Tracks) -> None:
    """Write the lines of points [p, 3] float64 with colours [p, 3] uint8."""
    for i, (point, color) in enumerate(zip(points.tolist(), rgb.tolist(), strict=True)):
        track = "".join(f" {image} {place}" for image, place in tracks.of_points(i, i + 1))
        places = " ".join(f"{value:.12g}" for value in point)
        file.write(f"{i + 1} {places} {color[0]} {color[1]} {color[2]} 0{track}\n")


def write_points_binary(file: BinaryIO, points: np.ndarray, rgb: np.ndarray, tracks: Tracks) -> None:
    """Write the table of points [p, 3] float64 with colours [p, 3] uint8, in bounded memory."""
    file.write(struct.pack("<Q", len(points)))
    for start in range(0, len(points), _BLOCK):
        stop = min(start + _BLOCK, len(points))
        table = np.zeros(stop - start, _POINT)
        table["id"] = np.arange(start + 1, stop + 1)
        table["xyz"], table["rgb"] = points[start:stop], rgb[start:stop]
        table["track"] = tracks.lengths[start:stop]
        pairs = tracks.of_points(start, stop)
        if not len(pairs):
            file.write(table.tobytes())
            continue
        ends = np.cumsum(_POINT_BYTES + 8 * tracks.lengths[start:stop])
        is_point = np.zeros(ends[-1], bool)
        heads = np.concatenate([[0], ends[:-1]])
        is_point[(heads[:, None] + np.arange(_POINT_BYTES)).reshape(-1)] = True
        content = np.empty(ends[-1], np.uint8)
        content[is_point] = table.view(np.uint8)
        content[~is_point] = pairs.reshape(-1).view(np.uint8)
        file.write(content.tobytes())


def _read_binary(path: Path) -> Iterator[np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    count = int.from_bytes(content[:8], "little")
    if len(content) < 8 or count * _POINT_BYTES > len(content) - 8:
        raise InputError(f"{path}: says {count} points but is too short for them; it is cut off or no COLMAP file")
    heads, position, track_length = [], 8, struct.Struct("<Q").unpack_from
    for _ in range(count):
        if position + _POINT_BYTES > len(content):
            raise InputError(f"{path}: ends too early; it is cut off or no COLMAP file")
        heads.append(position)
        position += _POINT_BYTES + 8 * track_length(content, position + _POINT_BYTES - 8)[0]
    if position > len(content):
        raise InputError(f"{path}: ends within a track; it is cut off or no COLMAP file")
    data, starts = np.frombuffer(content, np.uint8), np.array(heads, np.int64)
    for start in range(0, count, _BLOCK):
        rows = starts[start : start + _BLOCK, None] + np.arange(_POINT_BYTES)
        yield data[rows].reshape(-1).view(_POINT)


def _read_text(path: Path) -> Iterator[np.ndarray]:
    rows: list[list[float]] = []
    for number, line in lines(path):
        words = line.split(maxsplit=8)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 8:
            raise InputError(f"{path}: line {number} must be POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]")
        try:
            row = [float(word) for word in words[1:7]]
        except ValueError:
            raise InputError(f"{path}: line {number} has a coordinate or colour that is no number") from None
        if not all(0 <= level <= 255 for level in row[3:]):
            raise InputError(f"{path}: line {number} has a colour outside of 0 to 255")
        rows.append([*row, float(len(words[8].split()) // 2 if len(words) > 8 else 0)])
        if len(rows) == _BLOCK:
            yield _table(rows)
            rows = []
    yield _table(rows)


def _table(rows: list[list[float]]) -> np.ndarray:
    values = np.array(rows, np.float64).reshape(-1, 7)
    table = np.zeros(len(values), _POINT)
    table["xyz"], table["rgb"], table["track"] = values[:, :3], values[:, 3:6], values[:, 6]
    return table
