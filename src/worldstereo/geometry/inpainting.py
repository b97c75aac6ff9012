"""Filling holes from their surroundings, without a network."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12
_LEAST_DISPARITY = 1e-9
_SKY_ABOVE = 0.98  # of the known sky lies above its horizon
_SKY_FADE = 0.15  # of the height: so far below its horizon sky may go on, and twice as far below it has ended
_FARTHEST = 10.0  # ratio of depths beyond which pixels count no more


def pull_push(
    values: Float[Tensor, "n c h w"], known: Bool[Tensor, "n 1 h w"], importance: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n c h w"]:
    """Fill the unknown pixels by multi-scale pull–push (after Gortler et al., The Lumigraph, SIGGRAPH 1996, §3.4).

    Pull: each coarser level holds the mean of the known ones of 2×2 finer pixels. Push: unknown pixels take the
    bilinearly enlarged coarser level. Both means are weighted by importance, so that a hole between an important
    and an unimportant side takes after the important one. Known pixels come back unchanged, constants are
    reproduced, and the result stays within the range of the known values. Linear in the number of pixels.

    Args:
        values: any channels; ignored where unknown.
        known: which pixels count.
        importance: > 0 where known; only ratios matter.

    Returns:
        The filled values; 0 if nothing at all is known.
    """
    weight = importance * known
    levels = [(torch.where(known, values, 0.0), weight, known)]
    while max(levels[-1][0].shape[-2:]) > 1:
        fine, weight, here = levels[-1]
        pad = (0, fine.shape[-1] % 2, 0, fine.shape[-2] % 2)
        mass = F.avg_pool2d(F.pad(weight, pad), 2)
        count = F.avg_pool2d(F.pad(here.to(values.dtype), pad), 2)
        mean = F.avg_pool2d(F.pad(fine * weight, pad), 2) / mass.clamp_min(_TINY)
        levels.append((mean, mass / count.clamp_min(_TINY), count > 0))
    filled, weight, _ = levels[-1]
    for fine, own_weight, here in reversed(levels[:-1]):
        pushed = F.interpolate(weight, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        coarse = F.interpolate(filled * weight, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(here, fine, coarse / pushed.clamp_min(_TINY))
        weight = torch.where(here, own_weight, pushed)
    return filled


def continued_depth(depth: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The depth map with unknown pixels filled: the disparity around goes on, that of far surfaces first.

    Args:
        depth: z-depth; 0 where known stands for infinitely far, the sky.

    Returns:
        Depth > 0, at most 10⁹, known surfaces unchanged; the given map if it shows no surface at all.
    """
    surface = known & (depth > 0)
    if not bool(surface.any()):
        return depth
    disparity = torch.where(surface, 1 / depth.clamp(min=_LEAST_DISPARITY), 0.0)
    importance = background_importance(depth * known)
    filled = pull_push(disparity[None, None], known[None, None], importance[None, None])[0, 0]
    return torch.where(surface, depth, 1 / filled.clamp(min=_LEAST_DISPARITY))


def background_importance(depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Importance for `pull_push` that fills a hole between a near and a far surface from the far one.

    1 for the nearest surface, more for farther ones; sky, of depth 0, counts as the farthest.
    """
    surface = depth > 0
    if not bool(surface.any()):
        return torch.ones_like(depth)
    near = depth[surface].amin()
    far = _FARTHEST * near
    return (torch.where(surface, depth, far) / near).clamp(max=_FARTHEST) ** 2


def sky_share(depth: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """How much sky a pixel shows, from 0 to 1: known pixels none or all, holes as `pull_push` continues what is behind.

    Pictures are upright: from 0.15 of the height below the sky that is known (its lowest fiftieth left out) there is
    less and less of it in holes, and none from 0.3 on.

    Args:
        depth: z-depth; 0 where known is sky.
    """
    sky = (known & (depth <= 0)).to(depth.dtype)
    share = pull_push(sky[None, None], known[None, None], background_importance(depth)[None, None])[0, 0]
    height, rows = depth.shape[0], sky.sum(dim=1).cumsum(dim=0)
    below = torch.arange(height, device=depth.device) - (rows < _SKY_ABOVE * rows[-1]).sum()
    return torch.where(known, share, share * (2 - below / (_SKY_FADE * height)).clamp(0, 1)[:, None])
