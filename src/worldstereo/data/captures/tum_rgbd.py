"""TUM RGB-D (Sturm et al., 2012) as given: `rgb.txt`, `depth.txt`, `groundtruth.txt`, and the pictures that they name.

Lines are `timestamp file` and `timestamp tx ty tz qx qy qz qw` (camera-to-world); lines with # are comments. Depth PNGs
count 5,000 a metre. Pictures, depth and poses have clocks of their own: each picture takes the nearest depth and pose
within 0.02 s, as the data set's own tools do. Intrinsics are the published ones of freiburg1, 2 and 3 by the folder's
name, else the published default; their principal points count from the middle of the first pixel. Lens distortion of
freiburg1 and 2 (a few pixels at the rim) is left as it is.
"""

from pathlib import Path

import numpy as np
import torch

from worldstereo.cameras.files.camera_file import picture_size
from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.data.captures.capture import Capture, cameras_of, inverted
from worldstereo.data.posed_video import PosedVideo
from worldstereo.errors import InputError

LAYOUT = "TUM RGB-D"

_DEPTH_STEP = 1 / 5000
_APART = 0.02  # seconds
_INTRINSICS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
_DEFAULT = (525.0, 525.0, 319.5, 239.5)


def is_tum_rgbd(folder: Path) -> bool:
    """Whether the folder is a sequence."""
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def read_tum_rgbd(folder: Path) -> Capture:
    """The pictures that have depth and a pose.

    Raises:
        InputError: a list is malformed, a file is missing, or no picture has both.
    """
    pictures, depths = (_files(folder, f"{name}.txt") for name in ("rgb", "depth"))
    truth = _rows(folder / "groundtruth.txt", 8)
    depth_stamps = np.array([stamp for stamp, _ in depths])
    stamps = np.array([float(row[0]) for row in truth])
    values = np.array([[float(word) for word in row[1:]] for row in truth])
    chosen = []
    for stamp, picture in pictures:
        depth = int(np.abs(depth_stamps - stamp).argmin())
        pose = int(np.abs(stamps - stamp).argmin())
        if abs(depths[depth][0] - stamp) <= _APART and abs(stamps[pose] - stamp) <= _APART:
            chosen.append((picture, depths[depth][1], pose))
    if not chosen:
        raise InputError(f"{folder}: no picture has a depth and a pose within {_APART} s; download the sequence again")
    for path in (path for *pair, _ in chosen for path in pair):
        if not path.is_file():
            raise InputError(f"{path}: no such file, but the sequence's lists name it; download it again")
    rows = values[[pose for *_, pose in chosen]]
    world_from_cam = np.tile(np.eye(4), (len(rows), 1, 1))
    x, y, z, w = rows[:, 3:].T
    world_from_cam[:, :3, :3] = matrix_from_quaternion(torch.from_numpy(np.stack([w, x, y, z], axis=1))).numpy()
    world_from_cam[:, :3, 3] = rows[:, :3]
    fx, fy, cx, cy = next((k for name, k in _INTRINSICS.items() if name in folder.name), _DEFAULT)
    intrinsics = np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]])
    size = picture_size(chosen[0][0])
    cameras = cameras_of(folder / "groundtruth.txt", inverted(world_from_cam), intrinsics, size)
    video = PosedVideo(folder.name, cameras, tuple(p for p, *_ in chosen), tuple(d for _, d, _ in chosen), _DEPTH_STEP)
    return Capture(LAYOUT, video)


def _files(folder: Path, name: str) -> list[tuple[float, Path]]:
    return [(float(row[0]), folder / row[1]) for row in _rows(folder / name, 2)]


def _rows(path: Path, words: int) -> list[list[str]]:
    """The lines of a list; all words but a file's name must be numbers."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        row = line.split()
        if not row or row[0].startswith("#"):
            continue
        try:
            valid = len(row) == words and all(np.isfinite(float(word)) for word in (row if words > 2 else row[:1]))
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{path}: line {number} must have {words} entries, a time stamp first; download it again")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: is empty; download it again")
    return rows
