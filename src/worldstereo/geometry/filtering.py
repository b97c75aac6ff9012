"""Thinning points."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError


def voxel_keep(points: Float[Tensor, "p 3"], voxel: float) -> Bool[Tensor, " p"]:
    """Which points to keep so that each cube of side `voxel` holds one: the first in order. O(p log p).

    Raises:
        InputError: `voxel` is not positive, or so small that the cubes cannot be numbered.
    """
    if not voxel > 0:
        raise InputError(f"voxel is {voxel} but must be positive")
    keep = np.zeros(len(points), np.bool_)
    if len(points):
        cells = np.floor(points.cpu().numpy().astype(np.float64) / voxel)
        cells -= cells.min(axis=0)
        size = cells.max(axis=0) + 1
        if size[0] * size[1] * size[2] >= 2**62:
            raise InputError(f"voxel is {voxel}, too small for points that extend over {size * voxel}")
        cells = cells.astype(np.int64)
        number = (cells[:, 0] * int(size[1]) + cells[:, 1]) * int(size[2]) + cells[:, 2]
        keep[np.unique(number, return_index=True)[1]] = True
    return torch.from_numpy(keep).to(points.device)
