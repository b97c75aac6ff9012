"""A world on disk: what lies where, and what is finished.

    world/
      world.json                          what was asked, conventions, planned clips
      input/{picture.png, depth.png, depth.safetensors, camera.json}
      clips/000-ellipse/{cameras.json, frames/000.png, guidance/{rgb,hole_mask}/000.png,
                         references.json, update.json, video.mp4, done}
      memory/{input,cloud-000}.safetensors    the global cloud of the input, and after clip 000

Every file is written under a temporary name and renamed. world.json comes after the input and the planned cameras,
and `done` after everything else of a clip, so that a clip is either finished or made again. `done` says of which
plan the clip is a part, so that clips outlive their world.json, but are never taken for those of another plan.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import read_cameras, write_official
from worldstereo.errors import BusyError, InputError
from worldstereo.files import (
    atomic_path,
    is_leftover,
    read_json,
    remove_leftovers,
    write_json,
    write_tensors,
    write_text,
)
from worldstereo.geometry import PointCloud
from worldstereo.geometry.panorama import rig_cameras, sample_equirect
from worldstereo.geometry.rendering import PointRender
from worldstereo.images import colorize_depth, load_png, save_png
from worldstereo.locks import locked
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.records import read_record

FORMAT = "worldstereo-world"
VERSION = 2
_LOCK = ".lock"
_OWN_ENTRIES = {_LOCK, "input", "clips", "memory", "reconstruction", "point_cloud.ply", "report.html"}
_AGAIN = "and run the same 'worldstereo generate' again, which keeps the finished clips"
_REMAKE = f"restore it, or delete it {_AGAIN}"
_CONVENTIONS = {
    "axes": "OpenCV: x right, y down, z forward",
    "poses": "cam_from_world (w2c), 4x4",
    "intrinsics": "3x3 in pixels of the frame, pixel centres at +0.5",
    "world": "the first camera's frame, unless a camera file was given",
    "depth": "z-depth of a perspective picture, distance along the ray of a panorama; 0 = unknown",
    "hole_mask": "white = nothing known",
}


@dataclass(frozen=True)
class Request:
    """Everything that decides the content of a world; two runs of equal requests give equal frames.

    Attributes:
        depth_scale: metres per unit of a depth file, where stated.
        file_fingerprint: of the contents of named files, and of the model's weights where they lie in a folder.
    """

    picture_sha256: str
    projection: str
    depth: str
    camera: str
    model: str
    options: dict[str, Any]
    trajectories: tuple[str, ...]
    seed: int
    frames: int
    size: tuple[int, int]
    squeeze: bool
    default_fov: float
    software: str
    depth_scale: float | None = None
    file_fingerprint: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be made.

    Attributes:
        name: the clip's folder, e.g. "000-orbit-right-14".
        trajectory: what was asked, as `parse_trajectory` reads it.
        fraction: how much of the asked path is flown to keep clear of the geometry, in [0, 1].
        start: "input", or "CLIP:FRAME" for a path that leaves from a generated frame.
    """

    name: str
    trajectory: str
    fraction: float
    start: str


@dataclass(frozen=True)
class Manifest:
    """The content of world.json."""

    request: Request
    source_name: str
    width: int
    height: int
    depth_source: str
    metric: bool
    intrinsics_source: str
    radius: float
    up: tuple[float, float, float]
    clips: tuple[ClipPlan, ...]

    def fingerprint(self, index: int) -> str:
        """Of everything that decides the content of that clip: the request, and the plans up to its own."""
        values = [asdict(self.request), [asdict(plan) for plan in self.clips[: index + 1]]]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the format's name, version and conventions."""
        return {"format": FORMAT, "version": VERSION, "conventions": _CONVENTIONS, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, path: Path) -> "Manifest":
        """Read what `to_json` gave.

        Raises:
            InputError: another format or version, or a field that is missing or of another type, named with the file.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f"{path}: is not a world folder's world.json (its field 'format' is not '{FORMAT}')")
        if value.get("version") != VERSION:
            raise InputError(
                f"{path}: has version {value.get('version')} but this program reads version {VERSION}; "
                f"use the worldstereo release that made it"
            )
        return read_record(cls, value, path, _REMAKE)


class Clip:
    """One clip of a world, read from disk when asked for."""

    def __init__(self, folder: Path, plan: ClipPlan) -> None:
        self.folder = folder
        self.plan = plan

    @property
    def name(self) -> str:
        """The folder's name, e.g. "000-orbit-right-14"."""
        return self.plan.name

    @property
    def is_done(self) -> bool:
        """Whether every file of the clip is in place."""
        return (self.folder / "done").exists()

    @property
    def cameras(self) -> Cameras:
        """The exact cameras of the frames."""
        return read_cameras(self.folder / "cameras.json").cameras

    @property
    def frames(self) -> Float[Tensor, "f 3 h w"]:
        """The frames as generated, lossless, RGB in [0, 1].

        Raises:
            InputError: a frame is damaged or missing.
        """
        done = self.folder / "done"
        mend = f"delete {done} and run the same 'worldstereo generate' again, which makes the clip again"
        paths = [self.folder / "frames" / f"{index:03d}.png" for index in range(len(self.cameras))]
        return torch.stack([load_png(path, mend) for path in paths])

    @property
    def video(self) -> Path:
        """The MP4, for people."""
        return self.folder / "video.mp4"

    def write_frames(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f 3 h w"]:
        """Write the frames as 8-bit PNGs; gives them as they will be read back, so that a resumed run agrees."""
        levels = (frames.clamp(0, 1) * 255).round() / 255
        _write_pictures(self.folder / "frames", levels)
        return levels

    def write_guidance(self, guidance: PointRender) -> None:
        """Write what the generator was shown, losslessly."""
        _write_pictures(self.folder / "guidance" / "rgb", guidance.rgb)
        masks = guidance.hole_mask.float()[:, None].expand(-1, 3, -1, -1)
        _write_pictures(self.folder / "guidance" / "hole_mask", masks)

    def mark_done(self, fingerprint: str) -> None:
        """Declare the clip of that `Manifest.fingerprint` finished: the last thing that is written."""
        write_text(self.folder / "done", fingerprint)

    def unmark(self) -> None:
        """Have the clip made again."""
        (self.folder / "done").unlink(missing_ok=True)


class World:
    """A world folder."""

    def __init__(self, folder: str | Path) -> None:
        """Open an existing world.

        Raises:
            InputError: the folder holds no readable world.json.
        """
        self.folder = Path(folder)
        self.reload()

    def reload(self) -> None:
        """Read world.json (again: another process may have extended the world)."""
        manifest = self.folder / "world.json"
        if not manifest.exists():
            raise InputError(f"{self.folder}: is not a world folder (it has no world.json); make one with 'generate'")
        try:
            value = read_json(manifest)
        except InputError as error:
            raise InputError(f"{error}; {_REMAKE}") from error
        self.manifest = Manifest.from_json(value, manifest)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether the folder holds a world, finished or not."""
        return (folder / "world.json").exists()

    @classmethod
    def require_same_or_new(cls, folder: Path, request: Request) -> None:
        """Check that making the world of `request` in `folder` overwrites nothing.

        Raises:
            InputError: the folder holds other things, or the world of another request; the first field that
                differs is named.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file; choose another folder with --out")
        if cls.exists(folder):
            have = cls(folder).manifest.request
            before, now = have.file_fingerprint, request.file_fingerprint
            if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
                raise InputError(
                    f"{folder}: already holds a world made from other contents of {changed[0]}; choose another folder "
                    f"with --out"
                )
            for name, wanted in asdict(request).items():
                if name != "file_fingerprint" and getattr(have, name) != wanted:
                    raise InputError(
                        f"{folder}: already holds a world with another {name.replace('_', ' ')} "
                        f"({_brief(getattr(have, name))}, not {_brief(wanted)}); choose another folder with --out"
                    )
        elif folder.exists() and (others := _others(folder)):
            raise InputError(
                f"{folder}: is not empty and holds no world (for example {min(others)}); "
                f"choose another folder with --out"
            )

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> "World":
        """Write the manifest of a new world.

        Clips that an earlier world.json of equal content left finished are kept, others are made again.
        """
        _write_manifest(folder, manifest, first_new=0)
        return cls(folder)

    @staticmethod
    def write_input(
        folder: Path,
        picture: Float[Tensor, "3 h w"],
        depth: Float[Tensor, "h w"],
        sky: Bool[Tensor, "h w"],
        camera: Cameras,
    ) -> None:
        """Write the input as it is used, with its depth for machines (safetensors) and for people (PNG)."""
        save_png(folder / "input" / "picture.png", picture)
        save_png(folder / "input" / "depth.png", colorize_depth(depth, sky))
        write_tensors(folder / "input" / "depth.safetensors", {"depth": depth, "sky": sky})
        write_official(folder / "input" / "camera.json", camera)

    def plan_more(self, plans: tuple[ClipPlan, ...]) -> None:
        """Append planned clips."""
        longer = replace(self.manifest, clips=self.manifest.clips + plans)
        _write_manifest(self.folder, longer, first_new=len(self.manifest.clips))
        self.manifest = longer

    @property
    def clips(self) -> list[Clip]:
        """All planned clips, in order."""
        return [Clip(self.folder / "clips" / plan.name, plan) for plan in self.manifest.clips]

    @property
    def is_done(self) -> bool:
        """Whether every planned clip is finished."""
        return self.kept_clips == len(self.manifest.clips)

    @property
    def kept_clips(self) -> int:
        """How many clips, from the first on, are finished and remembered; those behind them are to be made."""
        clips = self.clips
        kept = next((index for index, clip in enumerate(clips) if not clip.is_done), len(clips))
        while kept > 0 and not self.cloud_path(kept - 1).exists():
            kept -= 1
        return kept

    @property
    def picture(self) -> Float[Tensor, "3 h w"]:
        """The input picture as used."""
        return self._input_picture("picture.png")

    @property
    def depth_picture(self) -> Float[Tensor, "3 h w"]:
        """The input's depth in colours."""
        return self._input_picture("depth.png")

    def _input_picture(self, name: str) -> Float[Tensor, "3 h w"]:
        return load_png(self.folder / "input" / name, f"restore it, or delete {self.folder / 'world.json'} {_AGAIN}")

    @property
    def camera(self) -> Cameras:
        """The camera of the input (of a panorama: the perspective camera that looks ahead)."""
        return read_cameras(self.folder / "input" / "camera.json").cameras

    def initial_bank(self) -> tuple[Float[Tensor, "n 3 h w"], Cameras, tuple[str, ...]]:
        """Reference frames before the first clip: the photo, or the 27 published crops of the panorama."""
        if self.manifest.request.projection == "perspective":
            return self.picture[None], self.camera, ("input",)
        crops = rig_cameras(self.manifest.width, self.manifest.height)
        return sample_equirect(self.picture, crops), crops, tuple(f"input-{k:02d}" for k in range(len(crops)))

    def frame_camera(self, start: str) -> Cameras:
        """The camera of "input" or of a frame "CLIP:FRAME" (numbers, from 0).

        Raises:
            InputError: no such frame.
        """
        if start == "input":
            return self.camera
        clip, frame = self._parse_start(start)
        return clip.cameras[frame]

    def frame(self, start: str) -> Float[Tensor, "3 h w"]:
        """What the camera of `frame_camera` shows."""
        if start == "input":
            if self.manifest.request.projection == "perspective":
                return self.picture
            return sample_equirect(self.picture, self.camera)[0]
        clip, frame = self._parse_start(start)
        return clip.frames[frame]

    def _parse_start(self, start: str) -> tuple[Clip, int]:
        finished = [clip for clip in self.clips if clip.is_done]
        try:
            clip_number, frame_number = (int(part) for part in start.split(":"))
            clip = finished[clip_number]
            if clip_number < 0 or not 0 <= frame_number < self.manifest.request.frames:
                raise IndexError
        except (ValueError, IndexError):
            raise InputError(
                f"--start {start}: must be 'input' or CLIP:FRAME with CLIP from 0 to {len(finished) - 1} "
                f"and FRAME from 0 to {self.manifest.request.frames - 1}"
            ) from None
        return clip, frame_number

    @property
    def point_cloud(self) -> PointCloud:
        """The coloured cloud after the last finished clip, without the sky."""
        return self.memory.cloud

    @property
    def memory(self) -> GlobalGeometricMemory:
        """The global-geometric memory after the last clip that finished in order."""
        kept = self.kept_clips
        path = self.cloud_path(kept - 1)
        try:
            return GlobalGeometricMemory.load(path)
        except InputError as error:
            cause = path if kept else self.folder / "world.json"
            raise InputError(
                f"{error}; delete {cause} and run the same 'worldstereo generate' again, which makes it again"
            ) from error

    def cloud_path(self, clip_index: int) -> Path:
        """The memory's cloud after that clip; −1 is the cloud of the input alone."""
        return self.memory_path(self.folder, clip_index)

    def forget_old_clouds(self) -> None:
        """Delete the clouds of all clips but the last one kept; the input's stays."""
        last = self.cloud_path(self.kept_clips - 1)
        for path in last.parent.glob("cloud-*.safetensors"):
            if path != last:
                path.unlink()

    @staticmethod
    def memory_path(folder: Path, clip_index: int) -> Path:
        """The same for a folder that is not a world yet."""
        return folder / "memory" / ("input.safetensors" if clip_index < 0 else f"cloud-{clip_index:03d}.safetensors")

    def save(self, folder: str | Path) -> "World":
        """Copy the world to a folder that does not exist yet."""
        target = Path(folder)
        if target.exists():
            raise InputError(f"{target}: exists already; choose another folder")
        with atomic_path(target) as temporary:
            shutil.copytree(self.folder, temporary)
        return World(target)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the operating system frees it when the process ends, however it ends.

    A folder that this made and that nothing was put into is removed again.

    Raises:
        BusyError: another process works on the world.
        InputError: the folder cannot be written, or its file system has no locks.
    """
    is_new = not folder.exists()
    lock = folder / _LOCK
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise BusyError(f"{folder}: another process is working on this world; wait until it ends") from None
        remove_leftovers(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_new and [entry.name for entry in folder.iterdir()] == [_LOCK]:
                    lock.unlink()
                    folder.rmdir()


def _others(folder: Path) -> set[str]:
    """What lies in a folder without a world.json and was not left there by a killed run, which leaves its lock."""
    names = {entry.name for entry in folder.iterdir() if not is_leftover(entry.name)}
    return names - _OWN_ENTRIES if _LOCK in names else names


def _write_manifest(folder: Path, manifest: Manifest, first_new: int) -> None:
    """Write world.json, after the marks of clips from `first_new` on that belong to another plan are gone."""
    for index, plan in enumerate(manifest.clips[first_new:], first_new):
        done = folder / "clips" / plan.name / "done"
        if done.exists() and done.read_bytes() != manifest.fingerprint(index).encode():
            done.unlink()
    write_json(folder / "world.json", manifest.to_json())


def _write_pictures(folder: Path, pictures: Float[Tensor, "f 3 h w"]) -> None:
    """Write 000.png, 001.png, ..., several at once (compression leaves the interpreter's lock)."""
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        paths = (folder / f"{index:03d}.png" for index in range(len(pictures)))
        list(pool.map(save_png, paths, pictures))


def _brief(value: object) -> str:
    """A value as it fits into a sentence."""
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:24] + "…"
