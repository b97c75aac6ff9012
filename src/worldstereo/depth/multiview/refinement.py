"""Multi-view stereo on exact cameras, around a first depth."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.depth.multiview.likeness import LEAST_TEXTURE, Likeness
from worldstereo.depth.multiview.semi_global import smooth_labels
from worldstereo.geometry.inpainting import pull_push

_LEVELS = ((4, 30, 0.04), (4, 30, 0.04), (2, 12, 0.02))
"""Reduction of the pictures (`reduced_size`), hypotheses on each side, and their step in log depth."""
_LEAST_SIDE = 100
_TEXTURED = 0.03
_PRIOR = 0.1


def refine_depth(
    image: Float[Tensor, "3 h w"],
    depth: Float[Tensor, "h w"],
    camera: Cameras,
    images: Float[Tensor, "n 3 h w"],
    cameras: Cameras,
) -> Float[Tensor, "h w"]:
    """Depth corrected by what other frames show.

    From coarse to fine, the first depth times a range of factors (0.3 to 3.3, twice, then 0.8 to 1.3) is compared in
    the other frames (`Likeness`); semi-global matching (`smooth_labels`) chooses a factor for each pixel. So the
    first depth gives the shape where there is no texture, a smooth field of factors bends it to what texture shows,
    and jumps where the picture has edges. Windows follow the first depth, so that slanted surfaces stay sharp. O(n ·
    pixels · factors).

    Source: the space sweep of Collins (CVPR 1996) and Hirschmüller's smoothing, with the first depth's shape in place
    of planes.

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
        likeness = Likeness(_reduced(image[None], size)[0], own, _reduced(images, size), others)
        correction = _correction(_resized(log_depth, size), likeness, steps, step)
        log_depth = log_depth + _resized(correction, (height, width))
    return torch.where(known, log_depth.exp(), 0.0)


def reduced_size(height: int, width: int, reduction: int) -> tuple[int, int]:
    """Rows and columns after a reduction; by less where it would leave fewer than 100 rows or columns."""
    factor = max(1, min(reduction, min(height, width) // _LEAST_SIDE))
    return height // factor, width // factor


def _correction(log_depth: Float[Tensor, "h w"], likeness: Likeness, steps: int, step: float) -> Float[Tensor, "h w"]:
    """What to add to the log depth."""
    offsets = torch.arange(-steps, steps + 1, device=log_depth.device) * step
    scores = torch.stack([likeness((log_depth + offset).exp()) for offset in offsets], dim=2)
    trust = (likeness.texture / _TEXTURED).clamp(max=1)
    trust = torch.where(likeness.texture > LEAST_TEXTURE, trust, 0.0)
    costs = (1 - scores.clamp(min=0)) * trust[..., None] + _PRIOR * offsets.abs()
    return (smooth_labels(costs, likeness.grey) - steps) * step


def _resized(values: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "h2 w2"]:
    return functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _reduced(images: Float[Tensor, "n 3 h w"], size: tuple[int, int]) -> Float[Tensor, "n 3 h2 w2"]:
    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size, mode="area")


def _filled(values: Float[Tensor, "h w"], known: Tensor) -> Float[Tensor, "h w"]:
    return pull_push(values[None, None], known[None, None], torch.ones_like(values)[None, None])[0, 0]
