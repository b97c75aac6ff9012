"""Depth in PNG files of whole numbers."""

from pathlib import Path

import numpy as np
from PIL import Image

from worldstereo.errors import InputError

_SATURATED = 65535


def read_depth_steps(path: Path) -> np.ndarray:
    """Depth of a 16-bit PNG in its steps, as float32; 0 = unknown, which in the file are 0 and 65535.

    Raises:
        InputError: as `read_depth_png`.
    """
    steps = read_depth_png(path, np.uint16).astype(np.float32)
    return np.where(steps < _SATURATED, steps, np.float32(0))


def read_depth_png(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """The whole numbers of a PNG with one channel.

    Raises:
        InputError: the file is missing or damaged, or holds something else.
    """
    try:
        with Image.open(path) as picture:
            array = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a depth PNG ({error})") from error
    # Pillow gives 16 bits as uint16 or int32
    fits = array.dtype == np.uint8 if dtype is np.uint8 else array.dtype.kind in "iu" and array.dtype.itemsize > 1
    if array.ndim != 2 or not fits:
        raise InputError(f"{path}: is {array.dtype} with {array.ndim} dimensions, not one channel of {dtype.__name__}")
    return array
