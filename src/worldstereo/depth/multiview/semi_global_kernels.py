"""The compiled loops of semi-global matching: serial, the lock of the interpreter released."""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
@no_type_check
def add_path_costs(costs, jump, row_step, column_step, bend, total):
    """Add what every label costs along one direction to `total`.

    Args:
        costs: [h, w, k], of each pixel's labels.
        jump: [h, w], what it costs to change by more than one label from the pixel before.
        row_step, column_step: the direction, each −1, 0 or 1.
        bend: what it costs to change by one label.
        total: [h, w, k] out, added to.
    """
    height, width, count = costs.shape
    before = np.zeros((width, count), np.float32)
    now = np.zeros((width, count), np.float32)
    for i in range(height):
        row = i if row_step >= 0 else height - 1 - i
        for j in range(width):
            column = j if column_step >= 0 else width - 1 - j
            last = column - column_step
            if last < 0 or last >= width or (row_step != 0 and i == 0):
                for label in range(count):
                    now[column, label] = costs[row, column, label]
            else:
                path = now[last] if row_step == 0 else before[last]
                least = path[0]
                for label in range(1, count):
                    least = min(least, path[label])
                far = least + jump[row, column]
                for label in range(count):
                    best = min(path[label], far)
                    if label > 0:
                        best = min(best, path[label - 1] + bend)
                    if label < count - 1:
                        best = min(best, path[label + 1] + bend)
                    now[column, label] = costs[row, column, label] + best - least
            for label in range(count):
                total[row, column, label] += now[column, label]
        before, now = now, before
