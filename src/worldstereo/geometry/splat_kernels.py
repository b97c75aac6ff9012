"""Compiled loops of the splat rasteriser: serial, the lock of the interpreter released; callers share out the work.

The image is cut into tiles. A tile has the list of the splats that may touch it, near to far, and keeps the state of
its pixels in a small block while it goes through the list: once to colour them, and once more, in the same order, for
the gradients. Of every pair of splat and tile the gradient has a place of its own, and the places are summed in a fixed
order: the result does not depend on how the tiles are shared out among threads.
"""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")
_FAST = {"nnan", "ninf", "nsz", "contract", "reassoc"}
_vectorised = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
_inlined = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, forceinline=True)

TILE = 16
"""Side of a tile in pixels."""

PACKED = 8
"""Values per packed splat: pixel x, y, conic a, b, c, opacity, the exponent at which its alpha is cut, 1 / opacity."""

SHAPE_GRADIENTS = 6
"""Gradients per packed splat before those of its values: pixel x, y, conic a, b, c, opacity."""

_PIXELS = TILE * TILE
_CHECK_EVERY = 16  # splats between two looks whether a tile is opaque
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_ALPHA_CUT = np.float32(1 / 255)
_ALPHA_CAP = np.float32(0.999)
_OPAQUE = np.float32(1e-4)
_FIELD_MARGIN = np.float32(0.15)  # of the image's side: how far outside it the projection is linearised at most
# exp(-8 t) = p(t)⁸, p the polynomial of degree 5 nearest to exp(-t) on [0, ln(255) / 8]; relative error 2e-6
_E0, _E1, _E2 = np.float32(0.99999994), np.float32(-0.9999929), np.float32(0.4998872)
_E3, _E4, _E5 = np.float32(-0.16599394), np.float32(0.039807845), np.float32(-0.0058684982)
_EIGHTH = np.float32(0.125)


@_compiled
@no_type_check
def project(first, last, means, scales, rotations, pose, k, width, height, blur, near, pixel, conic, depth):
    """Project splats `first` to `last` into `pixel` [n,2], `conic` [n,3] and `depth` [n]; depth 0 = not drawn. O(n)."""
    turn = np.empty((3, 3), np.float32)
    for i in range(first, last):
        pixel[i, :] = _ZERO
        conic[i, :] = _ZERO
        depth[i] = _ZERO
        x, y, z = _camera_place(means, pose, i)
        if not z > near:
            continue
        held_x, held_y, _, _ = _held(x / z, y / z, k, width, height)
        _rotation(rotations, i, turn)
        a, b, c = blur, _ZERO, blur
        for j in range(3):
            ax, ay, az = _camera_axis(turn, pose, j)
            u, v = _image_direction(ax, ay, az, held_x, held_y, z, k)
            u, v = u * scales[i, j], v * scales[i, j]
            a += u * u
            b += u * v
            c += v * v
        determinant = a * c - b * b
        if not determinant > _ZERO:
            continue
        depth[i] = z
        pixel[i, 0] = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2]
        pixel[i, 1] = k[1, 1] * y / z + k[1, 2]
        conic[i, 0], conic[i, 1], conic[i, 2] = c / determinant, -b / determinant, a / determinant


@_compiled
@no_type_check
def project_backward(
    first,
    last,
    means,
    scales,
    rotations,
    pose,
    k,
    width,
    height,
    conic,
    depth,
    to_pixel,
    to_conic,
    to_means,
    to_scales,
    to_rotations,
):
    """Gradients of splats `first` to `last` from those of what `project` wrote; 0 where it drew nothing. O(n)."""
    turn, to_turn = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    for i in range(first, last):
        to_means[i, :] = _ZERO
        to_scales[i, :] = _ZERO
        to_rotations[i, :] = _ZERO
        if depth[i] == _ZERO:
            continue
        x, y, z = _camera_place(means, pose, i)
        held_x, held_y, free_x, free_y = _held(x / z, y / z, k, width, height)
        inverse_length = _rotation(rotations, i, turn)

        # the covariance C is the inverse of the conic Q: dC = -Q dQ Q
        a, b, c = conic[i, 0], conic[i, 1], conic[i, 2]
        ga, gb, gc = to_conic[i, 0], _HALF * to_conic[i, 1], to_conic[i, 2]
        m00, m01, m10, m11 = a * ga + b * gb, a * gb + b * gc, b * ga + c * gb, b * gb + c * gc
        xx, xy, yy = -(m00 * a + m01 * b), -(m00 * b + m01 * c), -(m10 * b + m11 * c)

        to_held_x, to_held_y, to_z = _ZERO, _ZERO, _ZERO
        for j in range(3):
            scale = scales[i, j]
            ax, ay, az = _camera_axis(turn, pose, j)
            u, v = _image_direction(ax, ay, az, held_x, held_y, z, k)
            to_u, to_v = _TWO * scale * (xx * u + xy * v), _TWO * scale * (xy * u + yy * v)
            to_scales[i, j] = to_u * u + to_v * v
            to_u, to_v = to_u * scale, to_v * scale
            to_x = k[0, 0] * to_u / z
            to_y = (k[0, 1] * to_u + k[1, 1] * to_v) / z
            to_held_x -= to_x * az
            to_held_y -= to_y * az
            to_z -= (to_u * u + to_v * v) / z
            to_depth = -(to_x * held_x + to_y * held_y)
            for m in range(3):
                to_turn[m, j] = pose[0, m] * to_x + pose[1, m] * to_y + pose[2, m] * to_depth

        across = (k[0, 0] * to_pixel[i, 0] + free_x * to_held_x) / z
        down = (k[0, 1] * to_pixel[i, 0] + k[1, 1] * to_pixel[i, 1] + free_y * to_held_y) / z
        to_z -= (across * x + down * y) / z
        for m in range(3):
            to_means[i, m] = pose[0, m] * across + pose[1, m] * down + pose[2, m] * to_z
        _rotation_backward(rotations, i, inverse_length, to_turn, to_rotations)


@_compiled
@no_type_check
def _camera_place(means, pose, i):
    """Camera coordinates of a splat's centre."""
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
    )


@_compiled
@no_type_check
def _held(across, down, k, width, height):
    """x / z and y / z held near the image, where the projection is linearised, and whether each was free (1) or not."""
    margin_x, margin_y = _FIELD_MARGIN * width / k[0, 0], _FIELD_MARGIN * height / k[1, 1]
    held_x = min((width - k[0, 2]) / k[0, 0] + margin_x, max(-k[0, 2] / k[0, 0] - margin_x, across))
    held_y = min((height - k[1, 2]) / k[1, 1] + margin_y, max(-k[1, 2] / k[1, 1] - margin_y, down))
    return held_x, held_y, _ONE if held_x == across else _ZERO, _ONE if held_y == down else _ZERO


@_compiled
@no_type_check
def _camera_axis(turn, pose, j):
    """A splat's own axis j, of length 1, in camera axes."""
    x, y, z = turn[0, j], turn[1, j], turn[2, j]
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z,
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z,
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z,
    )


@_compiled
@no_type_check
def _image_direction(x, y, z, held_x, held_y, depth, k):
    """How a pixel moves with a place in the camera: the derivative of the projection times a direction."""
    across, down = (x - z * held_x) / depth, (y - z * held_y) / depth
    return k[0, 0] * across + k[0, 1] * down, k[1, 1] * down


@_compiled
@no_type_check
def _rotation(rotations, i, turn):
    """Write the rotation matrix of a quaternion of any length; return 1 / its length."""
    w, x, y, z = rotations[i, 0], rotations[i, 1], rotations[i, 2], rotations[i, 3]
    inverse = _ONE / np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    turn[0, 0], turn[0, 1], turn[0, 2] = _ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)
    turn[1, 0], turn[1, 1], turn[1, 2] = _TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)
    turn[2, 0], turn[2, 1], turn[2, 2] = _TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)
    return inverse


@_compiled
@no_type_check
def _rotation_backward(rotations, i, inverse, to_turn, to_rotations):
    """The gradient of a quaternion from that of its rotation matrix."""
    w, x, y, z = (
        rotations[i, 0] * inverse,
        rotations[i, 1] * inverse,
        rotations[i, 2] * inverse,
        rotations[i, 3] * inverse,
    )
    g = to_turn
    to_w = x * (g[2, 1] - g[1, 2]) + y * (g[0, 2] - g[2, 0]) + z * (g[1, 0] - g[0, 1])
    to_x = w * (g[2, 1] - g[1, 2]) + y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) - _TWO * x * (g[1, 1] + g[2, 2])
    to_y = w * (g[0, 2] - g[2, 0]) + x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) - _TWO * y * (g[0, 0] + g[2, 2])
    to_z = w * (g[1, 0] - g[0, 1]) + x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) - _TWO * z * (g[0, 0] + g[1, 1])
    along = w * to_w + x * to_x + y * to_y + z * to_z
    factor = _TWO * inverse
    to_rotations[i, 0], to_rotations[i, 1] = factor * (to_w - w * along), factor * (to_x - x * along)
    to_rotations[i, 2], to_rotations[i, 3] = factor * (to_y - y * along), factor * (to_z - z * along)


@_compiled
@no_type_check
def drawn_splats(pixel, conic, depth, opacities, width, height):
    """Indices [v] int32 of the splats that can give a pixel an alpha of at least 1/255. O(n)."""
    n = depth.shape[0]
    index = np.empty(n, np.int32)
    drawn = 0
    for i in range(n):
        if depth[i] == _ZERO or not opacities[i] > _ALPHA_CUT:
            continue
        left, right, top, bottom = _pixel_box(pixel, conic, opacities, i)
        if left <= right and top <= bottom and right >= 0 and bottom >= 0 and left < width and top < height:
            index[drawn] = i
            drawn += 1
    return index[:drawn]


@_compiled
@no_type_check
def _pixel_box(pixel, conic, opacities, i):
    """First and last column and row whose pixels' centres lie in the box of where alpha ≥ 1/255."""
    a, b, c = conic[i, 0], conic[i, 1], conic[i, 2]
    reach = _TWO * np.log(opacities[i] / _ALPHA_CUT) / (a * c - b * b)
    half_x, half_y = np.sqrt(reach * c), np.sqrt(reach * a)
    u, v = pixel[i, 0] - _HALF, pixel[i, 1] - _HALF
    far = np.float32(1e6)
    return (
        int(np.ceil(max(u - half_x, -far))),
        int(np.floor(min(u + half_x, far))),
        int(np.ceil(max(v - half_y, -far))),
        int(np.floor(min(v + half_y, far))),
    )


@_compiled
@no_type_check
def packed_splats(index, pixel, conic, opacities, values, width, height):
    """What the loops over pixels need, near to far: numbers [v, PACKED], values [v, c], tile boxes [v, 4]. O(v · c)."""
    drawn, channels = index.shape[0], values.shape[1]
    packed = np.empty((drawn, PACKED), np.float32)
    packed_values = np.empty((drawn, channels), np.float32)
    boxes = np.empty((drawn, 4), np.int32)
    for rank in range(drawn):
        i = index[rank]
        packed[rank, 0], packed[rank, 1] = pixel[i, 0], pixel[i, 1]
        packed[rank, 2], packed[rank, 3], packed[rank, 4] = conic[i, 0], conic[i, 1], conic[i, 2]
        packed[rank, 5] = opacities[i]
        packed[rank, 6] = np.log(opacities[i] / _ALPHA_CUT)
        packed[rank, 7] = _ONE / opacities[i]
        for channel in range(channels):
            packed_values[rank, channel] = values[i, channel]
        left, right, top, bottom = _pixel_box(pixel, conic, opacities, i)
        boxes[rank, 0], boxes[rank, 1] = max(left, 0) // TILE, min(right, width - 1) // TILE
        boxes[rank, 2], boxes[rank, 3] = max(top, 0) // TILE, min(bottom, height - 1) // TILE
    return packed, packed_values, boxes


@_compiled
@no_type_check
def tile_lists(boxes, columns, rows):
    """Per tile its splats, near to far: start [tiles + 1] int64, ranks [pairs] int32. O(pairs)."""
    start = np.zeros(columns * rows + 1, np.int64)
    for rank in range(boxes.shape[0]):
        for row in range(boxes[rank, 2], boxes[rank, 3] + 1):
            for column in range(boxes[rank, 0], boxes[rank, 1] + 1):
                start[row * columns + column + 1] += 1
    for tile in range(columns * rows):
        start[tile + 1] += start[tile]
    at = start[:-1].copy()
    ranks = np.empty(start[-1], np.int32)
    for rank in range(boxes.shape[0]):
        for row in range(boxes[rank, 2], boxes[rank, 3] + 1):
            for column in range(boxes[rank, 0], boxes[rank, 1] + 1):
                tile = row * columns + column
                ranks[at[tile]] = rank
                at[tile] += 1
    return start, ranks


@_vectorised
@no_type_check
def composite(first, last, start, ranks, packed, values, out, coverage):
    """Composite the splats of tiles `first` to `last` into `out` [c,h,w] and `coverage` [h,w], 1 - what shines through.

    O(pairs × pixels of a tile within the splat's rows × c).
    """
    channels, height, width = out.shape
    columns = (width + TILE - 1) // TILE
    x, y = _tile_grid()
    clear, alpha, before = np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32)
    sums = np.empty((channels, _PIXELS), np.float32)
    for tile in range(first, last):
        left, top = tile % columns * TILE, tile // columns * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        _open_tile(clear, wide, high)
        sums[:] = _ZERO
        for slot in range(start[tile], start[tile + 1]):
            if (slot - start[tile]) % _CHECK_EVERY == 0 and clear.max() <= _ZERO:
                break
            rank = ranks[slot]
            begin, end = _rows_touched(packed, rank, top)
            if begin >= end:
                continue
            _blend(packed, rank, left, top, x, y, begin, end, clear, alpha, before)
            for channel in range(channels):
                _add(values[rank, channel], alpha, before, begin, end, sums, channel)
        for row in range(high):
            for column in range(wide):
                at = row * TILE + column
                coverage[top + row, left + column] = _ONE - abs(clear[at])
                for channel in range(channels):
                    out[channel, top + row, left + column] = sums[channel, at]


@_vectorised
@no_type_check
def composite_backward(first, last, start, ranks, packed, values, out, coverage, to_out, to_coverage, gradients):
    """Gradients [pairs, SHAPE_GRADIENTS + c] of the pairs of tiles `first` to `last`, from those of `out`, `coverage`.

    Goes through the lists in the order of `composite`: what lies behind a splat is what `composite` found in total less
    what lies before it, so nothing of its pass need be kept.
    """
    channels, height, width = out.shape
    columns = (width + TILE - 1) // TILE
    x, y = _tile_grid()
    clear, alpha, before = np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32)
    worth, behind = np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32)
    upstream = np.empty((channels + 1, _PIXELS), np.float32)
    for tile in range(first, last):
        left, top = tile % columns * TILE, tile // columns * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        _open_tile(clear, wide, high)
        upstream[:] = _ZERO
        behind[:] = _ZERO
        for row in range(high):
            for column in range(wide):
                at = row * TILE + column
                upstream[channels, at] = to_coverage[top + row, left + column]
                total = to_coverage[top + row, left + column] * coverage[top + row, left + column]
                for channel in range(channels):
                    upstream[channel, at] = to_out[channel, top + row, left + column]
                    total += to_out[channel, top + row, left + column] * out[channel, top + row, left + column]
                behind[at] = total
        for slot in range(start[tile], start[tile + 1]):
            gradients[slot, :] = _ZERO
        for slot in range(start[tile], start[tile + 1]):
            if (slot - start[tile]) % _CHECK_EVERY == 0 and clear.max() <= _ZERO:
                break
            rank = ranks[slot]
            begin, end = _rows_touched(packed, rank, top)
            if begin >= end:
                continue
            _blend(packed, rank, left, top, x, y, begin, end, clear, alpha, before)
            _copy(upstream, channels, begin, end, worth)
            for channel in range(channels):
                _scale_and_add(values[rank, channel], upstream, channel, begin, end, worth)
            s, sx, sy, sxx, sxy, syy = _exponent_gradients(
                packed, rank, left, top, x, y, begin, end, worth, behind, alpha, before
            )
            a, b, c = packed[rank, 2], packed[rank, 3], packed[rank, 4]
            gradients[slot, 0] = -(a * sx + b * sy)
            gradients[slot, 1] = -(b * sx + c * sy)
            gradients[slot, 2] = _HALF * sxx
            gradients[slot, 3] = sxy
            gradients[slot, 4] = _HALF * syy
            gradients[slot, 5] = -s * packed[rank, 7]
            for channel in range(channels):
                gradients[slot, SHAPE_GRADIENTS + channel] = _weighted_sum(upstream, channel, begin, end, alpha, before)


@_compiled
@no_type_check
def sum_pairs(ranks, gradients, index, to_pixel, to_conic, to_opacities, to_values):
    """Add the gradients of the pairs to their splats, in the order of the tiles. O(pairs × c)."""
    channels = to_values.shape[1]
    for slot in range(ranks.shape[0]):
        i = index[ranks[slot]]
        to_pixel[i, 0] += gradients[slot, 0]
        to_pixel[i, 1] += gradients[slot, 1]
        to_conic[i, 0] += gradients[slot, 2]
        to_conic[i, 1] += gradients[slot, 3]
        to_conic[i, 2] += gradients[slot, 4]
        to_opacities[i] += gradients[slot, 5]
        for channel in range(channels):
            to_values[i, channel] += gradients[slot, SHAPE_GRADIENTS + channel]


@_vectorised
@no_type_check
def _tile_grid():
    """Centres of a tile's pixels from its corner."""
    x, y = np.empty(_PIXELS, np.float32), np.empty(_PIXELS, np.float32)
    for i in range(_PIXELS):
        x[i] = np.float32(i % TILE) + _HALF
        y[i] = np.float32(i // TILE) + _HALF
    return x, y


@_vectorised
@no_type_check
def _open_tile(clear, wide, high):
    """Everything shines through, but nothing where the tile overhangs the image."""
    clear[:] = _ZERO
    for row in range(high):
        clear[row * TILE : row * TILE + wide] = _ONE


@_inlined
@no_type_check
def _rows_touched(packed, rank, top):
    """The range of a tile's pixels in whose rows the splat has an alpha of at least 1/255 somewhere."""
    a, b, c = packed[rank, 2], packed[rank, 3], packed[rank, 4]
    half = np.sqrt(_TWO * packed[rank, 6] * a / (a * c - b * b))
    middle = packed[rank, 1] - _HALF - np.float32(top)
    first = max(np.ceil(middle - half), _ZERO)
    last = min(np.floor(middle + half), np.float32(TILE - 1))
    return np.uint64(int(first) * TILE), np.uint64(int(last + _ONE) * TILE)


@_inlined
@no_type_check
def _blend(packed, rank, left, top, x, y, begin, end, clear, alpha, before):
    """Take a splat's light out of `clear`: its alpha, and what shone through before it; 0 where it does not count.

    `clear` > 0 is what shines through; at the first splat that would leave no more than 1e-4 the sign turns, and
    neither it nor any further one counts.
    """
    centre_x, centre_y = packed[rank, 0] - np.float32(left), packed[rank, 1] - np.float32(top)
    a, b, c = _HALF * packed[rank, 2], packed[rank, 3], _HALF * packed[rank, 4]
    opacity, limit = packed[rank, 5], packed[rank, 6]
    for i in range(begin, end):
        dx, dy = x[i] - centre_x, y[i] - centre_y
        exponent = a * dx * dx + c * dy * dy + b * dx * dy
        t = exponent * _EIGHTH
        falloff = _E0 + t * (_E1 + t * (_E2 + t * (_E3 + t * (_E4 + t * _E5))))
        falloff *= falloff
        falloff *= falloff
        falloff *= falloff
        value = min(opacity * falloff, _ALPHA_CAP)
        value = value if exponent <= limit else _ZERO
        now = clear[i]
        rest = now * (_ONE - value)
        counts = rest > _OPAQUE
        clear[i] = rest if counts else -abs(now)
        alpha[i] = value if counts else _ZERO
        before[i] = now if counts else _ZERO


@_inlined
@no_type_check
def _add(value, alpha, before, begin, end, sums, channel):
    for i in range(begin, end):
        sums[channel, i] += value * alpha[i] * before[i]


@_inlined
@no_type_check
def _copy(source, channel, begin, end, target):
    for i in range(begin, end):
        target[i] = source[channel, i]


@_inlined
@no_type_check
def _scale_and_add(factor, source, channel, begin, end, total):
    for i in range(begin, end):
        total[i] += factor * source[channel, i]


@_inlined
@no_type_check
def _weighted_sum(source, channel, begin, end, alpha, before):
    total = _ZERO
    for i in range(begin, end):
        total += source[channel, i] * alpha[i] * before[i]
    return total


@_inlined
@no_type_check
def _exponent_gradients(packed, rank, left, top, x, y, begin, end, worth, behind, alpha, before):
    """Sums over pixels of the gradient of the exponent, and of it times dx, dy, dx², dx dy, dy²; updates `behind`.

    `worth` is what a unit of the splat's weight gives the loss. An alpha at its cap has no gradient.
    """
    centre_x, centre_y = packed[rank, 0] - np.float32(left), packed[rank, 1] - np.float32(top)
    s, sx, sy, sxx, sxy, syy = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(begin, end):
        value, light = alpha[i], before[i] * worth[i]
        rest = behind[i] - value * light
        behind[i] = rest
        gradient = value * (rest / (_ONE - value) - light)
        gradient = gradient if value < _ALPHA_CAP else _ZERO
        dx, dy = x[i] - centre_x, y[i] - centre_y
        s += gradient
        sx += gradient * dx
        sy += gradient * dy
        sxx += gradient * dx * dx
        sxy += gradient * dx * dy
        syy += gradient * dy * dy
    return s, sx, sy, sxx, sxy, syy
