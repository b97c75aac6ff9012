"""Which folders are captures, and in whose layout."""

import os
from collections.abc import Callable
from pathlib import Path

from worldstereo.cameras.files.colmap import is_colmap
from worldstereo.data.captures.capture import Capture, pictures_in
from worldstereo.data.captures.dtu import is_dtu, read_dtu
from worldstereo.data.captures.seven_scenes import is_seven_scenes, read_seven_scenes
from worldstereo.data.captures.tanks_and_temples import is_tanks_and_temples, read_tanks_and_temples
from worldstereo.data.captures.tum_rgbd import is_tum_rgbd, read_tum_rgbd
from worldstereo.data.posed_video import read_posed_video
from worldstereo.errors import InputError

_DEEPEST = 3
_COLMAP_FOLDERS = ("sparse/0", "sparse", ".")
_CAMERA_FILES = ("cameras.json", "transforms.json")


def read_capture(folder: str | Path) -> Capture:
    """A capture in any layout that is known: 7-Scenes (a sequence), TUM RGB-D, Tanks and Temples, DTU (a scan),
    COLMAP (as MipNeRF360 comes), or a folder that `read_posed_video` reads.

    Raises:
        InputError: none of these, or something in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder of a capture")
    named = _named(folder)
    for is_one, read in _LAYOUTS:
        if is_one(named):
            return read(named)
    raise InputError(
        f"{folder}: is no capture of a known layout (7-Scenes, TUM RGB-D, Tanks and Temples, DTU, COLMAP, "
        f"cameras.json, transforms.json); see docs/evaluation.md"
    )


def find_captures(data: str | Path) -> dict[str, Capture]:
    """All captures in a folder, itself among them, down to three levels, by their paths in it.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    data = Path(data)
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give one that holds posed captures, or leave --data out")
    if _is_capture(data):
        return {data.resolve().name: read_capture(data)}
    found: dict[str, Capture] = {}
    level = [data]
    for _ in range(_DEEPEST):
        level = sorted(entry for folder in level for entry in folder.iterdir() if entry.is_dir())
        found |= {path.relative_to(data).as_posix(): read_capture(path) for path in level if _is_capture(path)}
        level = [path for path in level if not _is_capture(path)]
    if not found:
        raise InputError(f"{data}: holds no posed captures of a known layout; give another folder")
    return found


def picture_files(data: Path) -> list[Path]:
    """The photographs of a folder that is no capture; none if it is one or holds captures.

    Raises:
        InputError: no such folder.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give one that holds photographs or posed captures")
    return [] if _is_capture(data) else pictures_in(data)


def _is_capture(folder: Path) -> bool:
    return any(is_one(_named(folder)) for is_one, _ in _LAYOUTS)


def _named(folder: Path) -> Path:
    """The same folder by a path that has its name and its parents', by which some layouts are known."""
    return Path(os.path.abspath(folder))


def _is_posed(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _CAMERA_FILES)


def _read_posed(folder: Path) -> Capture:
    points = folder / "points.npz"
    return Capture("posed pictures", read_posed_video(folder), points=points if points.is_file() else None)


def _colmap_model(folder: Path) -> Path | None:
    return next((folder / name for name in _COLMAP_FOLDERS if is_colmap(folder / name)), None)


def _is_colmap_capture(folder: Path) -> bool:
    return _colmap_model(folder) is not None


def _read_colmap(folder: Path) -> Capture:
    model = _colmap_model(folder)
    assert model is not None
    has_points = any((model / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt"))
    return Capture("COLMAP", read_posed_video(folder), points=model if has_points else None)


_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Capture]], ...] = (
    (is_seven_scenes, read_seven_scenes),
    (is_tum_rgbd, read_tum_rgbd),
    (is_tanks_and_temples, read_tanks_and_temples),
    (is_dtu, read_dtu),
    (_is_posed, _read_posed),
    (_is_colmap_capture, _read_colmap),
)
