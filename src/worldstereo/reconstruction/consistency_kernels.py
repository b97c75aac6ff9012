"""The compiled loops of multi-view votes: serial, the lock of the interpreter released."""

from typing import no_type_check

import numpy as np
from numba import njit

_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
@no_type_check
def count_votes(
    depth,
    image,
    rays,
    depths,
    images,
    there_from_here,
    intrinsics,
    tolerance,
    color_sigma,
    support,
    against,
    gain,
):
    """Ask other frames about every pixel's surface.

    Args:
        depth: [h, w], 0 = unknown.
        image: [h, w, 3].
        rays: [h, w, 3], of z = 1, in the frame's own axes.
        depths: [n, h, w] of the other frames.
        images: [n, h, w, 3].
        there_from_here: [n, 3, 4].
        intrinsics: [n, 3, 3].
        tolerance: relative depth difference of one standard deviation.
        color_sigma: mean absolute colour difference of one standard deviation.
        support: [h, w] out, sum of weights of frames that see the surface where it is said to be.
        against: [h, w] out, number of frames that see past it.
        gain: [h, w] out, weighted sum of log(depth that the others say / depth).
    """
    height, width = depth.shape
    others = len(depths)
    reach = 3 * tolerance
    for row in range(height):
        for column in range(width):
            z0 = depth[row, column]
            if z0 <= 0:
                continue
            x0, y0 = rays[row, column, 0] * z0, rays[row, column, 1] * z0
            for j in range(others):
                pose = there_from_here[j]
                x = pose[0, 0] * x0 + pose[0, 1] * y0 + pose[0, 2] * z0 + pose[0, 3]
                y = pose[1, 0] * x0 + pose[1, 1] * y0 + pose[1, 2] * z0 + pose[1, 3]
                z = pose[2, 0] * x0 + pose[2, 1] * y0 + pose[2, 2] * z0 + pose[2, 3]
                if z <= np.float32(1e-6):
                    continue
                k = intrinsics[j]
                u = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2] - np.float32(0.5)
                v = k[1, 1] * y / z + k[1, 2] - np.float32(0.5)
                if u < 0 or v < 0 or u >= width - 1 or v >= height - 1:
                    continue
                c, r = int(u), int(v)
                d00, d01 = depths[j, r, c], depths[j, r, c + 1]
                d10, d11 = depths[j, r + 1, c], depths[j, r + 1, c + 1]
                low, high = min(min(d00, d01), min(d10, d11)), max(max(d00, d01), max(d10, d11))
                if low <= 0:
                    continue
                if low > z * (1 + reach):
                    against[row, column] += 1
                    continue
                if high < z * (1 - reach):
                    continue
                fu, fv = u - c, v - r
                w00, w01, w10, w11 = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
                if high < low * (1 + reach):
                    seen = 1 / (w00 / d00 + w01 / d01 + w10 / d10 + w11 / d11)
                else:
                    seen = d00
                    for other in (d01, d10, d11):
                        if abs(other - z) < abs(seen - z):
                            seen = other
                error = np.log(seen / z)
                if abs(error) > reach:
                    continue
                difference = np.float32(0)
                for channel in range(3):
                    color = (
                        w00 * images[j, r, c, channel]
                        + w01 * images[j, r, c + 1, channel]
                        + w10 * images[j, r + 1, c, channel]
                        + w11 * images[j, r + 1, c + 1, channel]
                    )
                    difference += abs(color - image[row, column, channel])
                difference /= np.float32(3) * color_sigma
                weight = np.exp(-np.float32(0.5) * ((error / tolerance) ** 2 + difference**2))
                # the other's point lies on the other's ray; moved along it by `seen - z`, its depth here changes by
                # as much of that as both axes share
                step = (seen - z) / z
                back = (pose[0, 2] * x + pose[1, 2] * y + pose[2, 2] * z) * step
                said = z0 + back
                if said <= 0:
                    continue
                support[row, column] += weight
                gain[row, column] += weight * np.log(said / z0)


@_compiled
@no_type_check
def pixel_normals(depth, rays, normals):
    """Unit normals [h, w, 3] towards the camera, in its axes, of the flatter side's differences; 0 where unknown."""
    height, width = depth.shape
    for row in range(height):
        for column in range(width):
            z = depth[row, column]
            if z <= 0:
                continue
            edges = np.zeros((2, 3), np.float32)
            found = True
            for axis in range(2):
                best = np.float32(np.inf)
                for sign in (-1, 1):
                    r = row + (sign if axis == 0 else 0)
                    c = column + (sign if axis == 1 else 0)
                    if r < 0 or c < 0 or r >= height or c >= width or depth[r, c] <= 0:
                        continue
                    change = abs(depth[r, c] - z)
                    if change < best:
                        best = change
                        for k in range(3):
                            edges[axis, k] = sign * (depth[r, c] * rays[r, c, k] - z * rays[row, column, k])
                found = found and np.isfinite(best)
            if not found:
                continue
            down, right = edges[0], edges[1]
            nx = down[1] * right[2] - down[2] * right[1]
            ny = down[2] * right[0] - down[0] * right[2]
            nz = down[0] * right[1] - down[1] * right[0]
            size = np.sqrt(nx * nx + ny * ny + nz * nz)
            if size <= 0:
                continue
            ray = rays[row, column]
            sign = np.float32(-1) if nx * ray[0] + ny * ray[1] + nz * ray[2] > 0 else np.float32(1)
            normals[row, column, 0] = sign * nx / size
            normals[row, column, 1] = sign * ny / size
            normals[row, column, 2] = sign * nz / size
