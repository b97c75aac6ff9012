"""Multi-view stereo on the exact cameras, around the aligned depth, from coarse to fine."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.geometry.inpainting import pull_push
from worldstereo.reconstruction.plane_sweep import Likeness, plane_sweep

LEAST_SCORE = 0.6
LEAST_LEAD = 0.05
_LEVELS = ((4, 30, 0.025), (2, 4, 0.01), (1, 2, 0.004))
"""Reduction of the pictures (`reduced_size`), hypotheses on each side, and their step in log depth."""
_LEAST_SIDE = 100
_COMPANY = 4
_WORSE = 0.003
_BLUR = 15
_CELL = 16
_DENSE = 0.02


def refine_depth(
    image: Float[Tensor, "3 h w"],
    depth: Float[Tensor, "h w"],
    camera: Cameras,
    images: Float[Tensor, "n 3 h w"],
    cameras: Cameras,
) -> Float[Tensor, "h w"]:
    """Depth corrected where texture tells, and smoothly in between.

    Three sweeps (`plane_sweep`) at a quarter, half and all of the resolution, by factors up to 2, 1.04 and 1.008 from
    what is known by then. Where the best hypothesis is clear (correlation above 0.6, 0.05 above all that are not beside
    it, and at least 4 of 3×3 pixels so), its correction counts, the median of its 3×3 neighbourhood; elsewhere the
    correction of the surroundings (pull–push), so that a back-end's shape stays and its scale bends to what texture
    shows. Where fewer than 2 % of the pixels around are clear, it is corrected by less; where the corrected depth looks
    less alike in the other frames than the depth before, it is not.

    Args:
        depth: z-depth, 0 = unknown; stays unknown.
        images: other frames that overlap.
        cameras: theirs.
    """
    known = depth > 0
    if not bool(known.any()) or len(cameras) == 0:
        return depth
    log_depth = _filled(depth.clamp(min=1e-12).log(), known)
    height, width = depth.shape
    for reduction, steps, step in _LEVELS:
        size = reduced_size(height, width, reduction)
        own, others = camera.resized(size[1], size[0]), cameras.resized(size[1], size[0])
        pictures = (_reduced(image[None], size)[0], own, _reduced(images, size), others)
        correction = _correction(_resized(log_depth, size), _resized(known.float(), size) > 0.99, pictures, steps, step)
        log_depth = log_depth + _resized(correction, (height, width))
    return torch.where(known, log_depth.exp(), 0.0)


def reduced_size(height: int, width: int, reduction: int) -> tuple[int, int]:
    """Rows and columns after a reduction; by less where it would leave fewer than 100 rows or columns."""
    factor = max(1, min(reduction, min(height, width) // _LEAST_SIDE))
    return height // factor, width // factor


def _correction(
    log_depth: Float[Tensor, "h w"],
    known: Bool[Tensor, "h w"],
    pictures: tuple[Tensor, Cameras, Tensor, Cameras],
    steps: int,
    step: float,
) -> Float[Tensor, "h w"]:
    """What to add to the log depth: clear corrections, spread, where they make the frames more alike."""
    image, camera, images, cameras = pictures
    factors = (torch.arange(-steps, steps + 1, device=log_depth.device) * step).exp()
    sweep = plane_sweep(image, log_depth.exp(), camera, images, cameras, factors)
    clear = known & (sweep.score > LEAST_SCORE) & (sweep.lead > LEAST_LEAD)
    clear &= _around(clear.float(), 3) * 9 > _COMPANY - 0.5
    if not bool(clear.any()):
        return torch.zeros_like(log_depth)
    spread = _filled(_medians(sweep.offset, clear), clear)
    likeness = Likeness(image, camera, images, cameras)
    gain = likeness((log_depth + spread).exp()) - likeness(log_depth.exp())
    accepted = _around(gain, _BLUR) > -_WORSE
    return spread * _around(accepted.float(), _BLUR) * (_density(clear) / _DENSE).clamp(max=1)


def _density(clear: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The share of clear pixels within some 80 pixels around."""
    height, width = clear.shape
    small = (max(height // _CELL, 1), max(width // _CELL, 1))
    share = functional.interpolate(clear.float()[None, None], small, mode="area")[0, 0]
    return _resized(_around(share, 5), (height, width))


def _around(values: Float[Tensor, "h w"], window: int) -> Float[Tensor, "h w"]:
    """Means over windows."""
    pooled = functional.avg_pool2d(values[None, None], window, 1, window // 2, count_include_pad=False)
    return pooled[0, 0]


def _resized(values: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "h2 w2"]:
    return functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _reduced(images: Float[Tensor, "n 3 h w"], size: tuple[int, int]) -> Float[Tensor, "n 3 h2 w2"]:
    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size, mode="area")


def _filled(values: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return pull_push(values[None, None], known[None, None], torch.ones_like(values)[None, None])[0, 0]


def _medians(values: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The median of the known values within 3×3 pixels; 0 where there is none."""
    padded = functional.pad(torch.where(known, values, torch.nan)[None, None], (1, 1, 1, 1), value=torch.nan)
    around = functional.unfold(padded, 3).view(9, *values.shape)
    return around.nanmedian(dim=0).values.nan_to_num()
