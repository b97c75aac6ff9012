"""Compiled loops of the CPU renderers: one camera a call, one thread a call, the lock of the interpreter released.

Every kernel is serial, so its result depends on its inputs alone; callers run several cameras at once in threads.
"""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")

NEAREST_Z = np.float32(1e-6)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
_SPREAD = np.float32(3.5)  # r² of the averaging in units of the points' spacing²
_FAINT = np.float32(0.05)  # its 8th power is the weight of points beyond r
_TINY = np.float32(1e-30)
_RADIX_BITS = 11
_RADIX = 1 << _RADIX_BITS


@_compiled
@no_type_check
def project_visible(points, pose, k, width, height, margin):
    """Points in front of the camera whose pixel lies within `margin` of the image.

    Returns (index [v] int32, pixel [v, 2] float32, z [v] float32), in the order of the points. O(points).
    """
    n = points.shape[0]
    index = np.empty(n, np.int32)
    pixel = np.empty((n, 2), np.float32)
    depth = np.empty(n, np.float32)
    low = -margin
    right, bottom = np.float32(width) + margin, np.float32(height) + margin
    visible = 0
    for i in range(n):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        cz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        if cz <= NEAREST_Z:
            continue
        cx = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]) / cz
        cy = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]) / cz
        u = k[0, 0] * cx + k[0, 1] * cy + k[0, 2]
        v = k[1, 1] * cy + k[1, 2]
        if u > low and v > low and u < right and v < bottom:
            index[visible] = i
            pixel[visible, 0] = u
            pixel[visible, 1] = v
            depth[visible] = cz
            visible += 1
    return index[:visible], pixel[:visible], depth[:visible]


@_compiled
@no_type_check
def stable_depth_order(depth):
    """Stable argsort of positive float32 (their bits order as they do): radix sort, O(n)."""
    n = depth.shape[0]
    keys = depth.view(np.uint32).copy()
    order = np.empty(n, np.int32)
    for i in range(n):
        order[i] = i
    other_keys = np.empty(n, np.uint32)
    other_order = np.empty(n, np.int32)
    mask = np.uint32(_RADIX - 1)
    for shift in (0, _RADIX_BITS, 2 * _RADIX_BITS):
        start = np.zeros(_RADIX, np.int64)
        for i in range(n):
            start[(keys[i] >> np.uint32(shift)) & mask] += 1
        total = 0
        for b in range(_RADIX):
            size = start[b]
            start[b] = total
            total += size
        for i in range(n):
            b = (keys[i] >> np.uint32(shift)) & mask
            at = start[b]
            start[b] = at + 1
            other_keys[at] = keys[i]
            other_order[at] = order[i]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return order


@_compiled
@no_type_check
def splat_discs(order, index, pixel, z, colors, surface_points, radius, limit, background, rgb, covered, depth):
    """Composite discs front to back into `rgb` [3,h,w], `covered` [h,w] (bool), `depth` [h,w] (0 = none).

    At most `limit` discs count for a pixel. Points from `surface_points` on (the backdrop) have no depth.
    O(visible points × disc area).
    """
    height, width = depth.shape
    squared = radius * radius
    per_squared = _ONE / squared
    state = np.zeros((height * width, 4), np.float32)  # premultiplied colour, then transmittance
    count = np.zeros(height * width, np.int32)
    state[:, 3] = _ONE
    depth[:] = _ZERO
    for rank in range(order.shape[0]):
        slot = order[rank]
        point = index[slot]
        u, v = pixel[slot, 0], pixel[slot, 1]
        red, green, blue = colors[point, 0], colors[point, 1], colors[point, 2]
        top, bottom = max(0, int(np.ceil(v - radius - _HALF))), min(height - 1, int(np.floor(v + radius - _HALF)))
        for row in range(top, bottom + 1):
            dy = np.float32(row) + _HALF - v
            half = np.sqrt(max(squared - dy * dy, _ZERO))
            left, right = max(0, int(np.ceil(u - half - _HALF))), min(width - 1, int(np.floor(u + half - _HALF)))
            for column in range(left, right + 1):
                dx = np.float32(column) + _HALF - u
                distance = dx * dx + dy * dy
                at = row * width + column
                if distance >= squared or count[at] >= limit:
                    continue
                count[at] += 1
                if point < surface_points and depth[row, column] == _ZERO:
                    depth[row, column] = z[slot]
                alpha = _ONE - distance * per_squared
                left_over = state[at, 3]
                weight = alpha * left_over
                state[at, 0] += weight * red
                state[at, 1] += weight * green
                state[at, 2] += weight * blue
                state[at, 3] = left_over * (_ONE - alpha)
    for row in range(height):
        for column in range(width):
            at = row * width + column
            covered[row, column] = count[at] > 0
            for channel in range(3):
                rgb[channel, row, column] = state[at, channel] + state[at, 3] * background


@_compiled
@no_type_check
def closed_depth(pixel, z, width, height, reach):
    """Depth of the nearest surface per pixel [h, w], cracks up to 2·`reach` pixels wide closed; infinity where none.

    A morphological closing of the one-pixel depth buffer (nearest within `reach`, then farthest of those), so that
    outlines do not grow. `pixel` must hold the points up to 2·`reach` outside the image. O(points + pixels × reach).
    """
    pad = 2 * reach
    wide, high = width + 2 * pad, height + 2 * pad
    buffer = np.full((high, wide), np.inf, np.float32)
    for i in range(z.shape[0]):
        column, row = int(np.floor(pixel[i, 0])) + pad, int(np.floor(pixel[i, 1])) + pad
        if 0 <= column < wide and 0 <= row < high and z[i] < buffer[row, column]:
            buffer[row, column] = z[i]
    other = np.empty_like(buffer)
    for row in range(high):
        for column in range(wide):
            best = buffer[row, column]
            for c in range(max(0, column - reach), min(wide, column + reach + 1)):
                best = min(best, buffer[row, c])
            other[row, column] = best
    for row in range(high):
        for column in range(wide):
            best = other[row, column]
            for r in range(max(0, row - reach), min(high, row + reach + 1)):
                best = min(best, other[r, column])
            buffer[row, column] = best
    for row in range(high):
        for column in range(pad, wide - pad):
            worst = buffer[row, column]
            for c in range(column - reach, column + reach + 1):
                worst = max(worst, buffer[row, c])
            other[row, column] = worst
    closed = np.empty((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            worst = _ZERO
            for r in range(row + pad - reach, row + pad + reach + 1):
                worst = max(worst, other[r, column + pad])
            closed[row, column] = worst
    return closed


@_compiled
@no_type_check
def inverse_averaging_areas(pixel, z, closed, reach, tolerance):
    """Per pixel 1 / r² [h, w], r the radius over which to average.

    r is 1.9 times the spacing of the visible surface's points (mean within `reach` pixels, at least one pixel), and
    at most `reach` + 1.
    O(points + pixels × reach).
    """
    height, width = closed.shape
    points, area = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for i in range(z.shape[0]):
        column, row = int(np.floor(pixel[i, 0])), int(np.floor(pixel[i, 1]))
        if 0 <= column < width and 0 <= row < height and z[i] <= closed[row, column] * tolerance:
            points[row, column] += _ONE
    for row in range(height):
        for column in range(width):
            area[row, column] = _ONE if closed[row, column] < np.inf else _ZERO
    points, area = _box_sum(points, reach), _box_sum(area, reach)
    widest = np.float32((reach + 1) ** 2)
    for row in range(height):
        for column in range(width):
            squared_spacing = area[row, column] / max(points[row, column], _HALF)
            area[row, column] = _ONE / min(_SPREAD * max(squared_spacing, _ONE), widest)
    return area


@_compiled
@no_type_check
def _box_sum(values, reach):
    """Sums over the (2·`reach` + 1)² pixels around each pixel, as far as they lie inside."""
    height, width = values.shape
    rows, out = np.zeros_like(values), np.zeros_like(values)
    for row in range(height):
        for r in range(max(0, row - reach), min(height, row + reach + 1)):
            for column in range(width):
                rows[row, column] += values[r, column]
        for column in range(width):
            for c in range(max(0, column - reach), min(width, column + reach + 1)):
                out[row, column] += rows[row, c]
    return out


@_compiled
@no_type_check
def splat_surface(index, pixel, z, colors, surface_points, closed, per_area, reach, tolerance, behind, rgb, depth):
    """Average the points of the visible surface into `rgb` [3,h,w] and `depth` [h,w], steeply weighted by distance.

    A point counts for a pixel if its depth is `closed` there within the relative `tolerance`; points in front
    count by the factor `behind` only (they fill what lies between a silhouette and its background when nothing
    else does). The weight falls like a Gaussian; its support r is given by `per_area` (1 / r²), but every point within
    `reach` counts a little, so that no pixel of `closed` stays empty. Points from `surface_points` on (the
    backdrop) have no depth. Pixels that nothing reaches become 0. O(visible points × reach²).
    """
    height, width = closed.shape
    support = np.float32(reach + 1)
    state = np.zeros((height * width, 6), np.float32)  # weighted colour, weight, surface's weight, weighted depth
    for slot in range(index.shape[0]):
        point = index[slot]
        u, v, depth_here = pixel[slot, 0], pixel[slot, 1], z[slot]
        red, green, blue = colors[point, 0], colors[point, 1], colors[point, 2]
        left, right = max(0, int(np.ceil(u - support - _HALF))), min(width - 1, int(np.floor(u + support - _HALF)))
        top, bottom = max(0, int(np.ceil(v - support - _HALF))), min(height - 1, int(np.floor(v + support - _HALF)))
        nearest, farthest = depth_here / tolerance, depth_here * tolerance
        for row in range(top, bottom + 1):
            dy = np.float32(row) + _HALF - v
            for column in range(left, right + 1):
                surface = closed[row, column]
                if surface < nearest:
                    continue
                dx = np.float32(column) + _HALF - u
                weight = max(_ONE - (dx * dx + dy * dy) * per_area[row, column], _FAINT)
                weight *= weight
                weight *= weight
                weight *= weight
                if surface > farthest:
                    weight *= behind
                at = row * width + column
                state[at, 0] += weight * red
                state[at, 1] += weight * green
                state[at, 2] += weight * blue
                state[at, 3] += weight
                if point < surface_points:
                    state[at, 4] += weight
                    state[at, 5] += weight * depth_here
    for row in range(height):
        for column in range(width):
            at = row * width + column
            total = max(state[at, 3], _TINY)
            depth[row, column] = state[at, 5] / state[at, 4] if state[at, 4] > _HALF * total else _ZERO
            for channel in range(3):
                rgb[channel, row, column] = state[at, channel] / total
