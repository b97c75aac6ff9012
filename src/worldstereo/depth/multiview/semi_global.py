"""Smooth labels of pixels: semi-global matching."""

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_BEND = 0.3
_JUMP = 3.0
_EDGE = 12.0
_TINY = 1e-6
_DIRECTIONS = tuple(step for step in product((-1, 0, 1), repeat=2) if step != (0, 0))


def smooth_labels(costs: Float[Tensor, "h w k"], grey: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Of each pixel the label, to a fraction, that costs least together with its surroundings.

    A change by one label between neighbours costs 0.3, by more 3; across an edge of the picture less, down to 0.3.
    Costs are summed along paths from eight directions; a parabola through the least sum and its two neighbours gives
    the fraction. O(h · w · k), on the CPU.

    Source: Hirschmüller, "Stereo processing by semiglobal matching and mutual information", TPAMI 2008.

    Args:
        costs: of labels 0 to k − 1 in order, at least three; 1 is what the clearest match saves.
        grey: the picture, in [0, 1].
    """
    from worldstereo.depth.multiview import semi_global_kernels as kernels

    values = costs.cpu().contiguous().numpy()
    total = np.zeros_like(values)
    for row_step, column_step in _DIRECTIONS:
        edge = (grey - torch.roll(grey, (row_step, column_step), (0, 1))).abs()
        jump = _BEND + (_JUMP - _BEND) * torch.exp(-_EDGE * edge)
        kernels.add_path_costs(values, jump.cpu().numpy(), row_step, column_step, np.float32(_BEND), total)
    return _least(torch.from_numpy(total)).to(costs.device)


def _least(total: Float[Tensor, "h w k"]) -> Float[Tensor, "h w"]:
    inner = total.argmin(dim=2, keepdim=True).clamp(1, total.shape[2] - 2)
    left, middle, right = (total.gather(2, inner + shift)[..., 0] for shift in (-1, 0, 1))
    bend = (left + right - 2 * middle).clamp(min=_TINY)
    return inner[..., 0] + (0.5 * (left - right) / bend).clamp(-1, 1)
