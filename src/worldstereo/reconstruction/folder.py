"""A reconstruction on disk: what lies where, and which steps are finished.

    reconstruction/
      reconstruction.json                conventions, frames, settings, and figures of each finished step
      working/{aligned,refined}/NAME.safetensors     only until the depth is finished
      depth/NAME.safetensors             one a frame: depth, confidence (in 255ths), sky
      cloud.safetensors, mesh.safetensors, splats.safetensors

Every file is written under a temporary name and renamed. A step is finished when reconstruction.json says so, with the
key of what it was made from, and the files that it left are there; files of an unfinished step with the same key are
taken over, others are removed.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import read_json, write_json, write_tensors
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.reconstruction.fusion import FusedCloud

FORMAT = "worldstereo-reconstruction"
VERSION = 1
FILM = "fly_through.mp4"
CHECKPOINT = "splats_checkpoint.safetensors"
_CACHED = 64
_CLOUD, _MESH, _SPLATS = "cloud.safetensors", "mesh.safetensors", "splats.safetensors"
_REMAKE = "delete it and run 'worldstereo reconstruct' again"
_CONVENTIONS = {
    "axes": "OpenCV: x right, y down, z forward; the world's frame and unit",
    "depth": "z-depth of each frame's pixel centres (at +0.5), float32, 0 = unknown or sky",
    "confidence": "k/255; 0.5 = one frame alone says so; 0 = unknown",
    "normals": "unit, towards the free side",
    "faces": "counter-clockwise as seen from the free side",
    "splats": "standard deviations, quaternions w x y z (world from own axes), opacities in (0, 1), colours in [0, 1]",
}


@dataclass(frozen=True)
class _Step:
    """What a step is made from, and the files and folders that it makes.

    Attributes:
        after: the step before it; none for the first.
        results: what is there as long as the step is finished, unless it had nothing to write.
        others: what is only there meanwhile, or is written anew by every run.
    """

    after: str | None
    results: tuple[str, ...]
    others: tuple[str, ...] = ()


_STEPS = {
    "align": _Step(None, (), ("working",)),
    "depth": _Step("align", ("depth",), ("working/refined",)),
    "cloud": _Step("depth", (_CLOUD,), ("point_cloud.ply",)),
    "mesh": _Step("cloud", (_MESH,), ("mesh.glb",)),
    "splats": _Step("cloud", (_SPLATS, FILM), ("splats.ply", CHECKPOINT)),
}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the notes of a safetensors file.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run 'worldstereo reconstruct' (again)")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is damaged ({error}); {_REMAKE}") from error


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Name the file where its tensors are not what they ought to be."""
    try:
        yield
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); {_REMAKE}") from None


def _require_columns(**tensors: Tensor) -> None:
    """Refuse what is no finite [n, 3]."""
    for name, values in tensors.items():
        if values.ndim != 2 or values.shape[1] != 3:
            raise InputError(f"{name} has the shape {tuple(values.shape)}")
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"{name} has a value that is not finite")


class FrameFiles:
    """One safetensors file a frame, the last ones read kept in memory."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self._names = names
        self.read = lru_cache(_CACHED)(self._read)

    def has(self, index: int) -> bool:
        """Whether a frame's file is there."""
        return self._path(index).is_file()

    def write(self, index: int, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
        """Write a frame's file."""
        write_tensors(self._path(index), tensors, notes)

    def notes(self, index: int) -> dict[str, str]:
        """What was noted beside a frame's tensors."""
        return read_tensors(self._path(index))[1]

    def _read(self, index: int) -> dict[str, Tensor]:
        return read_tensors(self._path(index))[0]

    def _path(self, index: int) -> Path:
        return self.folder / f"{self._names[index]}.safetensors"


class ReconstructionFolder:
    """The files of a reconstruction and the record of its steps."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._record = self.folder / "reconstruction.json"

    @property
    def record(self) -> dict[str, Any]:
        """The content of reconstruction.json; empty if there is none.

        Raises:
            InputError: the file is something else.
        """
        if not self._record.exists():
            return {}
        value = read_json(self._record)
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            wrong: str | None = "format"
        else:
            wrong = _wrong_field(value)
        if wrong is not None:
            raise InputError(
                f"{self._record}: is not a record that this version wrote (its field '{wrong}'); "
                f"delete the folder to start anew"
            )
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The frames that the depth belongs to."""
        return tuple(self.record.get("frames", ()))

    def require_usable(self) -> None:
        """Check that nothing of others is in the way.

        Raises:
            InputError: the folder holds other things than a reconstruction.
        """
        if self.record or not self.folder.is_dir():
            return
        others = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise InputError(
                f"{self.folder}: is not empty and holds no reconstruction (for example {others[0]}); "
                f"choose another folder with --out"
            )

    def begin(self, frames: tuple[str, ...], notes: tuple[str, ...]) -> None:
        """Record what is reconstructed; finished steps stay.

        Raises:
            InputError: the folder holds other things; nothing is overwritten.
        """
        self.require_usable()
        self._write({"frames": list(frames), "notes": list(notes), "steps": self.record.get("steps", {})})

    def prepare(self, step: str, key: dict[str, Any]) -> bool:
        """Whether a step still has to run.

        If it last ran with another key, or a file that it left is gone or has another size, the files of this step and
        of all that are made from it are removed.

        Args:
            step: align, depth, cloud, mesh or splats.
            key: everything that decides the step's result, as JSON.
        """
        key = json.loads(json.dumps(key))
        record = self.record
        entry = record["steps"].get(step)
        if entry is None or entry["key"] != key or not self._is_there(entry):
            for name in _with_followers(step):
                for output in (*_STEPS[name].results, *_STEPS[name].others):
                    path = self.folder / output
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                record["steps"].pop(name, None)
            record["steps"][step] = {"done": False, "key": key}
            self._write(record)
        return not record["steps"][step]["done"]

    def finish(self, step: str, figures: dict[str, Any]) -> None:
        """Record that a step is finished, what it found, and the sizes of the files that it left."""
        record = self.record
        files = {
            path.relative_to(self.folder).as_posix(): path.stat().st_size
            for result in _STEPS[step].results
            for path in (self.folder / result, *sorted((self.folder / result).glob("*")))
            if path.is_file()
        }
        record["steps"][step] |= {"done": True, "figures": figures, "files": files}
        self._write(record)

    def _is_there(self, entry: dict[str, Any]) -> bool:
        """Whether the files that a step left have their sizes still; older records do not say which they are."""
        paths = [(self.folder / name, size) for name, size in entry.get("files", {}).items()]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    def _write(self, record: dict[str, Any]) -> None:
        head = {"format": FORMAT, "version": VERSION, "conventions": _CONVENTIONS}
        write_json(self._record, head | {name: record[name] for name in ("frames", "notes", "steps")})

    def depth(self, name: str) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
        """A frame's z-depth (0 = unknown), confidence in [0, 1], and sky.

        Raises:
            InputError: no such frame.
        """
        path = self.folder / "depth" / f"{name}.safetensors"
        tensors, _ = read_tensors(path)
        with _whole(path):
            return tensors["depth"], tensors["confidence"].float() / 255, tensors["sky"]

    @property
    def has_cloud(self) -> bool:
        """Whether the cloud is finished."""
        return bool(self.record.get("steps", {}).get("cloud", {}).get("done"))

    @property
    def cloud(self) -> FusedCloud:
        """The surfaces.

        Raises:
            InputError: the cloud is not finished, or its file is damaged.
        """
        path = self.folder / _CLOUD
        tensors, _ = read_tensors(path)
        with _whole(path):
            cloud = FusedCloud(*(tensors[name] for name in ("points", "colors", "normals", "confidence")))
            _require_columns(points=cloud.points, colors=cloud.colors, normals=cloud.normals)
        return cloud

    @property
    def sky(self) -> PointCloud:
        """Points far behind everything.

        Raises:
            InputError: the cloud is not finished, or its file is damaged.
        """
        path = self.folder / _CLOUD
        tensors, _ = read_tensors(path)
        with _whole(path):
            return PointCloud(tensors["sky_points"], tensors["sky_colors"])

    def write_cloud(self, cloud: FusedCloud, sky: PointCloud) -> None:
        """Write cloud and sky, losslessly."""
        tensors = {name: getattr(cloud, name) for name in ("points", "colors", "normals", "confidence")}
        write_tensors(self.folder / _CLOUD, {**tensors, "sky_points": sky.points, "sky_colors": sky.colors})

    @property
    def has_mesh(self) -> bool:
        """Whether there is a mesh."""
        return (self.folder / _MESH).is_file()

    @property
    def mesh(self) -> TriangleMesh:
        """The surfaces as triangles.

        Raises:
            InputError: there is no mesh, or its file is damaged.
        """
        path = self.folder / _MESH
        tensors, _ = read_tensors(path)
        with _whole(path):
            mesh = TriangleMesh(tensors["vertices"], tensors["faces"].long(), tensors["colors"])
            _require_columns(vertices=mesh.vertices, faces=mesh.faces, colors=mesh.colors)
        return mesh

    @property
    def has_splats(self) -> bool:
        """Whether there are splats."""
        return (self.folder / _SPLATS).is_file()

    @property
    def splats(self) -> GaussianSplats:
        """The scene as Gaussians, with its sky.

        Raises:
            InputError: there are no splats, or their file is damaged.
        """
        path = self.folder / _SPLATS
        tensors, _ = read_tensors(path)
        with _whole(path):
            splats = GaussianSplats(**{field.name: tensors[field.name] for field in fields(GaussianSplats)})
            _require_columns(means=splats.means, scales=splats.scales, colors=splats.colors)
        return splats

    def write_splats(self, splats: GaussianSplats) -> None:
        """Write the splats, losslessly."""
        write_tensors(self.folder / _SPLATS, {name: value.contiguous() for name, value in vars(splats).items()})

    def write_mesh(self, mesh: TriangleMesh) -> None:
        """Write the mesh, losslessly."""
        tensors = {"vertices": mesh.vertices, "faces": mesh.faces.int(), "colors": mesh.colors}
        write_tensors(self.folder / _MESH, tensors)


def _with_followers(step: str) -> list[str]:
    """A step and all that are made from it."""
    found = [step]
    for name, about in _STEPS.items():
        if about.after in found:
            found.append(name)
    return found


def _wrong_field(record: dict[str, Any]) -> str | None:
    """The first field of a record that is missing or of another type than `ReconstructionFolder` writes."""
    for field in ("frames", "notes"):
        texts = record.get(field)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return field
    steps = record.get("steps")
    if not isinstance(steps, dict):
        return "steps"
    kinds = {"done": bool, "key": dict, "figures": dict, "files": dict}
    for step, entry in steps.items():
        if not isinstance(entry, dict):
            return f"steps.{step}"
        given: dict[str, Any] = {"figures": {}, "files": {}} | entry
        for field, kind in kinds.items():
            if not isinstance(given.get(field), kind):
                return f"steps.{step}.{field}"
    return None
