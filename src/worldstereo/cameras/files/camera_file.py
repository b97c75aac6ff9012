"""What every reader returns, what its caller may state, and the checks that all formats share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files.conventions import Convention
from worldstereo.errors import InputError

_MAX_SIDE = 1_000_000
_ROUNDING = 2.0**-23  # of float32
_FAR = 1000.0  # units from the origin, nearer than which rounding matters to no scene
_LEAST_STEPS = 100  # of rounding, that the places of the cameras must span
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")


@dataclass(frozen=True)
class CameraFile:
    """The cameras of one file.

    Attributes:
        cameras: the cameras, in the order of the file (COLMAP: of the image names).
        names: one image name a camera, as the file gives it; empty text where it gives none.
    """

    cameras: Cameras
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.cameras):
            raise InputError(f"there are {len(self.names)} names but {len(self.cameras)} cameras")


@dataclass(frozen=True)
class Stated:
    """What the caller says about a file; used where the file itself is silent.

    Attributes:
        width: image width in pixels.
        height: image height in pixels.
        convention: meaning of the matrices.
        intrinsics: for files that hold poses alone, in pixels of `width` × `height`.
    """

    width: int | None = None
    height: int | None = None
    convention: Convention | None = None
    intrinsics: Float[Tensor, "3 3"] | None = None


def image_size(
    path: Path, in_file: tuple[int | float, int | float] | None, stated: Stated, pictures: Sequence[Path] = ()
) -> tuple[int, int]:
    """Width and height: of the file, else as stated, else of the first of `pictures` that exists.

    Raises:
        InputError: nobody says the size, or it is no whole positive number.
    """
    if in_file is not None:
        width, height = in_file
        if not all(1 <= side <= _MAX_SIDE and side == int(side) for side in in_file):
            size = f"{str(width)[:20]}×{str(height)[:20]}"
            raise InputError(f"{path}: the image size {size} must be two whole positive numbers up to {_MAX_SIDE}")
        return int(width), int(height)
    if stated.width is not None and stated.height is not None:
        return stated.width, stated.height
    picture = existing_picture(pictures)
    if picture is not None:
        return picture_size(picture)
    raise InputError(
        f"{path}: has no field 'width' and 'height' and no picture lies beside it; "
        "state the size of the images that the intrinsics belong to with width= and height="
    )


def with_picture_suffixes(stem: Path) -> list[Path]:
    """The picture files that `stem`, a path with or without suffix, may stand for."""
    return [stem, *(Path(f"{stem}{suffix}") for suffix in _PICTURE_SUFFIXES)]


def existing_picture(pictures: Sequence[Path]) -> Path | None:
    """The first of `pictures` that is a file; names that no file can have are passed over."""
    return next((picture for picture in pictures if os.path.isfile(picture)), None)


def build(
    path: Path,
    cam_from_world: Sequence[np.ndarray] | np.ndarray,
    intrinsics: Sequence[np.ndarray] | np.ndarray,
    size: tuple[int, int],
    names: Sequence[str],
) -> CameraFile:
    """Cameras of float64 matrices [n, 4, 4] and [n, 3, 3]; errors name the file."""
    poses, k = np.asarray(cam_from_world), np.asarray(intrinsics)
    if len(poses) != len(k):
        raise InputError(f"{path}: there are {len(poses)} poses but {len(k)} intrinsics; the numbers must be equal")
    if np.abs(poses[:, :3, 3]).max(initial=0) > 1e30 or np.abs(k).max(initial=0) > 1e30:
        raise InputError(f"{path}: a translation or intrinsic is beyond 10³⁰; check its unit")
    _require_near(path, poses)
    try:
        cameras = Cameras(
            torch.from_numpy(poses.astype(np.float32)), torch.from_numpy(k.astype(np.float32)), size[0], size[1]
        )
        return CameraFile(cameras, tuple(names))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _require_near(path: Path, cam_from_world: np.ndarray) -> None:
    """Refuse cameras [n, 4, 4] that stand so far from the origin that float32 merges their places."""
    centers = -np.einsum("nji,nj->ni", cam_from_world[:, :3, :3], cam_from_world[:, :3, 3])
    farthest = np.abs(centers).max(initial=0)
    if not farthest > _FAR:
        return
    middle, spread = centers.mean(axis=0), np.linalg.norm(np.ptp(centers, axis=0))
    if farthest * _ROUNDING * _LEAST_STEPS > spread:
        offset = ", ".join(f"{value:.0f}" for value in middle)
        raise InputError(
            f"{path}: the cameras stand around ({offset}) but only {spread:.3g} apart, which single precision cannot "
            f"hold; subtract that offset from all camera positions"
        )


def require_rigid(path: Path, poses: np.ndarray, what: str) -> None:
    """Refuse matrices [n, 4, 4] that are no rotation and translation, before they are inverted."""
    rotation = np.clip(poses[:, :3, :3], -2, 2)
    gram = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    bad = ~((gram < 1e-3) & (np.linalg.det(rotation) > 0) & (np.abs(poses[:, 3] - [0, 0, 0, 1]).max(axis=1) < 1e-5))
    if bad.any():
        raise InputError(
            f"{path}: {what} {int(bad.argmax())} is no rigid transform: its upper left 3×3 must be orthonormal with "
            "determinant +1 and its last row 0 0 0 1"
        )


def require_pixels(path: Path, intrinsics: np.ndarray, width: int) -> None:
    """Refuse intrinsics [n, 3, 3] that look normalised by the image size where pixels are expected."""
    focal = intrinsics[:, 0, 0]
    bad = (focal > 0) & (focal < 10) & (focal < width / 10)
    if bad.any():
        i = int(bad.argmax())
        raise InputError(
            f"{path}: intrinsic {i} has fx = {focal[i]:g} for images {width} wide, which may be a value normalised by "
            "the image size or an extremely wide lens in pixels; give pixels (row 0 times the width, row 1 times the "
            "height), or add the field 'intrinsic_units': 'pixels' if it already is"
        )


def require_no_skew(path: Path, cameras: Cameras, format_name: str) -> None:
    """Refuse to write cameras with a skew to a format that has no place for it."""
    if bool((cameras.intrinsics[:, 0, 1].abs() > 1e-6 * cameras.intrinsics[:, 0, 0]).any()):
        raise InputError(f"{path}: {format_name} cannot hold intrinsics with a skew; write camera.json instead")


def require_names(path: Path, cameras: Cameras, names: Sequence[str]) -> None:
    """Refuse to write names that are missing, empty, repeated or broken over lines."""
    if len(names) != len(cameras):
        raise InputError(f"{path}: there are {len(names)} image names but {len(cameras)} cameras")
    if len(set(names)) != len(names):
        raise InputError(f"{path}: the image names must differ from each other")
    if any(not name or name != name.strip() or any(ord(c) < 32 for c in name) for name in names):
        raise InputError(f"{path}: an image name is empty, or has control characters or spaces at its ends")


def as_float64(cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """`cam_from_world` [n, 4, 4] and intrinsics [n, 3, 3] for writing."""
    return cameras.cam_from_world.cpu().double().numpy(), cameras.intrinsics.cpu().double().numpy()


def picture_size(picture: Path) -> tuple[int, int]:
    """Width and height of a picture file as stored, from its header."""
    from PIL import Image

    try:
        with Image.open(picture) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{picture}: cannot be read as a picture to learn the image size ({error}); state width= and height="
        ) from None
