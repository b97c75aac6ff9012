"""Splats in the SPZ format of Niantic Labs (https://github.com/nianticlabs/spz): 20 bytes a splat before gzip.

A gzip stream, little endian: a header (magic "NGSP", version, number of splats, degree of spherical harmonics, fraction
bits, flags, 0), then one section after the other for all splats: positions as 24-bit fixed point, opacities
(255 · α), colours (255 · (0.15 · f_dc + 0.5), f_dc as of 3D Gaussian Splatting), scales (16 · (ln s + 10)), rotations,
spherical harmonics. Rotations of version 3 are the three smaller components of the quaternion, 10 bits each (sign and
511 · √2 · size), and 2 bits for which one is left out; of version 2, x, y and z in a byte each. Version 1 has
half-float positions. The axes are x right, y up, z backward (RUB).
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from worldstereo.errors import InputError
from worldstereo.exporters.scene_frame import flip_points, flip_rotations
from worldstereo.exporters.splat_file import SplatFile, build
from worldstereo.files import atomic_path
from worldstereo.geometry.splats import SH_BASE, GaussianSplats

_MAGIC = 0x5053474E
_HEADER = struct.Struct("<IIIBBBB")
_MOST_FRACTION_BITS = 24
_MOST_SPLATS = 50_000_000
_MOST_WRITTEN = 10_000_000  # the reader of Niantic Labs refuses more
_MOST_RATIO = 1100  # no deflate stream grows by more than 1032
_CHUNK = 1 << 22
_LEVEL = 6  # of gzip; 9 gains nothing
_COLOR_SCALE = 0.15
_POSITION_LIMIT = (1 << 23) - 1
_COMPONENT_LIMIT = (1 << 9) - 1
_SH_BYTES = {0: 0, 1: 9, 2: 24, 3: 45, 4: 72}


def write_spz(path: str | Path, splats: GaussianSplats) -> None:
    """Write version 3, in SPZ's axes (x right, y up, z backward); atomic.

    Positions are as fine as the farthest splat allows: 2⁻²³ of its largest coordinate, rounded up to a power of two.
    Scales are rounded to 6 % and held between e⁻¹⁰ and e^5.94, opacities to
    0.002, colours to 0.004, rotations to 0.2°.

    Raises:
        InputError: the file cannot be written, a splat is farther than 2²³ units, or there are more than 10 million.
    """
    count = len(splats)
    if count > _MOST_WRITTEN:
        raise InputError(f"{path}: {count} splats are more than SPZ readers take; write a splat PLY instead")
    means = flip_points(splats.means.cpu()).double().numpy()
    farthest = float(np.abs(means).max(initial=0))
    if farthest > _POSITION_LIMIT:
        raise InputError(
            f"{path}: a splat is {farthest:g} units away, which SPZ cannot hold; write a splat PLY instead"
        )
    bits = min(_MOST_FRACTION_BITS, int(np.floor(np.log2(_POSITION_LIMIT / max(farthest, 1e-9)))))
    f_dc = (splats.colors.cpu() - 0.5) / SH_BASE
    sections = (
        np.round(means * 2**bits).astype("<i4").view(np.uint8).reshape(count, 3, 4)[:, :, :3],
        _bytes(splats.opacities.cpu() * 255),
        _bytes((f_dc * _COLOR_SCALE + 0.5) * 255),
        _bytes((splats.scales.cpu().clamp_min(1e-12).log() + 10) * 16),
        _pack_rotations(flip_rotations(splats.rotations.cpu()).numpy()),
    )
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=_LEVEL, fileobj=raw, mtime=0) as file,
    ):
        file.write(_HEADER.pack(_MAGIC, 3, count, 0, bits, 0, 0))
        for section in sections:
            file.write(np.ascontiguousarray(section).tobytes())


def read_spz(path: str | Path) -> SplatFile:
    """Read versions 1 to 3; of spherical harmonics the degree is told and degree 0 kept.

    Memory is bounded by the number of splats, and that by the size of the file.

    Raises:
        InputError: the file is missing, is no SPZ or of another version, is cut short, or promises more than it holds.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            if raw.read(4) == _MAGIC.to_bytes(4, "little"):
                raise InputError(f"{path}: is SPZ of version 4 or later (zstandard); save it as version 3")
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                return _read(path, file, path.stat().st_size)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: is no SPZ file, or damaged ({error})") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: is cut short or damaged ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read(path: Path, file: gzip.GzipFile, size: int) -> SplatFile:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise InputError(f"{path}: is cut short in the header; copy or download it again")
    magic, version, count, degree, bits, _, _ = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise InputError(f"{path}: is no SPZ file (it does not hold 'NGSP')")
    if version not in (1, 2, 3):
        raise InputError(f"{path}: is SPZ of version {version}; only versions 1 to 3 can be read")
    if degree not in _SH_BYTES or bits > _MOST_FRACTION_BITS:
        raise InputError(
            f"{path}: the header's degree {degree} or fraction bits {bits} are out of range; it is damaged"
        )
    position, rotation = (6 if version == 1 else 9), (4 if version == 3 else 3)
    if count > min(_MOST_SPLATS, _MOST_RATIO * size / (position + rotation + 7 + _SH_BYTES[degree])):
        raise InputError(f"{path}: promises {count} splats but is too short for them")
    positions, alphas, colors, scales, rotations = (
        _section(path, file, count, width) for width in (position, 1, 3, 3, rotation)
    )
    _skip(path, file, count * _SH_BYTES[degree])
    file.read(_CHUNK)  # the end, where the checksum is verified; vendors may add something before it
    means = torch.from_numpy(_unpack_positions(positions, bits, version))
    quaternions = _unpack_smallest_three(rotations) if version == 3 else _unpack_bytes(rotations)
    f_dc = (colors.astype(np.float32) / 255 - 0.5) / _COLOR_SCALE
    return build(
        path,
        flip_points(means).numpy(),
        np.exp(scales.astype(np.float32) / 16 - 10),
        flip_rotations(torch.from_numpy(quaternions)).numpy(),
        alphas[:, 0].astype(np.float32) / 255,
        f_dc * np.float32(SH_BASE) + np.float32(0.5),
        degree,
    )


def _section(path: Path, file: gzip.GzipFile, count: int, width: int) -> np.ndarray:
    """The next `count` × `width` bytes, taken in pieces, so that nothing is allocated that is not there."""
    content = bytearray()
    while len(content) < count * width:
        piece = file.read(min(_CHUNK, count * width - len(content)))
        if not piece:
            raise InputError(f"{path}: ends before the last splat; copy or download it again")
        content += piece
    return np.frombuffer(content, np.uint8).reshape(count, width)


def _skip(path: Path, file: gzip.GzipFile, size: int) -> None:
    while size > 0:
        piece = file.read(min(_CHUNK, size))
        if not piece:
            raise InputError(f"{path}: ends within the spherical harmonics; copy or download it again")
        size -= len(piece)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _unpack_positions(data: np.ndarray, bits: int, version: int) -> np.ndarray:
    if version == 1:
        return np.ascontiguousarray(data).view("<f2").astype(np.float32)
    low, middle, high = (data[:, byte::3].astype(np.int32) for byte in range(3))
    fixed = low | middle << 8 | high << 16
    return (((fixed ^ 1 << 23) - (1 << 23)) * 2.0**-bits).astype(np.float32)


def _pack_rotations(rotations: np.ndarray) -> np.ndarray:
    """Bytes [n, 4] of quaternions (w, x, y, z): bits 30 and 31 name the largest of (x, y, z, w)."""
    q = np.roll(rotations, -1, axis=1).astype(np.float64)
    q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-12)
    largest = np.abs(q).argmax(axis=1)
    q *= np.where(np.take_along_axis(q, largest[:, None], axis=1) < 0, -1, 1)
    fields = np.round(np.abs(q) * (_COMPONENT_LIMIT * np.sqrt(2))).clip(0, _COMPONENT_LIMIT).astype(np.uint32)
    fields |= (q < 0).astype(np.uint32) << 9
    packed = largest.astype(np.uint32)
    for component in range(4):
        packed = np.where(largest == component, packed, packed << 10 | fields[:, component])
    return packed.astype("<u4").view(np.uint8).reshape(-1, 4)


def _unpack_smallest_three(data: np.ndarray) -> np.ndarray:
    packed = np.ascontiguousarray(data).view("<u4")[:, 0]
    largest = packed >> 30
    q = np.zeros((len(packed), 4), np.float32)
    for component in range(3, -1, -1):
        stored = largest != component
        size = (packed & _COMPONENT_LIMIT) / np.float32(_COMPONENT_LIMIT * np.sqrt(2))
        q[:, component] = np.where(stored, np.where(packed >> 9 & 1, -size, size), 0)
        packed = np.where(stored, packed >> 10, packed)
    rest = np.sqrt(np.maximum(0, 1 - (q**2).sum(axis=1)))
    np.put_along_axis(q, largest[:, None].astype(np.int64), rest[:, None], axis=1)
    return np.roll(q, 1, axis=1)


def _unpack_bytes(data: np.ndarray) -> np.ndarray:
    xyz = data.astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1)))
    return np.column_stack([w, xyz])
