"""Points in npz files."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError


def read_points_npz(path: Path) -> Float[Tensor, "p 3"]:
    """The array `xyz` of an npz, in the world frame.

    Raises:
        InputError: the file is missing or damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            points = np.asarray(file["xyz"], dtype=np.float32)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # of archives, arrays and numbers; they share no base class
        raise InputError(f"{path}: must be an npz with the array 'xyz' ({error})") from None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{path}: 'xyz' must hold finite coordinates, three a point")
    return torch.from_numpy(points)
