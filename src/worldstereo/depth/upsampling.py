"""Edge-aware enlargement of a small depth map to the size of its picture."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_COLOR_SIGMA = 0.06
_EDGE_RATIO = 1.06


def upsample_log_depth(
    log_depth: Float[Tensor, "h w"], image: Float[Tensor, "3 height width"], small_image: Float[Tensor, "3 h w"]
) -> Float[Tensor, "height width"]:
    """Log-depth at the picture's size: planes stay planes, depth edges follow the picture's.

    Every small pixel carries its disparity and the slope of the flatter side, so that it predicts the disparity of
    the plane through it (planes are linear in disparity). A full-size pixel takes the mean of the 3×3 predictions
    around it, weighted by distance and likeness of colour (joint bilateral upsampling, Kopf et al. 2007). Where they
    disagree by more than 6 % there is an edge: then only the nearer or the farther group counts, whichever has more
    weight, so that no pixel floats between two surfaces. One compiled pass over the full-size pixels, on the CPU.
    """
    from worldstereo.depth.upsampling_kernels import enlarge_disparity

    disparity = torch.exp(-log_depth)
    small = (disparity, _slope(disparity, 0), _slope(disparity, 1))
    arrays = [np.ascontiguousarray(value.cpu().numpy()) for value in (*small, image, small_image)]
    enlarged = np.empty(tuple(image.shape[1:]), np.float32)
    bands = torch.linspace(0, len(enlarged), torch.get_num_threads() + 1).long().tolist()
    with ThreadPoolExecutor(len(bands) - 1) as pool:
        done = [
            pool.submit(enlarge_disparity, *arrays, _COLOR_SIGMA, _EDGE_RATIO, first, last, enlarged)
            for first, last in pairwise(bands)
        ]
        for band in done:
            band.result()
    return -torch.from_numpy(enlarged).to(image.device).log()


def upsample_mask(logit: Float[Tensor, "h w"], height: int, width: int) -> Float[Tensor, "height width"]:
    """Bilinear enlargement of a logit."""
    return F.interpolate(logit[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def _slope(disparity: Float[Tensor, "h w"], dim: int) -> Float[Tensor, "h w"]:
    """Per-pixel difference along `dim`: of the two one-sided ones the smaller (0 if they differ in sign)."""
    forward = torch.diff(disparity, dim=dim)
    first, last = forward.narrow(dim, 0, 1), forward.narrow(dim, forward.shape[dim] - 1, 1)
    before, after = torch.cat([first, forward], dim=dim), torch.cat([forward, last], dim=dim)
    smaller = torch.where(before.abs() < after.abs(), before, after)
    return torch.where(before * after > 0, smaller, 0.0)
