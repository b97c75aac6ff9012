"""The compiled loops of the truncated signed distance field, the lock of the interpreter released."""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")

SIDE = 8
"""Voxels along the side of a block."""


@_compiled
@no_type_check
def integrate(first, last, corners, voxel, band, depth, confidence, pose, k, distance, weight):
    """Add one frame to the blocks `first` to `last`.

    Args:
        corners: [b, 3], the block's lowest corner in world units.
        band: truncation distance in world units.
        depth: [h, w], 0 = unknown.
        confidence: [h, w], weight of a pixel.
        pose: [3, 4] cam from world.
        k: [3, 3].
        distance: [b, 8, 8, 8] weighted mean of signed distance / band in [-1, 1], positive on the free side.
        weight: [b, 8, 8, 8].
    """
    height, width = depth.shape
    half = np.float32(0.5) * SIDE * voxel
    radius = half * np.float32(1.7321) + band
    for b in range(first, last):
        mx, my, mz = corners[b, 0] + half, corners[b, 1] + half, corners[b, 2] + half
        z = pose[2, 0] * mx + pose[2, 1] * my + pose[2, 2] * mz + pose[2, 3]
        if z < -radius:
            continue
        if z > radius:
            x = pose[0, 0] * mx + pose[0, 1] * my + pose[0, 2] * mz + pose[0, 3]
            y = pose[1, 0] * mx + pose[1, 1] * my + pose[1, 2] * mz + pose[1, 3]
            u, v = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
            margin = np.float32(2) * radius / (z - radius) * max(k[0, 0], k[1, 1])
            if u < -margin or v < -margin or u > width + margin or v > height + margin:
                continue
        for i in range(SIDE):
            wx = corners[b, 0] + (i + np.float32(0.5)) * voxel
            for j in range(SIDE):
                wy = corners[b, 1] + (j + np.float32(0.5)) * voxel
                for n in range(SIDE):
                    wz = corners[b, 2] + (n + np.float32(0.5)) * voxel
                    z = pose[2, 0] * wx + pose[2, 1] * wy + pose[2, 2] * wz + pose[2, 3]
                    if z <= np.float32(1e-6):
                        continue
                    x = pose[0, 0] * wx + pose[0, 1] * wy + pose[0, 2] * wz + pose[0, 3]
                    y = pose[1, 0] * wx + pose[1, 1] * wy + pose[1, 2] * wz + pose[1, 3]
                    u = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2]
                    v = k[1, 1] * y / z + k[1, 2]
                    if u < 0 or v < 0 or u >= width or v >= height:
                        continue
                    r, c = int(v), int(u)
                    seen = depth[r, c]
                    if seen <= 0:
                        continue
                    ahead = seen - z
                    if ahead < -band:
                        continue
                    share = min(ahead / band, np.float32(1))
                    w = confidence[r, c]
                    total = weight[b, i, j, n] + w
                    if total > 0:
                        distance[b, i, j, n] += (share - distance[b, i, j, n]) * w / total
                        weight[b, i, j, n] = total
