"""The compiled loop of `upsampling`."""

from math import exp
from typing import no_type_check

import numpy as np
from numba import njit

_LEAST_WEIGHT = 1e-6


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def enlarge(disparity, slope_y, slope_x, logit, image, small_image, sigma, edge_ratio, full_disparity, full_logit):
    """Fill `full_disparity` and `full_logit` [height, width].

    From `disparity` [h, w], its slopes, `logit` [h, w], and the pictures [3, ., .] of both sizes; `sigma`: of colours.
    """
    rows, columns = disparity.shape
    height, width = full_disparity.shape
    falloff = 1.0 / (2.0 * sigma * sigma)
    value, weight = np.empty(9), np.empty(9)
    for v in range(height):
        y = (v + 0.5) * rows / height - 0.5
        row = min(max(int(np.rint(y)), 0), rows - 1)
        for u in range(width):
            x = (u + 0.5) * columns / width - 0.5
            column = min(max(int(np.rint(x)), 0), columns - 1)
            low, high, k = np.inf, 0.0, 0
            logits = 0.0
            for i in range(-1, 2):
                r = min(max(row + i, 0), rows - 1)
                for j in range(-1, 2):
                    c = min(max(column + j, 0), columns - 1)
                    dy, dx = y - r, x - c
                    at = disparity[r, c]
                    plane = min(max(at + slope_y[r, c] * dy + slope_x[r, c] * dx, 0.5 * at), 2.0 * at)
                    difference = 0.0
                    for channel in range(3):
                        unlike = image[channel, v, u] - small_image[channel, r, c]
                        difference += unlike * unlike
                    value[k], weight[k] = plane, exp(-difference * falloff - dy * dy - dx * dx) + _LEAST_WEIGHT
                    low, high = min(low, plane), max(high, plane)
                    logits += weight[k] * logit[r, c]
                    k += 1
            middle = (low * high) ** 0.5
            near_sum = near_weight = far_sum = far_weight = 0.0
            for k in range(9):
                if value[k] > middle:
                    near_sum += weight[k] * value[k]
                    near_weight += weight[k]
                else:
                    far_sum += weight[k] * value[k]
                    far_weight += weight[k]
            total = near_weight + far_weight
            if high <= edge_ratio * low:
                full_disparity[v, u] = (near_sum + far_sum) / total
            elif near_weight > far_weight:
                full_disparity[v, u] = near_sum / near_weight
            else:
                full_disparity[v, u] = far_sum / far_weight
            full_logit[v, u] = logits / total
