"""What a matrix of a camera file means: its direction and its camera axes."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from worldstereo.cameras.files.fields import Field
from worldstereo.errors import InputError

Convention = Literal["opencv-w2c", "opencv-c2w", "opengl-w2c", "opengl-c2w"]
Claim = Literal["opencv", "opengl", "w2c", "c2w"]

CONVENTIONS: dict[Convention, str] = {
    "opencv-w2c": "world-to-camera, OpenCV axes (x right, y down, z forward)",
    "opencv-c2w": "camera-to-world, OpenCV axes (x right, y down, z forward)",
    "opengl-w2c": "world-to-camera, OpenGL axes (x right, y up, z backward)",
    "opengl-c2w": "camera-to-world, OpenGL axes (x right, y up, z backward)",
}

_STATEMENT_FIELDS = ("convention", "camera_convention", "coordinate_convention", "pose_convention")
_WORDS: dict[Claim, tuple[str, ...]] = {
    "w2c": ("w2c", "world2cam", "world-to-cam", "world_to_cam", "world to cam", "cam_from_world"),
    "c2w": (
        *("c2w", "cam2world", "cam-to-world", "cam_to_world", "camera-to-world", "camera_to_world"),
        *("cam to world", "camera to world", "world_from_cam"),
    ),
    "opencv": ("opencv", "colmap"),
    "opengl": ("opengl", "blender", "nerfstudio"),
}
_PAIRS: tuple[set[Claim], set[Claim]] = ({"opencv", "opengl"}, {"w2c", "c2w"})
_FLIP_Y_Z = np.array([1.0, -1.0, -1.0, 1.0])


def claims_of(field: Field) -> set[Claim]:
    """What the statement fields of a JSON object say about its matrices.

    Raises:
        InputError: a statement is no text, or has none of the known words.
    """
    claims: set[Claim] = set()
    for name in _STATEMENT_FIELDS:
        if name in field:
            text = field[name].text().lower()
            said = {claim for claim, words in _WORDS.items() if any(word in text for word in words)}
            if not said:
                raise field[name].fail(
                    "names no known convention; say 'world-to-camera' or 'camera-to-world', and 'OpenCV' or 'OpenGL'"
                )
            claims |= said
    return claims


def resolve(where: Field, claims: Iterable[Claim], stated: Convention | None) -> Convention:
    """The one convention that all claims allow; the caller's own statement overrules them.

    Raises:
        InputError: the claims contradict each other or leave something open; the possible readings are named.
    """
    if stated is not None:
        return stated
    claimed = set(claims)
    readings = [
        convention
        for convention in CONVENTIONS
        if all(_allows(claimed & pair, part) for pair, part in zip(_PAIRS, convention.split("-"), strict=True))
    ]
    if len(readings) == 1:
        return readings[0]
    described = " or ".join(f"{CONVENTIONS[reading].split(' (')[0]} ('{reading}')" for reading in readings)
    raise where.fail(f"may be {described}; state which with convention=, or by a field 'convention' in the file")


def _allows(claimed: set[Claim], part: str) -> bool:
    """Whether claims about one thing leave `part` possible: silence and contradiction leave everything."""
    return len(claimed) != 1 or part in claimed


def to_cam_from_world(poses: np.ndarray, convention: Convention) -> np.ndarray:
    """`cam_from_world` in OpenCV axes, float64 [n, 4, 4], of rigid matrices in `convention`."""
    axes, direction = convention.split("-")
    cam_from_world = poses if direction == "w2c" else np.linalg.inv(poses)
    return cam_from_world * _FLIP_Y_Z[:, None] if axes == "opengl" else cam_from_world


def from_cam_from_world(cam_from_world: np.ndarray, convention: Convention) -> np.ndarray:
    """Matrices in `convention` of `cam_from_world`, float64 [n, 4, 4]."""
    axes, direction = convention.split("-")
    flipped = cam_from_world * _FLIP_Y_Z[:, None] if axes == "opengl" else cam_from_world
    return flipped if direction == "w2c" else np.linalg.inv(flipped)


def require_format_convention(name: str, fixed: Convention, stated: Convention | None, path: object) -> None:
    """Refuse a statement of the caller that contradicts a format with one fixed convention."""
    if stated not in (None, fixed):
        raise InputError(f"{path}: {name} is always '{fixed}', but convention='{stated}' was stated; leave it out")
