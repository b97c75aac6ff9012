"""Edge-aware enlargement of a small depth map to the size of its picture."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_COLOR_SIGMA = 0.06
_EDGE_RATIO = 1.06
_LEAST_WEIGHT = 1e-6


def upsample_log_depth(
    log_depth: Float[Tensor, "h w"], image: Float[Tensor, "3 height width"], small_image: Float[Tensor, "3 h w"]
) -> Float[Tensor, "height width"]:
    """Log-depth at the picture's size: planes stay planes, depth edges follow the picture's.

    Every small pixel carries its disparity and the slope of the flatter side, so that it predicts the disparity of
    the plane through it (planes are linear in disparity). A full-size pixel takes the mean of the 3×3 predictions
    around it, weighted by distance and likeness of colour (joint bilateral upsampling, Kopf et al. 2007). Where they
    disagree by more than 6 % there is an edge: then only the nearer or the farther group counts, whichever has more
    weight, so that no pixel floats between two surfaces. 18 passes over the full-size pixels.
    """
    disparity = torch.exp(-log_depth)
    slope_y, slope_x = _slope(disparity, 0), _slope(disparity, 1)

    def predicted(r: Tensor, c: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        value = disparity[r, c] + slope_y[r, c] * dy + slope_x[r, c] * dx
        return value.clamp(0.5 * disparity[r, c], 2 * disparity[r, c])

    low = image.new_full(image.shape[1:], torch.inf)
    high = -low
    for place, _ in _neighbours(image, small_image):
        value = predicted(*place)
        low, high = torch.minimum(low, value), torch.maximum(high, value)
    middle = (low * high).sqrt()
    sums = image.new_zeros(4, *image.shape[1:])
    for place, weight in _neighbours(image, small_image):
        value = predicted(*place)
        near = (value > middle).to(value.dtype)
        sums += torch.stack([weight * value * near, weight * near, weight * value * (1 - near), weight * (1 - near)])
    near_sum, near_weight, far_sum, far_weight = sums
    near_wins = near_weight > far_weight
    one_side = torch.where(near_wins, near_sum, far_sum) / torch.where(near_wins, near_weight, far_weight)
    both = (near_sum + far_sum) / (near_weight + far_weight)
    return -torch.where(high > _EDGE_RATIO * low, one_side, both).log()


def upsample_logit(
    logit: Float[Tensor, "h w"], image: Float[Tensor, "3 height width"], small_image: Float[Tensor, "3 h w"]
) -> Float[Tensor, "height width"]:
    """A logit at the picture's size: the mean of the 3×3 around, weighted by distance and likeness of colour."""
    total, mass = image.new_zeros(image.shape[1:]), image.new_zeros(image.shape[1:])
    for (r, c, _, _), weight in _neighbours(image, small_image):
        total, mass = total + weight * logit[r, c], mass + weight
    return total / mass


def _neighbours(
    image: Float[Tensor, "3 height width"], small_image: Float[Tensor, "3 h w"]
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor, Tensor], Float[Tensor, "height width"]]]:
    """The 3×3 small pixels around each full-size pixel, one at a time.

    Yields the row, column and signed distances (in small pixels) of the full-size pixel from it, which broadcast to
    the full size, and the weight.
    """
    (height, width), (rows, columns) = image.shape[1:], small_image.shape[1:]
    y = (torch.arange(height, device=image.device) + 0.5) * rows / height - 0.5
    x = (torch.arange(width, device=image.device) + 0.5) * columns / width - 0.5
    base_y, base_x = y.round().clamp(0, rows - 1).long(), x.round().clamp(0, columns - 1).long()
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            r, c = (base_y + step_y).clamp(0, rows - 1)[:, None], (base_x + step_x).clamp(0, columns - 1)[None]
            dy, dx = y[:, None] - r, x[None] - c
            difference = (image - small_image[:, r, c]).square().sum(dim=0)
            weight = torch.exp(-difference / (2 * _COLOR_SIGMA**2) - (dy.square() + dx.square())) + _LEAST_WEIGHT
            yield (r, c, dy, dx), weight


def _slope(disparity: Float[Tensor, "h w"], dim: int) -> Float[Tensor, "h w"]:
    """Per-pixel difference along `dim`: of the two one-sided ones the smaller (0 if they differ in sign)."""
    forward = torch.diff(disparity, dim=dim)
    first, last = forward.narrow(dim, 0, 1), forward.narrow(dim, forward.shape[dim] - 1, 1)
    before, after = torch.cat([first, forward], dim=dim), torch.cat([forward, last], dim=dim)
    smaller = torch.where(before.abs() < after.abs(), before, after)
    return torch.where(before * after > 0, smaller, 0.0)
