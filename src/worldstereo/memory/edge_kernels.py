"""The compiled loops of `depth_edges`: serial, the lock of the interpreter released."""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
@no_type_check
def mark_steps(disparity, known, axis, width, least, in_step):
    """Set `in_step` along isolated steps of `width` pixels along an axis (0: down the columns, 1: along the rows).

    Pixels of a step whose disparity is within `least` of its near end's are left out.
    """
    height, columns = disparity.shape
    length = height if axis == 0 else columns
    for line in range(columns if axis == 0 else height):
        for k in range(length - width):
            row, column = (k, line) if axis == 0 else (line, k)
            far_row, far_column = (k + width, line) if axis == 0 else (line, k + width)
            if not (known[row, column] and known[far_row, far_column]):
                continue
            here, there = disparity[row, column], disparity[far_row, far_column]
            step = there - here
            before, after = np.float32(0), np.float32(0)
            if k >= width:
                r, c = (k - width, line) if axis == 0 else (line, k - width)
                if known[r, c]:
                    before = here - disparity[r, c]
            if k + 2 * width < length:
                r, c = (k + 2 * width, line) if axis == 0 else (line, k + 2 * width)
                if known[r, c]:
                    after = disparity[r, c] - there
            beyond = max(step - max(before, after), min(before, after) - step)
            if beyond > least * max(here, there):
                behind = (np.float32(1) - least) * max(here, there)
                for shift in range(width + 1):
                    r, c = (k + shift, line) if axis == 0 else (line, k + shift)
                    if disparity[r, c] < behind:
                        in_step[r, c] = True


@_compiled
@no_type_check
def steep_pixels(disparity, known, least, steep):
    """Set `steep` where the disparities known within 3×3 pixels differ by more than `least` of the largest."""
    height, width = disparity.shape
    for row in range(height):
        for column in range(width):
            top, bottom = np.float32(0), np.float32(np.inf)
            for r in range(max(row - 1, 0), min(row + 2, height)):
                for c in range(max(column - 1, 0), min(column + 2, width)):
                    if known[r, c]:
                        top = max(top, disparity[r, c])
                        bottom = min(bottom, disparity[r, c])
            steep[row, column] = top - bottom > least * top
