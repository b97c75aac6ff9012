"""RealEstate10K text (https://google.github.io/realestate10k/download.html).

First line: the video's address. Each further line: timestamp in microseconds, fx fy cx cy divided by the image's
width and height, two zeros, and the 3×4 world-to-camera matrix in OpenCV axes row by row: 19 numbers.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files.camera_file import (
    CameraFile,
    Stated,
    as_float64,
    build,
    image_size,
    require_no_skew,
    require_rigid,
)
from worldstereo.cameras.files.conventions import require_format_convention
from worldstereo.errors import InputError
from worldstereo.files import write_text


def read_realestate10k(path: Path, lines: Sequence[str], stated: Stated) -> CameraFile:
    """Read the lines of such a file; the names are the timestamps. The image size must be stated."""
    require_format_convention("RealEstate10K text", "opencv-w2c", stated.convention, path)
    rows, names = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 19:
            raise InputError(f"{path}: line {number} has {len(words)} values but must have 19")
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            raise InputError(f"{path}: line {number} has a value that is no number") from None
        if not np.isfinite(values).all():
            raise InputError(f"{path}: line {number} has a value that is not finite")
        rows.append(values)
        names.append(words[0])
    if not rows:
        raise InputError(f"{path}: has no camera after its first line")
    table = np.stack(rows)
    if (table[:, 5:7] != 0).any():
        raise InputError(f"{path}: values 6 and 7 of a line are a lens distortion and must be 0; undistort the images")
    if (table[:, 1:3] > 10).any():
        raise InputError(
            f"{path}: fx = {table[:, 1:3].max():g} may be in pixels or normalised by the image size; RealEstate10K "
            "text holds normalised values: divide fx and cx by the width and fy and cy by the height"
        )
    width, height = image_size(path, None, stated)
    intrinsics = np.zeros((len(table), 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 0, 2] = table[:, 1] * width, table[:, 3] * width
    intrinsics[:, 1, 1], intrinsics[:, 1, 2] = table[:, 2] * height, table[:, 4] * height
    intrinsics[:, 2, 2] = 1
    poses = np.zeros((len(table), 4, 4))
    poses[:, :3] = table[:, 7:].reshape(-1, 3, 4)
    poses[:, 3, 3] = 1
    require_rigid(path, poses, "pose")
    return build(path, poses, intrinsics, (width, height), names)


def write_realestate10k(path: str | Path, cameras: Cameras, url: str, timestamps: Sequence[int] | None = None) -> None:
    """Write the file. The format has no place for the image size: state it when reading.

    Args:
        path: the text file.
        cameras: without skew.
        url: the first line; an address such as `https://...`.
        timestamps: microseconds, one a camera; the camera's index if none.
    """
    path = Path(path)
    require_no_skew(path, cameras, "RealEstate10K text")
    times = range(len(cameras)) if timestamps is None else timestamps
    if len(times) != len(cameras):
        raise InputError(f"{path}: there are {len(times)} timestamps but {len(cameras)} cameras")
    if "://" not in url or len(url.split()) != 1:
        raise InputError(f"{path}: the first line must be an address such as 'https://...', not '{url}'")
    poses, intrinsics = as_float64(cameras)
    focal_and_center = np.stack(
        [
            intrinsics[:, 0, 0] / cameras.width,
            intrinsics[:, 1, 1] / cameras.height,
            intrinsics[:, 0, 2] / cameras.width,
            intrinsics[:, 1, 2] / cameras.height,
        ],
        axis=1,
    )
    lines = [url]
    for time, k, pose in zip(times, focal_and_center, poses[:, :3].reshape(-1, 12), strict=True):
        lines.append(f"{time} {_numbers(k)} 0 0 {_numbers(pose)}")
    write_text(path, "\n".join(lines) + "\n")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.12g}" for value in values)
