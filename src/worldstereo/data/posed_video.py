"""Pictures of one static scene with cameras, and perhaps depth, in the layouts that people have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import CameraFile, read_cameras, read_official_scene
from worldstereo.cameras.files.camera_file import existing_picture, picture_size, with_picture_suffixes
from worldstereo.data.depth_png import read_depth_steps
from worldstereo.errors import InputError
from worldstereo.files import read_json
from worldstereo.images import Fit, fit_picture, load_picture

_PICTURE_FOLDERS = (".", "images", "frames", "rgb")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_JSON_NAMES = ("cameras.json", "transforms.json", "camera.json")


@dataclass(frozen=True)
class PosedFrames:
    """Some frames at one size.

    Attributes:
        frames: RGB.
        cameras: theirs.
        depth: z-depth in the cameras' unit, 0 = unknown; all 0 where the video has no depth.
    """

    frames: UInt8[Tensor, "n 3 h w"]
    cameras: Cameras
    depth: Float[Tensor, "n h w"]


@dataclass(frozen=True)
class PosedVideo:
    """Files of pictures with cameras, in order; nothing is read until `load`.

    Attributes:
        name: for reports.
        cameras: of the pictures as stored.
        pictures: one file a camera.
        depths: PNG of uint16, 0 and 65535 = unknown, for each picture that has one.
        depth_step: what 1 stands for in them, in the cameras' unit.
    """

    name: str
    cameras: Cameras
    pictures: tuple[Path, ...]
    depths: tuple[Path | None, ...]
    depth_step: float = 0.001

    def __len__(self) -> int:
        return len(self.pictures)

    def identity(self) -> tuple[bytes, ...]:
        """What tells this video from others: cameras, names of the pictures, the first picture's file.

        Raises:
            InputError: the first picture cannot be read.
        """
        try:
            first = self.pictures[0].read_bytes()
        except OSError as error:
            raise InputError(f"{self.pictures[0]}: cannot be read ({error.strerror})") from error
        cameras = [v.cpu().numpy().tobytes() for v in (self.cameras.cam_from_world, self.cameras.intrinsics)]
        return (*cameras, "\n".join(path.name for path in self.pictures).encode(), first)

    @property
    def has_depth(self) -> bool:
        """Whether every picture has depth."""
        return None not in self.depths

    def load(self, indices: Sequence[int], width: int, height: int) -> PosedFrames:
        """Some frames, cropped in the middle and resized; depth takes the nearest pixel, never mixing two surfaces.

        Raises:
            InputError: a file is missing, damaged or of another shape than its camera.
        """
        frames = torch.empty(len(indices), 3, height, width, dtype=torch.uint8)
        depth, cameras = torch.zeros(len(indices), height, width), []
        for place, index in enumerate(indices):
            fitted = fit_picture(load_picture(self.pictures[index]).rgb, width, height)
            frames[place] = (fitted.rgb * 255).round().to(torch.uint8)
            try:
                cameras.append(fitted.follow(self.cameras[index]))
            except InputError as error:
                raise InputError(f"{self.pictures[index]}: {error}") from None
            path = self.depths[index]
            if path is not None:
                depth[place] = _load_depth(path, fitted.fit, self.depth_step)
        return PosedFrames(frames, Cameras.cat(cameras), depth)


def read_posed_video(path: str | Path) -> PosedVideo:
    """The pictures and cameras of a folder (or of one camera file in it).

    Known layouts:

    * `cameras.json` or `camera.json` of any form that `read_cameras` knows, such as `{frames: [{image, [depth], K,
      w2c}]}` with depth as PNG of uint16 thousandths of the unit, or a clip of our own worlds beside its `frames/`;
    * `transforms.json` of nerfstudio;
    * a COLMAP model in `sparse/0`, `sparse` or the folder itself;
    * one RealEstate10K text, with pictures named by the time stamps, beside it or in a folder of its name;
    * a scene of the official release with a bank of panorama crops.

    Pictures are sought by the names in the camera file, beside it and in `images/`, `frames/` and `rgb/`; where the
    file names none, such a folder must hold as many pictures as there are cameras.

    Raises:
        InputError: the layout is unknown, the cameras cannot be read, or a picture is missing.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "pano_bank").is_dir():
        scene = read_official_scene(path)
        assert scene.bank is not None
        return PosedVideo(path.name, scene.bank.cameras, scene.bank_images, (None,) * len(scene.bank_images))
    source = path if path.is_file() else _text_in(path)
    if source is not None and source.suffix == ".txt" and source.stem not in ("cameras", "images", "points3D"):
        folders = [folder / source.stem, *(folder / name for name in _PICTURE_FOLDERS)]
        width, height = picture_size(_any_picture(source, folders))
        file = read_cameras(source, width=width, height=height)
    else:
        folders = [folder / name for name in _PICTURE_FOLDERS]
        file = read_cameras(path)
    pictures = _pictures(path, file, folders)
    return PosedVideo(folder.name, file.cameras, pictures, _depths(source or path, len(pictures)))


def _text_in(folder: Path) -> Path | None:
    """The JSON or the RealEstate10K text that says the cameras of a folder, if it is no COLMAP model."""
    for name in _JSON_NAMES:
        if (folder / name).is_file():
            return folder / name
    texts = [path for path in sorted(folder.glob("*.txt")) if path.is_file() and _starts_with_address(path)]
    if len(texts) > 1:
        names = ", ".join(path.name for path in texts)
        raise InputError(f"{folder}: holds several RealEstate10K texts ({names}); name the one that is meant")
    return texts[0] if texts else None


def _starts_with_address(path: Path) -> bool:
    with path.open("rb") as file:
        return b"://" in file.readline(1000)


def _any_picture(source: Path, folders: Sequence[Path]) -> Path:
    for folder in folders:
        listed = _listed(folder)
        if listed:
            return listed[0]
    raise InputError(f"{source}: has no pictures beside it; put them into the folder {source.stem}/ or images/")


def _listed(folder: Path) -> list[Path]:
    """The pictures of a folder by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)


def _pictures(path: Path, file: CameraFile, folders: Sequence[Path]) -> tuple[Path, ...]:
    if not any(file.names):
        for folder in folders:
            listed = _listed(folder)
            if len(listed) == len(file.names):
                return tuple(listed)
        raise InputError(
            f"{path}: names no pictures, and no folder beside it holds exactly {len(file.names)}, as many as there "
            "are cameras; put them into images/"
        )
    found = []
    for name in file.names:
        picture = existing_picture([each for folder in folders for each in with_picture_suffixes(folder / name)])
        if picture is None:
            raise InputError(
                f"{path}: the picture '{name}' is missing; it was sought in "
                f"{', '.join(str(folder) for folder in folders)}; put it into one of them"
            )
        found.append(picture)
    return tuple(found)


def _depths(source: Path, count: int) -> tuple[Path | None, ...]:
    """Depth files, where the source is JSON that names them."""
    value = read_json(source) if source.suffix == ".json" else None
    frames = value.get("frames") if isinstance(value, dict) else None
    if not isinstance(frames, list):
        return (None,) * count
    return tuple(_depth(source, number, frame) for number, frame in enumerate(frames))


def _depth(source: Path, number: int, frame: dict[str, Any]) -> Path | None:
    """The file that a frame names in `depth`, or in nerfstudio's `depth_file_path`."""
    for field in ("depth", "depth_file_path"):
        name = frame.get(field)
        if name is not None and not (isinstance(name, str) and name and "\0" not in name):
            raise InputError(f"{source}: frames[{number}].{field} is {name!r} but must be the name of a PNG")
        if name is not None:
            return source.parent / name
    return None


def _load_depth(path: Path, fit: Fit, step: float) -> Float[Tensor, "h w"]:
    depth = torch.from_numpy(read_depth_steps(path) * np.float32(step))[None, None]
    if abs(depth.shape[3] / depth.shape[2] / (fit.original_width / fit.original_height) - 1) > 0.01:
        raise InputError(
            f"{path}: is {depth.shape[3]}×{depth.shape[2]} but its picture {fit.original_width}×{fit.original_height}; "
            "both must have one shape"
        )
    whole = F.interpolate(depth, size=(fit.original_height, fit.original_width), mode="nearest-exact")
    return F.interpolate(fit.crop(whole), size=(fit.height, fit.width), mode="nearest-exact")[0, 0]
