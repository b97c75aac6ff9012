"""The compiled loop of `Exemplars`: serial, the lock of the interpreter released."""

from typing import no_type_check

import numpy as np
from numba import njit

_MULTIPLIER, _INCREMENT = np.uint64(6364136223846793005), np.uint64(1442695040888963407)
_NEARBY = 6
_NOT_COHERENT = np.float32(1e-4)  # mean squared difference that a patch must be better by to leave its neighbours'

_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
@no_type_check
def choose_patches(
    order,
    low,
    detail,
    known,
    low_source,
    detail_source,
    price,
    candidates,
    cell,
    radius,
    step,
    weight,
    tries,
    seed,
    chosen,
):
    """Choose for each pixel of `order` the pixel of the source whose surroundings fit best, and take its detail.

    Tried are the places that the choices of the eight neighbours go on at, some candidates of the pixel's cell, and
    places near the best of these; `price` is what a pixel of the source costs in any case. Updates `detail`, `known`
    and `chosen` ([h, w, 2], -1 where nothing is chosen).
    """
    height, width = known.shape
    source_height, source_width = low_source.shape[:2]
    cells_across = -(-width // cell)
    margin = radius * step
    state = np.uint64(seed)
    for index in range(order.shape[0]):
        y, x = order[index, 0], order[index, 1]
        here = (y // cell) * cells_across + x // cell
        best, best_y, best_x = np.float32(np.inf), -1, -1
        for attempt in range(8 + tries + _NEARBY):
            if attempt < 8:
                place = attempt if attempt < 4 else attempt + 1
                dy, dx = place // 3 - 1, place % 3 - 1
                if not (0 <= y + dy < height and 0 <= x + dx < width) or chosen[y + dy, x + dx, 0] < 0:
                    continue
                source_y, source_x = chosen[y + dy, x + dx, 0] - dy, chosen[y + dy, x + dx, 1] - dx
            else:
                state = state * _MULTIPLIER + _INCREMENT
                random = np.int64(state >> np.uint64(33))
                if attempt < 8 + tries:
                    candidate = candidates[here, random % candidates.shape[1]]
                    random //= candidates.shape[1]
                    source_y = candidate // source_width + random % 8 - 4
                    source_x = candidate % source_width + random // 8 % 8 - 4
                else:
                    reach = 16 >> ((attempt - 8 - tries) // 2)
                    source_y = best_y + (random % 32 - 16) * reach // 16
                    source_x = best_x + (random // 32 % 32 - 16) * reach // 16
            if not (margin <= source_y < source_height - margin and margin <= source_x < source_width - margin):
                continue
            cost = price[source_y, source_x]
            for channel in range(3):
                difference = low[y, x, channel] - low_source[source_y, source_x, channel]
                cost += weight * difference * difference
            count, total = 0, np.float32(0)
            for i in range(-margin, margin + 1, step):
                if not 0 <= y + i < height:
                    continue
                for j in range(-margin, margin + 1, step):
                    if not 0 <= x + j < width or not known[y + i, x + j]:
                        continue
                    count += 1
                    for channel in range(3):
                        difference = detail[y + i, x + j, channel] - detail_source[source_y + i, source_x + j, channel]
                        total += difference * difference
            if count:
                cost += total / count
            if attempt >= 8:
                cost += _NOT_COHERENT
            if cost < best:
                best, best_y, best_x = cost, source_y, source_x
        if best_y >= 0:
            chosen[y, x, 0], chosen[y, x, 1] = best_y, best_x
            known[y, x] = True
            for channel in range(3):
                detail[y, x, channel] = detail_source[best_y, best_x, channel]
