"""The compiled loops of the voxel table: an open-addressing hash table of cells of several sizes."""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
@no_type_check
def _slot(keys, taken, level, i, j, k):
    """The slot of a cell: where it is, or the free one where it goes."""
    mask = len(keys) - 1
    mixed = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= np.uint64(j) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= np.uint64(k) * np.uint64(0x165667B19E3779F9)
    mixed ^= np.uint64(level) * np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    slot = np.int64(mixed & np.uint64(mask))
    while taken[slot] and not (
        keys[slot, 0] == level and keys[slot, 1] == i and keys[slot, 2] == j and keys[slot, 3] == k
    ):
        slot = (slot + 1) & mask
    return slot


@_compiled
@no_type_check
def add_rows(keys, taken, sums, new_keys, rows):
    """Add each row of values to the sums of its cell; gives the number of cells that are new."""
    added = 0
    for n in range(len(new_keys)):
        level, i, j, k = new_keys[n]
        slot = _slot(keys, taken, level, i, j, k)
        if not taken[slot]:
            taken[slot] = True
            keys[slot] = new_keys[n]
            added += 1
        for c in range(rows.shape[1]):
            sums[slot, c] += rows[n, c]
    return added


@_compiled
@no_type_check
def covered_by_finer(keys, taken, coarsest, hidden):
    """Set `hidden` for the slots whose cell contains a taken cell of a finer level."""
    for slot in range(len(keys)):
        if not taken[slot]:
            continue
        level, i, j, k = keys[slot]
        while level < coarsest:
            level, i, j, k = level + 1, i >> 1, j >> 1, k >> 1
            above = _slot(keys, taken, level, i, j, k)
            if taken[above]:
                hidden[above] = True
