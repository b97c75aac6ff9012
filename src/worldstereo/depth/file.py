"""Depth from a file: npy, npz, 16-bit PNG or EXR."""

import copy
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.images import Fit

DEPTH_FILE_SUFFIXES = (".npy", ".npz", ".png", ".exr")

_EXR_CHANNELS = ("Z", "depth", "Depth", "depth.Z", "Y", "R")
_ASPECT_TOLERANCE = 0.01


class FileDepth:
    """The depth of one picture from a file, of the size of the picture or of its shape.

    Values are z-depth for a photo and distance along the ray for a panorama. NaN, infinity and 0 mean unknown.
    They are metres after `depth_scale`; without it (npy, npz, EXR) they are taken as they are and not called metric.

    The file says nothing of other pictures. A generated frame comes with a hint (its part of the cloud), so
    pictures with a hint are left to `others`.

    Args:
        path: npy (an array), npz (the array `depth`, or the only one), PNG (16-bit grey) or EXR (channel Z or the
            only one).
        depth_scale: metres per unit of the file; needed for PNG.
        others: makes (once, or keeps) the back-end of pictures that come with a hint.

    Raises:
        InputError: no such file, not a depth file, or nothing in it is usable.
    """

    def __init__(
        self, path: str | Path, depth_scale: float | None = None, others: Callable[[], DepthEstimator] | None = None
    ) -> None:
        path = Path(path)
        if depth_scale is not None and not 0 < depth_scale < float("inf"):
            raise InputError(f"--depth-scale {depth_scale}: must be a positive number of metres per unit")
        if path.suffix.lower() == ".png" and depth_scale is None:
            raise InputError(
                f"{path}: a PNG does not say its unit; give --depth-scale, the metres per unit (0.001 for millimetres)"
            )
        self.name = str(path)
        self._path = path
        self.depth_scale = depth_scale
        self._others = others
        values = torch.from_numpy(_clean(_read(path), path))
        self._depth = values * (1.0 if depth_scale is None else depth_scale)

    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """The file's depth at the size of `image`.

        Values are picked, never mixed.

        Raises:
            InputError: the file has another shape than the picture; or there is a hint and no `others`.
        """
        if hint is not None:
            if self._others is None:
                raise InputError(f"{self._path}: a depth file knows one picture only, not the frames made from it")
            return self._others().estimate(image, intrinsics, hint)
        depth = self.at_size(image.shape[2], image.shape[1])
        sky: Bool[Tensor, "h w"] = torch.zeros_like(depth, dtype=torch.bool)
        return DepthPrediction(
            depth.to(image.device), sky.to(image.device), None, self.is_metric, f"depth file {self._path.name}"
        )

    @property
    def is_metric(self) -> bool:
        """Whether the unit was stated."""
        return self.depth_scale is not None

    def at_size(self, width: int, height: int) -> Float[Tensor, "h w"]:
        """The file's values, 0 = unknown, for a picture of `width` × `height`; see `estimate`."""
        own_height, own_width = self._depth.shape
        if not _same_shape(own_width, own_height, width, height):
            raise InputError(
                f"{self._path}: the depth is {own_width}×{own_height} but the picture is {width}×{height} (as used), "
                f"which is another shape; give the depth of the whole, upright picture"
            )
        return F.interpolate(self._depth[None, None], (height, width), mode="nearest-exact")[0, 0]

    def following(self, fit: Fit) -> "FileDepth":
        """The depth of the picture after its fit, of a file with the whole picture's shape; others stay as they are."""
        height, width = self._depth.shape
        if not _same_shape(width, height, fit.original_width, fit.original_height):
            return self
        left, top = round(fit.left * width / fit.original_width), round(fit.top * height / fit.original_height)
        columns = round(fit.crop_width * width / fit.original_width)
        rows = round(fit.crop_height * height / fit.original_height)
        followed = copy.copy(self)
        crop = self._depth[None, None, top : top + rows, left : left + columns]
        followed._depth = F.interpolate(crop, (fit.height, fit.width), mode="nearest-exact")[0, 0]
        return followed


def _same_shape(width: int, height: int, other_width: int, other_height: int) -> bool:
    return abs(width / height / (other_width / other_height) - 1) <= _ASPECT_TOLERANCE


def _read(path: Path) -> np.ndarray:
    readers = {".npy": _read_npy, ".npz": _read_npz, ".png": _read_png, ".exr": _read_exr}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: is not a depth file; use {', '.join(DEPTH_FILE_SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return reader(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # readers raise many undocumented types on damaged files
        raise InputError(f"{path}: cannot be read as a depth file, it may be damaged ({error})") from error


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not an npz archive; save it again with numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if "depth" not in names and len(names) != 1:
            raise InputError(f"{path}: holds the arrays {', '.join(names)}; name the one with the depth 'depth'")
        return archive["depth" if "depth" in names else names[0]]


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if not picture.mode.startswith("I"):
            raise InputError(f"{path}: is not a 16-bit grey PNG (its mode is {picture.mode}); save depth with 16 bits")
        return np.asarray(picture)


def _read_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError:
        raise MissingExtraError("OpenEXR", "exr", "an EXR depth file") from None
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        names = [name for name in _EXR_CHANNELS if name in channels] or (list(channels) if len(channels) == 1 else [])
        if not names:
            raise InputError(f"{path}: holds the channels {', '.join(channels)}; name the one with the depth 'Z'")
        return np.array(channels[names[0]].pixels)


def _clean(values: np.ndarray, path: Path) -> np.ndarray:
    """Float32 [h, w] with 0 for unknown."""
    if values.dtype.kind not in "fiu":
        raise InputError(f"{path}: holds values of type {values.dtype}; depth must be numbers")
    values = values.astype(np.float32)
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or min(values.shape) < 1:
        raise InputError(f"{path}: has the shape {values.shape}; depth must be [height, width]")
    finite = np.isfinite(values)
    if (values[finite] < 0).any():
        raise InputError(f"{path}: has negative values; depth must be positive, with 0 or NaN where it is unknown")
    values = np.where(finite, values, 0).astype(np.float32)
    if not values.any():
        raise InputError(f"{path}: has no valid depth at all (every value is 0, NaN or infinite)")
    return values
