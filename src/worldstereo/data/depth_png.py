"""Depth in PNG files of whole numbers."""

from pathlib import Path

import numpy as np
from PIL import Image

from worldstereo.errors import InputError


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
    if array.ndim != 2 or not np.can_cast(array.dtype, np.int32) or (dtype is np.uint8 and array.dtype != np.uint8):
        raise InputError(f"{path}: is {array.dtype} with {array.ndim} dimensions, not one channel of {dtype.__name__}")
    return array
