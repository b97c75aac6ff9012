"""A reconstruction on disk: what lies where, and which steps are finished.

    reconstruction/
      reconstruction.json                conventions, frames, settings, and figures of each finished step
      working/{aligned,refined}/NAME.safetensors     only until the depth is finished
      depth/NAME.safetensors             one a frame: depth, confidence (in 255ths), sky
      cloud.safetensors, mesh.safetensors, splats.safetensors

Every file is written under a temporary name and renamed. A step is finished when reconstruction.json says so, with the
key of what it was made from; files of an unfinished step with the same key are taken over, others are removed.
"""

import json
import shutil
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

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
_CACHED = 64
_SPLATS = "splats.safetensors"
_CONVENTIONS = {
    "axes": "OpenCV: x right, y down, z forward; the world's frame and unit",
    "depth": "z-depth of each frame's pixel centres (at +0.5), float32, 0 = unknown or sky",
    "confidence": "k/255; 0.5 = one frame alone says so; 0 = unknown",
    "normals": "unit, towards the free side",
    "faces": "counter-clockwise as seen from the free side",
    "splats": "standard deviations, quaternions w x y z (world from own axes), opacities in (0, 1), colours in [0, 1]",
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
        raise InputError(f"{path}: is damaged ({error}); delete it and run 'worldstereo reconstruct' again") from error


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
            raise InputError(
                f"{self._record}: is not a record that this version wrote; delete the folder to start anew"
            )
        return value

    @property
    def names(self) -> tuple[str, ...]:
        """The frames that the depth belongs to."""
        return tuple(self.record.get("frames", ()))

    def begin(self, frames: tuple[str, ...], notes: tuple[str, ...]) -> None:
        """Record what is reconstructed; finished steps stay.

        Raises:
            InputError: the folder holds other things; nothing is overwritten.
        """
        record = self.record
        if not record and self.folder.is_dir():
            others = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith("."))
            if others:
                raise InputError(
                    f"{self.folder}: is not empty and holds no reconstruction (for example {others[0]}); "
                    f"choose another folder with --out"
                )
        self._write({"frames": list(frames), "notes": list(notes), "steps": record.get("steps", {})})

    def prepare(self, step: str, key: dict[str, Any], outputs: tuple[str, ...]) -> bool:
        """Whether a step still has to run.

        If it last ran with another key, the files of this step and of all later ones are removed.

        Args:
            key: everything that decides the step's result, as JSON.
            outputs: files and folders of the step.
        """
        key = json.loads(json.dumps(key))
        record = self.record
        steps = record["steps"]
        if step not in steps or steps[step]["key"] != key:
            later = list(steps)[list(steps).index(step) :] if step in steps else []
            for name in later:
                for output in steps.pop(name)["outputs"]:
                    path = self.folder / output
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            steps[step] = {"done": False, "key": key, "outputs": list(outputs)}
            self._write(record)
        return not steps[step]["done"]

    def finish(self, step: str, figures: dict[str, Any]) -> None:
        """Record that a step is finished and what it found."""
        record = self.record
        record["steps"][step] |= {"done": True, "figures": figures}
        self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        head = {"format": FORMAT, "version": VERSION, "conventions": _CONVENTIONS}
        write_json(self._record, head | {name: record[name] for name in ("frames", "notes", "steps")})

    def depth(self, name: str) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
        """A frame's z-depth (0 = unknown), confidence in [0, 1], and sky.

        Raises:
            InputError: no such frame.
        """
        tensors, _ = read_tensors(self.folder / "depth" / f"{name}.safetensors")
        return tensors["depth"], tensors["confidence"].float() / 255, tensors["sky"]

    @property
    def has_cloud(self) -> bool:
        """Whether the cloud is finished."""
        return bool(self.record.get("steps", {}).get("cloud", {}).get("done"))

    @property
    def cloud(self) -> FusedCloud:
        """The surfaces.

        Raises:
            InputError: the cloud is not finished.
        """
        tensors, _ = read_tensors(self.folder / "cloud.safetensors")
        return FusedCloud(*(tensors[name] for name in ("points", "colors", "normals", "confidence")))

    @property
    def sky(self) -> PointCloud:
        """Points far behind everything."""
        tensors, _ = read_tensors(self.folder / "cloud.safetensors")
        return PointCloud(tensors["sky_points"], tensors["sky_colors"])

    def write_cloud(self, cloud: FusedCloud, sky: PointCloud) -> None:
        """Write cloud and sky, losslessly."""
        tensors = {name: getattr(cloud, name) for name in ("points", "colors", "normals", "confidence")}
        write_tensors(
            self.folder / "cloud.safetensors", {**tensors, "sky_points": sky.points, "sky_colors": sky.colors}
        )

    @property
    def has_mesh(self) -> bool:
        """Whether there is a mesh."""
        return (self.folder / "mesh.safetensors").is_file()

    @property
    def mesh(self) -> TriangleMesh:
        """The surfaces as triangles.

        Raises:
            InputError: there is no mesh.
        """
        tensors, _ = read_tensors(self.folder / "mesh.safetensors")
        return TriangleMesh(tensors["vertices"], tensors["faces"].long(), tensors["colors"])

    @property
    def has_splats(self) -> bool:
        """Whether there are splats."""
        return (self.folder / _SPLATS).is_file()

    @property
    def splats(self) -> GaussianSplats:
        """The scene as Gaussians, with its sky.

        Raises:
            InputError: there are no splats.
        """
        tensors, _ = read_tensors(self.folder / _SPLATS)
        return GaussianSplats(**{field.name: tensors[field.name] for field in fields(GaussianSplats)})

    def write_splats(self, splats: GaussianSplats) -> None:
        """Write the splats, losslessly."""
        write_tensors(self.folder / _SPLATS, {name: value.contiguous() for name, value in vars(splats).items()})

    def write_mesh(self, mesh: TriangleMesh) -> None:
        """Write the mesh, losslessly."""
        tensors = {"vertices": mesh.vertices, "faces": mesh.faces.int(), "colors": mesh.colors}
        write_tensors(self.folder / "mesh.safetensors", tensors)
