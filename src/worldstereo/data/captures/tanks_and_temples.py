"""Tanks and Temples (Knapitsch et al., 2017) training scenes as given: a folder `SCENE/` with the image set (in it or
in `images/`), `SCENE_COLMAP_SfM.log`, `SCENE_trans.txt` and the laser scan `SCENE.ply`.

The log has five lines a picture: three whole numbers, then camera-to-world 4×4 in the frame of a COLMAP run;
`SCENE_trans.txt` is the similarity from there to the scan's metres, into which cameras are brought. Intrinsics are not
given away: the focal length is that of the owners' tutorial (21 mm in 35-mm terms), which COLMAP reads as 21/35 of the
longer side, the principal point is in the middle.
"""

from pathlib import Path

import numpy as np
import torch

from worldstereo.cameras.files.camera_file import picture_size
from worldstereo.data.captures.capture import Capture, cameras_of, inverted, numbers, pictures_in
from worldstereo.data.posed_video import PosedVideo
from worldstereo.errors import InputError

LAYOUT = "Tanks and Temples"

_FOCAL = 21 / 35  # of the longer side
_LOG = "_COLMAP_SfM.log"


def is_tanks_and_temples(folder: Path) -> bool:
    """Whether the folder is a scene with poses."""
    return (folder / f"{folder.name}{_LOG}").is_file()


def read_tanks_and_temples(folder: Path) -> Capture:
    """A scene; without the scan (the test scenes have none) nothing is known of the surface.

    Raises:
        InputError: a file is missing or malformed, or there are more or fewer pictures than poses.
    """
    log = folder / f"{folder.name}{_LOG}"
    poses = numbers(log, 19)[:, 3:].reshape(-1, 4, 4)
    pictures = pictures_in(folder / "images") or pictures_in(folder)
    if len(pictures) != len(poses):
        raise InputError(f"{log}: has {len(poses)} poses but there are {len(pictures)} pictures; download both again")
    size = picture_size(pictures[0])
    focal = _FOCAL * max(size)
    intrinsics = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    cameras = cameras_of(log, inverted(poses), intrinsics, size)
    scan, transform = folder / f"{folder.name}.ply", folder / f"{folder.name}_trans.txt"
    if transform.is_file():
        matrix = numbers(transform, 16).reshape(4, 4)
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        turn = matrix[:3, :3] / scale if scale > 0 else np.zeros((3, 3))
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3:
            raise InputError(f"{transform}: is no similarity; download it again")
        rotation, shift = (torch.from_numpy(v).float() for v in (turn, matrix[:3, 3]))
        try:
            cameras = cameras.transformed(rotation, shift, scale)
        except InputError as error:
            raise InputError(f"{transform}: leads out of this world ({error}); download it again") from None
    elif scan.is_file():
        raise InputError(f"{transform}: no such file, without which {scan.name} does not fit the poses; download it")
    video = PosedVideo(folder.name, cameras, tuple(pictures), (None,) * len(pictures))
    return Capture(LAYOUT, video, points=scan if scan.is_file() else None, is_dense=True)
