"""Folders of pictures with depth, as training and evaluation material for depth.

Two layouts are read:

* posed: `cameras.json` as `read_posed_video` reads it, with depth as PNG of uint16 millimetres of z-depth, 0 = unknown;
  without depth files, a sparse `points.npz` (`xyz`, world frame) gives depth at its pixels;
* unposed: `meta.json` with `{width, height, K}`, pictures in `rgb/`, depth in `depth/` as uint8 PNG of the code
  `v`: `depth = (v + 0.5) · 9.99547 / 255` metres (the NYU Depth v2 training split, resized).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from worldstereo.data.depth_png import read_depth_png, read_depth_steps
from worldstereo.data.points_npz import read_points_npz
from worldstereo.data.posed_video import read_posed_video
from worldstereo.errors import InputError
from worldstereo.files import read_json

_CODE_METRES = 9.99547 / 255
"""Step of the 8-bit depth codes of the unposed layout."""

_SPARSE_WINDOW = 25
_SPARSE_OCCLUSION = 1.1


@dataclass(frozen=True)
class RgbdFrame:
    """One picture with depth.

    Attributes:
        name: folder and file, for reports.
        image: RGB.
        depth: z-depth, 0 = unknown.
        sky: known sky, where depth is 0. Pixels with neither depth nor sky are unknown.
        intrinsics: pinhole matrix in pixels of the picture.
    """

    name: str
    image: UInt8[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]
    intrinsics: Float[Tensor, "3 3"]

    def __post_init__(self) -> None:
        if not self.image.shape[1:] == self.depth.shape == self.sky.shape:
            raise InputError(
                f"{self.name}: the picture {tuple(self.image.shape[1:])}, depth {tuple(self.depth.shape)} and sky "
                f"{tuple(self.sky.shape)} differ in size"
            )


@dataclass(frozen=True)
class RgbdSource:
    """A folder of RGB-D frames and its share of the samples.

    Attributes:
        folder: in one of the two layouts.
        weight: relative to the other folders.
        held_out: shares [start, stop) of the sequence that training never sees.
    """

    folder: Path
    weight: float = 1.0
    held_out: tuple[tuple[float, float], ...] = ()


def read_rgbd_folder(folder: str | Path, longest_side: int | None = None) -> list[RgbdFrame]:
    """The frames with depth of a folder, in the order of the file; larger pictures are reduced to `longest_side`.

    Pictures are reduced with an anti-aliasing filter, depth by picking the nearest pixel, never mixing two surfaces.

    Raises:
        InputError: the folder has neither layout, a file is missing or of another kind, or no frame has depth.
    """
    folder = Path(folder)
    if (folder / "meta.json").is_file():
        frames = _read_unposed(folder, longest_side)
    elif (folder / "cameras.json").is_file():
        frames = _read_posed(folder, longest_side)
    else:
        raise InputError(f"{folder}: has neither cameras.json nor meta.json; give a folder of RGB-D frames")
    if not frames:
        raise InputError(f"{folder}: no frame has depth; give depth files or points.npz")
    return frames


def split_held_out(
    frames: Sequence[RgbdFrame], ranges: Sequence[tuple[float, float]], margin: int = 4
) -> tuple[list[RgbdFrame], list[RgbdFrame]]:
    """Training and held-out frames: `ranges` are shares [start, stop) of the sequence that are held out.

    Neighbours in a sequence look alike, so `margin` frames on both sides of a range are used by neither.
    """
    count = len(frames)
    spans = [(round(start * count), round(stop * count)) for start, stop in ranges]
    held_out = [frames[i] for i in range(count) if any(start <= i < stop for start, stop in spans)]
    training = [
        frames[i] for i in range(count) if not any(start - margin <= i < stop + margin for start, stop in spans)
    ]
    return training, held_out


def _read_unposed(folder: Path, longest_side: int | None) -> list[RgbdFrame]:
    intrinsics = _stated_intrinsics(folder / "meta.json")
    frames = []
    for path in sorted((folder / "rgb").glob("*.jpg")):
        code = read_depth_png(folder / "depth" / f"{path.stem}.png", np.uint8)
        depth = (_smooth_codes(torch.from_numpy(code.astype(np.float32))) + 0.5) * _CODE_METRES
        frames.append(_frame(f"{folder.name}/{path.name}", path, depth, intrinsics, longest_side))
    return frames


def _stated_intrinsics(path: Path) -> Float[Tensor, "3 3"]:
    meta = read_json(path)
    try:
        intrinsics = torch.tensor(meta["K"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: 'K' must be a pinhole matrix of three rows ({error})") from None
    if intrinsics.shape != (3, 3) or not bool(intrinsics.isfinite().all()) or not bool((intrinsics.diag() > 0).all()):
        raise InputError(f"{path}: 'K' must be a pinhole matrix of three rows, with focal lengths above 0")
    return intrinsics


def _smooth_codes(code: Float[Tensor, "h w"], rounds: int = 2) -> Float[Tensor, "h w"]:
    """Undo the staircase of 8-bit codes: the local mean, weighted by likeness, within each code's rounding."""
    smooth = code[None, None]
    for _ in range(rounds):
        padded = F.pad(smooth, (2, 2, 2, 2), mode="replicate")
        neighbours = F.unfold(padded, 5).view(25, *code.shape)
        likeness = (1 - (neighbours - smooth[0]).abs() / 3).clamp(min=0)
        smooth = ((neighbours * likeness).sum(dim=0) / likeness.sum(dim=0))[None, None]
        smooth = torch.minimum(torch.maximum(smooth, code - 0.5), code + 0.5)
    return smooth[0, 0]


def _read_posed(folder: Path, longest_side: int | None) -> list[RgbdFrame]:
    video = read_posed_video(folder / "cameras.json")
    sparse = folder / "points.npz"
    points = read_points_npz(sparse) if sparse.is_file() else None
    frames = []
    for path, depth_path, camera in zip(video.pictures, video.depths, video.cameras, strict=True):
        name, intrinsics = f"{folder.name}/{path.name}", camera.intrinsics[0]
        if depth_path is not None:
            depth = torch.from_numpy(read_depth_steps(depth_path) / 1000)
        elif points is not None:
            _require_size(path, camera.width, camera.height)
            depth = _sparse_depth(points, camera.cam_from_world[0], intrinsics, camera.width, camera.height)
        else:
            continue
        frames.append(_frame(name, path, depth, intrinsics, longest_side))
    return frames


def _require_size(path: Path, width: int, height: int) -> None:
    """Before anything of that size is made: the size that cameras state is the picture's."""
    with _opened(path) as picture:
        if picture.size != (width, height):
            raise InputError(f"{path}: is {picture.width}×{picture.height} but its camera {width}×{height}")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error})") from error


def _frame(
    name: str, path: Path, depth: Float[Tensor, "h w"], intrinsics: Float[Tensor, "3 3"], longest_side: int | None
) -> RgbdFrame:
    """Read the picture and reduce both; the depth's size must be the picture's."""
    with _opened(path) as file:
        picture = file.convert("RGB")
    if (picture.height, picture.width) != tuple(depth.shape):
        raise InputError(f"{path}: is {picture.width}×{picture.height} but its depth has shape {tuple(depth.shape)}")
    factor = 1.0 if longest_side is None else min(1.0, longest_side / max(picture.size))
    if factor < 1:
        width, height = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
        scale = torch.tensor([width / picture.width, height / picture.height, 1.0])
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        depth = _reduce_depth(depth, width, height)
        intrinsics = intrinsics * scale[:, None]
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return RgbdFrame(name, image, depth, torch.zeros_like(depth, dtype=torch.bool), intrinsics)


def _reduce_depth(depth: Float[Tensor, "h w"], width: int, height: int) -> Float[Tensor, "h2 w2"]:
    """The nearest pixel of dense depth; sparse depth keeps every sample that falls into a pixel."""
    nearest = F.interpolate(depth[None, None], size=(height, width), mode="nearest-exact")[0, 0]
    if (depth > 0).float().mean() > 0.05:
        return nearest
    reduced = torch.zeros(height, width)
    rows, columns = (depth > 0).nonzero(as_tuple=True)
    reduced[rows * height // depth.shape[0], columns * width // depth.shape[1]] = depth[rows, columns]
    return reduced


def _sparse_depth(
    points: Float[Tensor, "p 3"], pose: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], width: int, height: int
) -> Float[Tensor, "h w"]:
    """Depth of the points that a camera sees; a point well behind another one in its neighbourhood is hidden."""
    camera = points @ pose[:3, :3].T + pose[:3, 3]
    camera = camera[camera[:, 2] > 1e-3]
    pixels = camera @ intrinsics.T
    columns = (pixels[:, 0] / pixels[:, 2]).floor().long()
    rows = (pixels[:, 1] / pixels[:, 2]).floor().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    flat = rows[inside] * width + columns[inside]
    inverse = torch.zeros(height * width).scatter_reduce(0, flat, 1 / camera[inside, 2], "amax").view(height, width)
    depth = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-9), 0.0)
    nearest = F.max_pool2d(inverse[None, None], _SPARSE_WINDOW, 1, _SPARSE_WINDOW // 2)[0, 0]
    return torch.where(inverse * _SPARSE_OCCLUSION >= nearest, depth, 0.0)
