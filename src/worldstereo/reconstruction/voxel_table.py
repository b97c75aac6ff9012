"""Sums over the points in each of many cubes, of several sizes, added a batch at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_START = 1 << 16
_FULLEST = 0.6
_WIDEST = 2**30


@dataclass(frozen=True)
class Cells:
    """The content of a table, ordered by level and place, whatever the order of the points.

    Attributes:
        level: cubes of level l have the side 2^l.
        place: number of the cube along each axis; it spans [place · 2^l, (place + 1) · 2^l).
        sums: of the values added.
    """

    level: Int[Tensor, " c"]
    place: Int[Tensor, "c 3"]
    sums: Float[Tensor, "c v"]


class VoxelTable:
    """A hash table from (level, cube) to sums of `values` numbers. Adding takes O(points), whatever is there."""

    def __init__(self, values: int) -> None:
        self._keys = np.zeros((_START, 4), np.int32)
        self._taken = np.zeros(_START, np.bool_)
        self._sums = np.zeros((_START, values), np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, level: Int[Tensor, " p"], place: Int[Tensor, "p 3"], values: Float[Tensor, "p v"]) -> None:
        """Add the values of points to their cubes; cubes farther than 2³⁰ sides from the origin are left out."""
        from worldstereo.reconstruction import fusion_kernels as kernels

        near = (place.abs() < _WIDEST).all(dim=1)
        keys = torch.cat([level[:, None], place], dim=1)[near].to(torch.int32).contiguous().numpy()
        rows = values[near].float().contiguous().numpy()
        while self._count + len(keys) > _FULLEST * len(self._taken):
            self._grow()
        self._count += int(kernels.add_rows(self._keys, self._taken, self._sums, keys, rows))

    def cells(self, *, finest_only: bool = False) -> Cells:
        """All cells; with `finest_only` without those that contain a cell of a finer level."""
        from worldstereo.reconstruction import fusion_kernels as kernels

        chosen = self._taken.copy()
        if finest_only and self._count:
            levels = self._keys[self._taken, 0]
            hidden = np.zeros_like(self._taken)
            kernels.covered_by_finer(self._keys, self._taken, int(levels.max()), hidden)
            chosen &= ~hidden
        keys, sums = self._keys[chosen], self._sums[chosen]
        order = np.lexsort((keys[:, 3], keys[:, 2], keys[:, 1], keys[:, 0]))
        ordered = torch.from_numpy(keys[order]).long()
        return Cells(ordered[:, 0], ordered[:, 1:], torch.from_numpy(sums[order]))

    def _grow(self) -> None:
        from worldstereo.reconstruction import fusion_kernels as kernels

        keys, sums = self._keys[self._taken], self._sums[self._taken]
        size = 2 * len(self._taken)
        self._keys = np.zeros((size, 4), np.int32)
        self._taken = np.zeros(size, np.bool_)
        self._sums = np.zeros((size, sums.shape[1]), np.float32)
        kernels.add_rows(self._keys, self._taken, self._sums, keys, sums)
