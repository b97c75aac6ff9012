"""Compiled loops of the coverage rule. Serial, so a result depends on the inputs alone."""

from typing import no_type_check

import numpy as np
from numba import njit

_HALF_CELL = np.float32(0.5)
_LARGEST_SPLAT = np.float32(8)  # half the width of a point in a depth buffer, in cells, at most
_BEHIND = np.float32(1.05)  # a point is seen up to this many times the depth of the nearest one
_GRAZING = 0.2  # cosine to the normal below which a view of a surface loses worth


@njit(cache=True, error_model="numpy")
@no_type_check
def depth_buffers(points, normals, spacing, projections, inverses, centers, focals, height, width, wanted):
    """Per camera and cell: up to which depth a point is seen (infinite where nothing is), and which is nearest.

    A point is a patch of its surface's plane, as far as `spacing` along each axis of the camera; it faces the camera
    where it has no normal. It covers the cells whose centres show the patch, and always the cell that it lies in.
    """
    n = len(projections)
    limits = np.full((n, height, width), np.inf, np.float32)
    owners = np.full((n, height, width), -1, np.int32)
    nearest = np.empty((height, width), np.float32)
    known = np.zeros((height + 2, width + 2), np.float32)
    across = np.empty((height + 2, width), np.float32)
    xs, ys, zs = points.T.copy()
    us, vs, depths, halves = np.empty((4, len(points)), np.float32)
    inside = np.empty(len(points), np.int32)
    for i in range(n):
        if not wanted[i]:
            continue
        m, inv = projections[i], inverses[i]
        nearest[:] = np.inf
        for j in range(len(points)):
            depths[j] = m[2, 0] * xs[j] + m[2, 1] * ys[j] + m[2, 2] * zs[j] + m[2, 3]
            us[j] = (m[0, 0] * xs[j] + m[0, 1] * ys[j] + m[0, 2] * zs[j] + m[0, 3]) / depths[j]
            vs[j] = (m[1, 0] * xs[j] + m[1, 1] * ys[j] + m[1, 2] * zs[j] + m[1, 3]) / depths[j]
            halves[j] = min(max(spacing[j] * focals[i] / depths[j], _HALF_CELL), _LARGEST_SPLAT)
        count = 0
        for j in range(len(points)):
            inside[count] = j
            count += (
                (depths[j] > 0)
                & (us[j] + halves[j] >= _HALF_CELL)
                & (us[j] - halves[j] <= width - _HALF_CELL)
                & (vs[j] + halves[j] >= _HALF_CELL)
                & (vs[j] - halves[j] <= height - _HALF_CELL)
            )
        for j in inside[:count]:
            depth, half, u, v = depths[j], halves[j], us[j], vs[j]
            if 0 <= u < width and 0 <= v < height and depth < nearest[int(v), int(u)]:
                nearest[int(v), int(u)] = depth
                owners[i, int(v), int(u)] = j
            # On a plane 1 / depth is affine in the image: a u + b v + c.
            a, b, c = np.float32(0), np.float32(0), np.float32(1) / depth
            nx, ny, nz = normals[j, 0], normals[j, 1], normals[j, 2]
            if nx != 0 or ny != 0 or nz != 0:
                off = nx * (xs[j] - centers[i, 0]) + ny * (ys[j] - centers[i, 1]) + nz * (zs[j] - centers[i, 2])
                a = (nx * inv[0, 0] + ny * inv[1, 0] + nz * inv[2, 0]) / off
                b = (nx * inv[0, 1] + ny * inv[1, 1] + nz * inv[2, 1]) / off
                c = (nx * inv[0, 2] + ny * inv[1, 2] + nz * inv[2, 2]) / off
            columns = range(max(int(u - half + _HALF_CELL), 0), min(int(u + half - _HALF_CELL), width - 1) + 1)
            for row in range(max(int(v - half + _HALF_CELL), 0), min(int(v + half - _HALF_CELL), height - 1) + 1):
                along = b * (np.float32(row) + _HALF_CELL) + c
                for column in columns:
                    here = np.float32(1) / (a * (np.float32(column) + _HALF_CELL) + along)
                    if abs(here - depth) <= spacing[j] and 0 < here < nearest[row, column]:
                        nearest[row, column] = here
                        owners[i, row, column] = j
        for row in range(height):
            for column in range(width):
                known[row + 1, column + 1] = nearest[row, column] if nearest[row, column] < np.inf else 0
        for row in range(height + 2):
            for column in range(width):
                across[row, column] = max(known[row, column], known[row, column + 1], known[row, column + 2])
        for row in range(height):
            for column in range(width):
                if nearest[row, column] < np.inf:
                    farthest = max(across[row, column], across[row + 1, column], across[row + 2, column])
                    limits[i, row, column] = farthest * _BEHIND
    return limits, owners


@njit(cache=True, error_model="numpy")
@no_type_check
def _cell(point, m, height, width):
    """Row, column and depth of a point in a camera; row −1 where the image does not have it."""
    x, y, z = point[0], point[1], point[2]
    depth = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
    if depth <= 0:
        return -1, -1, depth
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / depth
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / depth
    if not (0 <= u < width and 0 <= v < height):
        return -1, -1, depth
    return int(v), int(u), depth


@njit(cache=True, error_model="numpy")
@no_type_check
def visible_only(samples, points, projections, limits):
    """Replace by −1 the samples that their own camera does not see by the test that the bank cameras must pass."""
    height, width = limits.shape[1:]
    kept = np.full_like(samples, -1)
    for t in range(len(samples)):
        for s in range(samples.shape[1]):
            j = samples[t, s]
            if j >= 0:
                row, column, depth = _cell(points[j], projections[t], height, width)
                if row >= 0 and depth <= limits[t, row, column]:
                    kept[t, s] = j
    return kept


@njit(cache=True, error_model="numpy")
@no_type_check
def sees_any(samples, points, projections, height, width):
    """Per camera whether its image has any of the samples: the others need no depth buffer."""
    useful = np.zeros(len(projections), np.bool_)
    for i in range(len(projections)):
        for j in samples.flat:
            if j >= 0 and _cell(points[j], projections[i], height, width)[0] >= 0:
                useful[i] = True
                break
    return useful


@njit(cache=True, error_model="numpy")
@no_type_check
def mean_worth(samples, points, normals, weights, target_centers, target_focals, projections, centers, focals, limits):
    """Weighted mean worth of the samples of each target for each bank camera."""
    height, width = limits.shape[1:]
    scores = np.zeros((len(samples), len(projections)), np.float64)
    for t in range(len(samples)):
        total = 0.0
        for j in samples[t]:
            if j < 0:
                continue
            total += weights[j]
            point, normal = points[j], normals[j]
            to_target = target_centers[t] - point
            target_distance = np.sqrt(np.sum(to_target * to_target))
            target_cosine = np.sum(normal * to_target) / target_distance
            side = 1.0 if target_cosine > 0 else -1.0
            full = min(_GRAZING, abs(target_cosine))
            for i in range(len(projections)):
                row, column, depth = _cell(point, projections[i], height, width)
                if row < 0 or depth > limits[i, row, column]:
                    continue
                a, b, c = centers[i, 0] - point[0], centers[i, 1] - point[1], centers[i, 2] - point[2]
                distance = np.sqrt(a * a + b * b + c * c)
                worth = 1.0
                if full > 0:
                    cosine = side * (normal[0] * a + normal[1] * b + normal[2] * c) / distance
                    worth = min(max(cosine / full, 0.0), 1.0)
                between = (to_target[0] * a + to_target[1] * b + to_target[2] * c) / (target_distance * distance)
                ratio = (focals[i] / distance) / (target_focals[t] / target_distance)
                worth *= min(0.5 + 0.5 * between, 1.0) * np.sqrt(min(ratio, 1 / ratio))
                scores[t, i] += weights[j] * worth
        if total > 0:
            scores[t] /= total
    return scores
