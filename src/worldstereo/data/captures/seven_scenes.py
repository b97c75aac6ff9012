"""7-Scenes (Shotton et al., 2013) as Microsoft gives it: `SCENE/seq-NN/frame-NNNNNN.{color.png, depth.png, pose.txt}`.

Poses are camera-to-world, depth is in millimetres with 65535 for unknown. The data set states no calibration of the
colour camera; its page names the depth camera's default: focal length 585, principal point (320, 240) of 640×480.
"""

from pathlib import Path

import numpy as np

from worldstereo.cameras.files.camera_file import picture_size
from worldstereo.data.captures.capture import Capture, cameras_of, inverted, numbers
from worldstereo.data.posed_video import PosedVideo
from worldstereo.errors import InputError

LAYOUT = "7-Scenes"

_FOCAL, _CENTER, _SIZE = 585.0, (320.0, 240.0), (640, 480)
_COLOUR = ".color.png"


def is_seven_scenes(folder: Path) -> bool:
    """Whether the folder is a sequence."""
    return any(folder.glob(f"frame-*{_COLOUR}"))


def read_seven_scenes(folder: Path) -> Capture:
    """A sequence; frames whose pose was lost (not finite) are left out.

    Raises:
        InputError: a pose or depth is missing, or is none.
    """
    pictures, poses = [], []
    for picture in sorted(folder.glob(f"frame-*{_COLOUR}")):
        path = picture.with_name(picture.name.replace(_COLOUR, ".pose.txt"))
        text = path.read_text(encoding="utf-8", errors="replace").lower() if path.is_file() else ""
        if "nan" in text or "inf" in text:
            continue
        poses.append(numbers(path, 16).reshape(4, 4))
        pictures.append(picture)
    if not pictures:
        raise InputError(f"{folder}: no frame has a pose; download the sequence again")
    width, height = picture_size(pictures[0])
    scale = np.diag([width / _SIZE[0], height / _SIZE[1], 1.0])
    intrinsics = scale @ np.array([[_FOCAL, 0, _CENTER[0]], [0, _FOCAL, _CENTER[1]], [0, 0, 1]])
    cameras = cameras_of(folder, inverted(np.stack(poses)), intrinsics, (width, height))
    depths = tuple(picture.with_name(picture.name.replace(_COLOUR, ".depth.png")) for picture in pictures)
    if missing := next((depth for depth in depths if not depth.is_file()), None):
        raise InputError(f"{missing}: no such file; download the sequence again")
    return Capture(LAYOUT, PosedVideo(f"{folder.parent.name}-{folder.name}", cameras, tuple(pictures), depths))
