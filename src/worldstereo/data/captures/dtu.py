"""DTU MVS (Jensen et al., 2014; Aanæs et al., 2016) as given: beside each other `Rectified/scanN` (or `Cleaned/scanN`),
`Calibration/cal18/pos_NNN.txt` and `Points/stl/stlNNN_total.ply`.

Pictures are `rect_NNN_LIGHT.png` (`clean_...`), numbered from 1 by the position of the camera; of the lights the one
named `max`, all lamps, is taken, else the first. Calibration is one 3×4 projection a position, in pixels of 1600×1200
that count from the middle of the first one. The world is in millimetres.
"""

import re
from pathlib import Path

import numpy as np
from scipy.linalg import rq

from worldstereo.cameras.files.camera_file import picture_size
from worldstereo.data.captures.capture import Capture, cameras_of, numbers, pictures_in
from worldstereo.data.posed_video import PosedVideo
from worldstereo.errors import InputError

LAYOUT = "DTU"

_SIZE = (1600, 1200)
_NAME = re.compile(r"(?:rect|clean)_(\d{3})_(.+)")
_BRIGHTEST = "max"


def is_dtu(folder: Path) -> bool:
    """Whether the folder is a scan beside its calibration."""
    return folder.name.startswith("scan") and _calibration(folder).is_dir()


def read_dtu(folder: Path) -> Capture:
    """A scan.

    Raises:
        InputError: a file is missing or malformed.
    """
    found: dict[int, dict[str, Path]] = {}
    for path in pictures_in(folder):
        if match := _NAME.fullmatch(path.stem):
            found.setdefault(int(match[1]), {})[match[2]] = path
    if not found:
        raise InputError(f"{folder}: holds no pictures named rect_001_max.png or the like; download the scan again")
    pictures, poses, intrinsics = [], [], []
    for position, by_light in sorted(found.items()):
        pictures.append(by_light[min(by_light, key=lambda light: (not light.startswith(_BRIGHTEST), light))])
        pose, k = _decomposed(_calibration(folder) / f"pos_{position:03d}.txt")
        poses.append(pose)
        intrinsics.append(k)
    size = picture_size(pictures[0])
    scale = np.diag([size[0] / _SIZE[0], size[1] / _SIZE[1], 1.0])
    cameras = cameras_of(_calibration(folder), np.stack(poses), scale @ np.stack(intrinsics), size)
    number = folder.name.removeprefix("scan")
    scan = folder.parent.parent / "Points" / "stl" / f"stl{number.zfill(3)}_total.ply"
    video = PosedVideo(folder.name, cameras, tuple(pictures), (None,) * len(pictures))
    return Capture(LAYOUT, video, points=scan if scan.is_file() else None, is_dense=True)


def _calibration(folder: Path) -> Path:
    return folder.parent.parent / "Calibration" / "cal18"


def _decomposed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pose 4×4 and intrinsics 3×3 (centres at +0.5) of a projection; the tiny skew of the calibration is dropped."""
    projection = numbers(path, 12).reshape(3, 4)
    k, rotation = rq(projection[:, :3])
    signs = np.diag(np.sign(np.diag(k)))
    k, rotation = k @ signs, signs @ rotation
    if not abs(k[2, 2]) > 0 or not np.abs(np.diag(k)).min() > 0:
        raise InputError(f"{path}: is no projection; download the calibration again")
    shift = np.linalg.solve(k, projection[:, 3])
    if np.linalg.det(rotation) < 0:
        rotation, shift = -rotation, -shift
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift
    k = k / k[2, 2]
    return pose, np.array([[k[0, 0], 0, k[0, 2] + 0.5], [0, k[1, 1], k[1, 2] + 0.5], [0, 0, 1]])
