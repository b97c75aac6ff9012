"""To the size that a network takes and back, pixel by pixel: frames are resized as a whole, never cropped or padded."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from worldstereo.cameras import Cameras

_EDGE_RATIO = 1.05


def fit_network(
    images: Float[Tensor, "n 3 h w"], cameras: Cameras, *, long_side: int, multiple: int
) -> tuple[Float[Tensor, "n 3 h2 w2"], Cameras]:
    """Frames and their cameras with the longer side `long_side` and both sides multiples of `multiple`.

    The rounded side is stretched by at most half a multiple; the cameras follow exactly. Antialiased bicubic.
    """
    scale = long_side / max(cameras.height, cameras.width)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in (cameras.height, cameras.width))
    resized = interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1), cameras.resized(width, height)


def depth_at_size(depth: Float[Tensor, "n h w"], height: int, width: int) -> Float[Tensor, "n height width"]:
    """z-depth (0 = unknown) of the same views at another size: planes stay planes, edges are not mixed.

    The disparity of a plane is linear in the pixels, so disparity is interpolated bilinearly, and continued linearly
    beyond the outermost pixel centres. Where one of the four neighbours is unknown, or they differ by more than 5 %,
    the nearest pixel is taken.
    """
    rows, columns = depth.shape[1:]
    top, down, near_row = _places(rows, height)
    left, across, near_column = _places(columns, width)
    bottom, right = (top + 1).clamp(max=rows - 1), (left + 1).clamp(max=columns - 1)
    disparity = torch.where(depth > 0, 1 / depth, 0.0)
    corners = torch.stack([disparity[:, r[:, None], c] for r in (top, bottom) for c in (left, right)])
    down, across = down[:, None], across[None]
    weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    smooth = sum(weight * corner for weight, corner in zip(weights, corners, strict=True))
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    is_smooth = (low > 0) & (high <= _EDGE_RATIO * low) & (smooth > 0)
    return torch.where(is_smooth, 1 / smooth, depth[:, near_row[:, None], near_column])


def _places(old: int, new: int) -> tuple[Int[Tensor, " new"], Float[Tensor, " new"], Int[Tensor, " new"]]:
    """For each new pixel centre: the old pixel before it, how far behind that it lies, and the nearest old pixel."""
    at = (torch.arange(new) + 0.5) * (old / new) - 0.5
    before = at.floor().clamp(0, max(old - 2, 0)).long()
    return before, at - before, (at + 0.5).long().clamp(max=old - 1)
