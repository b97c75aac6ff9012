"""Binary glTF 2.0 (GLB): a JSON scene and one block of arrays (https://registry.khronos.org/glTF/specs/2.0/).

Axes of a glTF scene: right-handed, y up; metres. Colours of vertices are linear, not sRGB.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldstereo import __version__
from worldstereo.cameras.files.fields import Field
from worldstereo.errors import InputError
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.files import atomic_path

TRIANGLES, POINTS = 4, 0
_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_KNOWN = {"KHR_mesh_quantization", "KHR_materials_unlit", "KHR_gaussian_splatting"}
_MOST_JSON = 1 << 26
_MOST_ELEMENTS = 50_000_000
_EXTRAS = "worldstereo_level_rotation"


class GlbArrays:
    """The arrays of a GLB that is being made, and the file at the end."""

    def __init__(self) -> None:
        self._blobs: list[np.ndarray] = []
        self._views: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []
        self._size = 0

    def add(self, values: np.ndarray, *, normalized: bool = False, bounds: bool = False, indices: bool = False) -> int:
        """Add an array [n] or [n, 2 to 4] of a glTF number type; gives its accessor's number.

        Args:
            values: whose rows are of a multiple of 4 bytes.
            normalized: whole numbers stand for fractions of their largest value.
            bounds: state the smallest and largest values (which positions must).
            indices: of triangles' vertices.
        """
        values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
        kinds = {np.dtype(kind): number for number, kind in _TYPES.items()}
        width = 1 if values.ndim == 1 else values.shape[1]
        accessor: dict[str, Any] = {
            "bufferView": len(self._views),
            "componentType": kinds[values.dtype],
            "count": len(values),
            "type": next(name for name, columns in _WIDTHS.items() if columns == width),
        }
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        view = {
            "buffer": 0,
            "byteOffset": self._size,
            "byteLength": values.nbytes,
            "target": 34963 if indices else 34962,
        }
        self._blobs.append(values)
        self._views.append(view)
        self._accessors.append(accessor)
        self._size += values.nbytes + -values.nbytes % 4
        return len(self._accessors) - 1

    def write(
        self, path: str | Path, primitive: dict[str, Any], frame: SceneFrame, parts: dict[str, Any], **extras: str
    ) -> None:
        """Write a scene of one primitive, turned by its node so that `frame.up` is up; atomic.

        Args:
            path: the file.
            primitive: whose positions are in the world's place with y and z flipped.
            frame: up and unit; they and `extras` are told in the asset's extras.
            parts: more of the top level, such as materials and extensions.

        Raises:
            InputError: the file cannot be written, or the arrays are more than the format's 4 GiB.
        """
        w, x, y, z = frame.level_rotation().tolist()
        turn = {} if w == 1 else {"rotation": [x, -y, -z, w]}
        told: dict[str, Any] = {"axes": "glTF: x right, y up, z backward", "unit": frame.unit, **extras}
        if turn:
            told[_EXTRAS] = turn["rotation"]
        document = {
            "asset": {"version": "2.0", "generator": f"worldstereo {__version__}", "extras": told},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": "world", **turn}],
            "meshes": [{"primitives": [primitive]}],
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": self._size}],
            **parts,
        }
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self._size
        if total >= 1 << 32:
            raise InputError(f"{path}: would have {total} bytes, more than the 4 GiB of a GLB; export fewer elements")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(struct.pack("<5I", _MAGIC, 2, total, len(text), _JSON) + text)
            file.write(struct.pack("<2I", self._size, _BINARY))
            for blob in self._blobs:
                file.write(blob.data)
                file.write(bytes(-blob.nbytes % 4))


@dataclass(frozen=True)
class GlbFile:
    """A GLB as read: its JSON, and its block of bytes.

    Every method raises `InputError`, naming file and field, where the file is wrong.
    """

    root: Field
    binary: bytes

    @classmethod
    def read(cls, path: str | Path) -> "GlbFile":
        """Read the file.

        Raises:
            InputError: the file is missing, is no GLB, is cut short, or needs an extension that is not known here.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                text, binary = _chunks(file.read(), path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            root = Field(path, "", json.loads(text.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: its JSON is damaged ({error})") from error
        for name in _listed(root, "extensionsRequired"):
            if name.text() not in _KNOWN:
                raise name.fail(
                    f"is '{name.text()[:60]}', which cannot be read; save the file without it (uncompressed)"
                )
        return cls(root, binary)

    def primitives(self) -> Iterator[tuple[Field, np.ndarray]]:
        """The primitives of the scene's meshes, each with the 4×4 matrix that places it in the scene.

        The turn that our writer put above the world to make it upright is taken back.
        """
        nodes, meshes = _listed(self.root, "nodes"), _listed(self.root, "meshes")
        waiting = [(node, self._unlevelled()) for node in reversed(self._roots(nodes))]
        seen: set[str] = set()
        while waiting:
            node, above = waiting.pop()
            if node.name in seen:
                raise node.fail("stands below itself or in two places, which glTF does not allow")
            seen.add(node.name)
            matrix = above @ _matrix(node)
            if not np.isfinite(matrix).all():
                raise node.fail("has a transform that is not finite")
            if "mesh" in node:
                for primitive in _listed(_entry(meshes, node["mesh"]), "primitives"):
                    yield primitive, matrix
            waiting.extend((_entry(nodes, child), matrix) for child in reversed(_listed(node, "children")))

    def positions(self, attribute: Field, matrix: np.ndarray) -> np.ndarray:
        """Positions as float32 [n, 3], moved by the 4×4 matrix; unchanged to the bit if that is the identity."""
        points = self.floats(attribute, 3)
        if not np.array_equal(matrix, np.eye(4)):
            with np.errstate(over="ignore", invalid="ignore"):
                points = (points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        if not np.isfinite(points).all():
            raise attribute.fail("holds a position that is not finite")
        return points

    def base_color(self, primitive: Field) -> list[float]:
        """The linear RGB by which the primitive's material multiplies; white if it has none."""
        if "material" in primitive:
            material = _entry(_listed(self.root, "materials"), primitive["material"])
            if "pbrMetallicRoughness" in material and "baseColorFactor" in material["pbrMetallicRoughness"]:
                return _numbers(material["pbrMetallicRoughness"]["baseColorFactor"], 4)[:3]
        return [1.0, 1.0, 1.0]

    def floats(self, attribute: Field, *widths: int) -> np.ndarray:
        """The values of an accessor as float32 [n, width]; normalized whole numbers become fractions."""
        accessor = self._accessor(attribute)
        values = self._values(accessor, widths)
        if values.dtype.kind == "f" or not ("normalized" in accessor and accessor["normalized"].value is True):
            return values.astype(np.float32)
        fractions = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
        return np.maximum(fractions, -1)

    def whole(self, attribute: Field) -> np.ndarray:
        """The values of an accessor of whole numbers, int64 [n]."""
        values = self._values(self._accessor(attribute), (1,))
        if values.dtype.kind != "u":
            raise attribute.fail("must be an accessor of unsigned whole numbers")
        return values[:, 0].astype(np.int64)

    def _roots(self, nodes: list[Field]) -> list[Field]:
        scenes = _listed(self.root, "scenes")
        if scenes:
            scene = _entry(scenes, self.root["scene"]) if "scene" in self.root else scenes[0]
            return [_entry(nodes, number) for number in _listed(scene, "nodes")]
        children = {
            child.value for node in nodes for child in _listed(node, "children") if isinstance(child.value, int)
        }
        return [node for index, node in enumerate(nodes) if index not in children]

    def _unlevelled(self) -> np.ndarray:
        """The inverse of the turn that the asset's extras tell; the identity if there is none."""
        matrix = np.eye(4)
        extras = self.root["asset"]["extras"] if "asset" in self.root and "extras" in self.root["asset"] else None
        if extras is not None and _EXTRAS in extras:
            matrix[:3, :3] = _rotation(extras[_EXTRAS]).T
        return matrix

    def _accessor(self, attribute: Field) -> Field:
        return _entry(_listed(self.root, "accessors"), attribute)

    def _values(self, accessor: Field, widths: tuple[int, ...]) -> np.ndarray:
        """The accessor's numbers in their own type [n, width], a view of the file's bytes."""
        if "sparse" in accessor or "bufferView" not in accessor:
            raise accessor.fail("is sparse or compressed, which cannot be read; save the file without compression")
        kind = _TYPES.get(_index(accessor["componentType"], 1 << 20))
        width = _WIDTHS.get(accessor["type"].text())
        if kind is None or width not in widths:
            raise accessor.fail("has a componentType or type that does not fit its use")
        view = _entry(_listed(self.root, "bufferViews"), accessor["bufferView"])
        if "uri" in _entry(_listed(self.root, "buffers"), view["buffer"]) or _index(view["buffer"], 1 << 20) != 0:
            raise view.fail("refers to data outside the file; save it as one .glb")
        size = np.dtype(kind).itemsize
        count = _index(accessor["count"], _MOST_ELEMENTS + 1)
        offset = _optional(view, "byteOffset")
        length = _index(view["byteLength"], len(self.binary) + 1)
        stride = _optional(view, "byteStride") or size * width
        start = _optional(accessor, "byteOffset")
        needed = start + stride * (count - 1) + size * width if count else start
        if stride < size * width or needed > length or offset + length > len(self.binary):
            raise accessor.fail("reaches beyond the file's data; it is cut short or damaged")
        return np.ndarray((count, width), kind, self.binary, offset + start, (stride, size))


def mode_of(primitive: Field) -> int:
    """What the primitive is made of, such as `POINTS` or `TRIANGLES`, which is what is meant if it says nothing."""
    return _index(primitive["mode"], 7) if "mode" in primitive else TRIANGLES


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """The inverse of `linear_from_srgb`."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def check_total(path: Path, total: int) -> None:
    """Refuse scenes that place one array so often that memory would not hold them."""
    if total > _MOST_ELEMENTS:
        raise InputError(f"{path}: places more than {_MOST_ELEMENTS} vertices; it is damaged or too large")


def _chunks(content: bytes, path: Path) -> tuple[bytes, bytes]:
    if len(content) < 20 or struct.unpack_from("<I", content)[0] != _MAGIC:
        raise InputError(f"{path}: is no binary glTF (it does not start with 'glTF'); save it as .glb")
    version, total, size, kind = struct.unpack_from("<4I", content, 4)
    if version != 2 or kind != _JSON:
        raise InputError(f"{path}: is no glTF 2.0 file; save it as .glb of version 2.0")
    if total > len(content) or 20 + size > len(content):
        raise InputError(f"{path}: is cut short ({len(content)} bytes of {total}); copy or download it again")
    if size > _MOST_JSON:
        raise InputError(f"{path}: its JSON has {size} bytes, more than {_MOST_JSON}; it is damaged or too large")
    text, rest = content[20 : 20 + size], content[20 + size : total]
    if len(rest) < 8:
        return text, b""
    size, kind = struct.unpack_from("<2I", rest)
    if kind != _BINARY or 8 + size > len(rest):
        raise InputError(f"{path}: its block of data is cut short; copy or download it again")
    return text, rest[8 : 8 + size]


def _matrix(node: Field) -> np.ndarray:
    """The 4×4 matrix of a node: given, or of translation, rotation and scale."""
    if "matrix" in node:
        return np.array(_numbers(node["matrix"], 16)).reshape(4, 4).T
    matrix = np.eye(4)
    if "rotation" in node:
        matrix[:3, :3] = _rotation(node["rotation"])
    if "scale" in node:
        matrix[:3, :3] *= _numbers(node["scale"], 3)
    if "translation" in node:
        matrix[:3, 3] = _numbers(node["translation"], 3)
    return matrix


def _rotation(field: Field) -> np.ndarray:
    """The 3×3 matrix of a quaternion in glTF's order."""
    xyzw = np.clip(_numbers(field, 4), -1e100, 1e100)
    length = float(np.linalg.norm(xyzw))
    if length < 1e-12:
        raise field.fail("is a rotation of length 0")
    x, y, z, w = xyzw / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _listed(field: Field, name: str) -> list[Field]:
    """A list below an object; empty where there is none."""
    if name not in field or field[name].value == []:
        return []
    return field[name].elements()


def _numbers(field: Field, count: int) -> list[float]:
    if not isinstance(field.value, list) or len(field.value) != count:
        raise field.fail(f"must be a list of {count} numbers")
    return [element.number() for element in field.elements()]


def _index(field: Field, limit: int) -> int:
    """A whole number from 0, below `limit`."""
    if isinstance(field.value, bool) or not isinstance(field.value, int) or not 0 <= field.value < limit:
        raise field.fail(f"must be a whole number from 0 to {limit - 1}")
    return field.value


def _optional(field: Field, name: str) -> int:
    return _index(field[name], 1 << 32) if name in field else 0


def _entry(entries: list[Field], number: Field) -> Field:
    if not entries:
        raise number.fail("refers to a list that the file does not have")
    return entries[_index(number, len(entries))]
