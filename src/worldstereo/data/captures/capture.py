"""A capture: posed pictures of a static scene, and where the truth about its surface lies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.posed_video import PosedVideo
from worldstereo.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Capture:
    """Posed pictures and the true surface.

    Attributes:
        layout: whose layout it is, for people.
        video: pictures and cameras, perhaps with depth.
        points: a file of true points in the cameras' world (PLY, npz with `xyz`, or the folder of a COLMAP model);
            none where there are none.
        is_dense: whether the points cover the surface, as a scanner's do, and not single features of it.
    """

    layout: str
    video: PosedVideo
    points: Path | None = None
    is_dense: bool = False

    @property
    def has_surface(self) -> bool:
        """Whether anything of the true surface is known."""
        return self.points is not None or self.video.has_depth


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def numbers(path: Path, columns: int | None = None) -> np.ndarray:
    """The numbers of a text file, float64 [n] or, with `columns`, [n, columns].

    Raises:
        InputError: it is missing, holds something else, or not that many.
    """
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; download the data set's archive again") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must hold numbers only ({error})") from None
    if not np.isfinite(values).all() or (columns is not None and (len(values) == 0 or len(values) % columns)):
        raise InputError(f"{path}: must hold finite numbers" + ("" if columns is None else f", {columns} a line"))
    return values if columns is None else values.reshape(-1, columns)


def cameras_of(path: Path, cam_from_world: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> Cameras:
    """Cameras of float64 matrices [n, 4, 4] and [3, 3] or [n, 3, 3]; rotations are made exactly orthonormal.

    Raises:
        InputError: a matrix is no pose; the message names the file.
    """
    poses = np.array(cam_from_world, np.float64)
    u, _, vt = np.linalg.svd(poses[:, :3, :3])
    nearest = u @ vt
    if not (np.abs(nearest - poses[:, :3, :3]).max(initial=0) < 1e-2 and (np.linalg.det(nearest) > 0).all()):
        raise InputError(f"{path}: a pose is no rotation and translation; download the file again")
    poses[:, :3, :3] = nearest
    every = np.broadcast_to(intrinsics, (len(poses), 3, 3))
    try:
        return Cameras(_float32(poses), _float32(every), *size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def inverted(world_from_cam: np.ndarray) -> np.ndarray:
    """Rigid transforms [n, 4, 4] the other way."""
    inverse = np.zeros_like(world_from_cam)
    rotation = world_from_cam[:, :3, :3].transpose(0, 2, 1)
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3] = -(rotation @ world_from_cam[:, :3, 3:])[..., 0]
    inverse[:, 3, 3] = 1
    return inverse


def _float32(values: np.ndarray) -> Float[Tensor, "n _ _"]:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
