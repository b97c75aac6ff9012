"""The scale of depth, from cameras that move."""

from math import cos, radians

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.depth.multiview.likeness import LEAST_TEXTURE, Likeness
from worldstereo.depth.multiview.refinement import reduced_size

_REDUCTION = 4
_DISTANCES = (0.5, 300.0)  # the median depth, in medians of the distance to the nearest camera
_FACTORS = 72
_NEAREST = 3
_SEE_ALIKE = cos(radians(30.0))
_LEAST_SHARE = 0.01
_LEAST_GAIN = 0.02


def triangulated_scale(
    images: Float[Tensor, "n 3 h w"], cameras: Cameras, depth: Float[Tensor, "n h w"]
) -> float | None:
    """The one factor that brings the depth of all frames to the unit of the cameras; None where nothing tells it.

    For 72 factors by which the median depth is 0.5 to 300 times the distance between nearest cameras, every frame is
    compared with the three nearest that look the same way (`Likeness`, at a quarter of the resolution); the factor
    with the highest mean over all textured pixels wins. It has to beat depth at infinity by 0.02. O(n · pixels).

    Args:
        depth: z-depth of one unknown unit, 0 = unknown.
    """
    height, width = reduced_size(cameras.height, cameras.width, _REDUCTION)
    views = cameras.resized(width, height)
    small = functional.interpolate(images, (height, width), mode="area")
    shapes = functional.interpolate(depth[:, None], (height, width), mode="nearest-exact")[:, 0]
    nearest = [_nearest(cameras, index) for index in range(len(cameras))]
    known = depth[depth > 0]
    if len(known) == 0 or not any(nearest):
        return None
    away = torch.stack([_distances(cameras, index)[others[0]] for index, others in enumerate(nearest) if others])
    factors = (float(away.median()) / float(known.median()) * np.geomspace(*_DISTANCES, _FACTORS)).tolist()
    curves = [
        _curve(small[[index, *others]], views[[index, *others]], shapes[index], factors)
        for index, others in enumerate(nearest)
        if others
    ]
    told = [curve for curve in curves if curve is not None]
    if not told:
        return None
    curve = torch.stack(told).mean(dim=0)
    best = int(curve.argmax())
    beats = float(curve[best] - curve[-1]) > _LEAST_GAIN
    return factors[best] if beats and 0 < best < _FACTORS - 1 else None


def _distances(cameras: Cameras, index: int) -> Float[Tensor, " n"]:
    return (cameras.centers - cameras.centers[index]).norm(dim=1)


def _nearest(cameras: Cameras, index: int) -> list[int]:
    """The nearest cameras that look the same way from another place, each farther than the last by half."""
    away = _distances(cameras, index)
    alike = cameras.forward @ cameras.forward[index] > _SEE_ALIKE
    least = max(1e-4 * float(away.max()), 1e-6 * float(cameras.centers.norm(dim=1).max()), 1e-9)
    chosen: list[int] = []
    for other in away.argsort().tolist():
        if not alike[other] or float(away[other]) <= least:
            continue
        if not chosen or float(away[other]) > 1.5 * float(away[chosen[-1]]):
            chosen.append(other)
        if len(chosen) == _NEAREST:
            break
    return chosen


def _curve(
    images: Float[Tensor, "m 3 h w"], cameras: Cameras, shape: Float[Tensor, "h w"], factors: list[float]
) -> Float[Tensor, " k"] | None:
    """How alike the first picture is to the others for each factor; None where too little has texture."""
    pairs = [Likeness(images[0], cameras[0], images[[k]], cameras[[k]]) for k in range(1, len(images))]
    pixels = (shape > 0) & (pairs[0].texture > LEAST_TEXTURE)
    if float(pixels.float().mean()) < _LEAST_SHARE:
        return None
    depth = torch.where(shape > 0, shape, 1.0)
    means = [torch.stack([pair(depth * factor)[pixels].clamp(min=0).mean() for pair in pairs]) for factor in factors]
    return torch.stack(means).mean(dim=1)
