"""Edge-aware enlargement of a small depth map, and of the sky's logit, to the size of their picture."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_COLOR_SIGMA = 0.06
_EDGE_RATIO = 1.06


def upsample_answers(
    log_depth: Float[Tensor, "h w"],
    logit: Float[Tensor, "h w"],
    image: Float[Tensor, "3 height width"],
    small_image: Float[Tensor, "3 h w"],
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """Log-depth and a logit at the picture's size: planes stay planes, edges follow the picture's.

    Every small pixel carries its disparity and the slope of the flatter side, so that it predicts the disparity of
    the plane through it (planes are linear in disparity). A full-size pixel takes the mean of the 3×3 predictions
    around it, weighted by distance and likeness of colour (joint bilateral upsampling, Kopf et al. 2007). Where they
    disagree by more than 6 % there is an edge: then only the nearer or the farther group counts, whichever has more
    weight, so that no pixel floats between two surfaces. The logit is the mean with the same weights, at edges too.
    One compiled pass over the full-size pixels, on the CPU.
    """
    from worldstereo.depth.upsampling_kernels import enlarge  # numba takes its time, and not every back-end needs it

    disparity = torch.exp(-log_depth)
    given = (disparity, _slope(disparity, 0), _slope(disparity, 1), logit, image, small_image)
    arrays = [np.ascontiguousarray(value.cpu().numpy()) for value in given]
    full_disparity, full_logit = (np.empty(tuple(image.shape[1:]), np.float32) for _ in range(2))
    enlarge(*arrays, _COLOR_SIGMA, _EDGE_RATIO, full_disparity, full_logit)
    device = image.device
    return -torch.from_numpy(full_disparity).to(device).log(), torch.from_numpy(full_logit).to(device)


def _slope(disparity: Float[Tensor, "h w"], dim: int) -> Float[Tensor, "h w"]:
    """Per-pixel difference along `dim`: of the two one-sided ones the smaller (0 if they differ in sign)."""
    forward = torch.diff(disparity, dim=dim)
    first, last = forward.narrow(dim, 0, 1), forward.narrow(dim, forward.shape[dim] - 1, 1)
    before, after = torch.cat([first, forward], dim=dim), torch.cat([forward, last], dim=dim)
    smaller = torch.where(before.abs() < after.abs(), before, after)
    return torch.where(before * after > 0, smaller, 0.0)
