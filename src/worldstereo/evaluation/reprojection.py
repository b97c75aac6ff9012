"""Where what one view shows lies in another, by exact depth."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras

_TOLERANCE = 0.02
_FAR = 1e6


@dataclass(frozen=True)
class View:
    """A camera and what it sees.

    Attributes:
        camera: one.
        depth: z-depth, 0 = unknown or sky.
        sky: where there is sky.
    """

    camera: Cameras
    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]


def seen_in(view: View, other: View) -> tuple[Float[Tensor, "h w 2"], Bool[Tensor, "h w"]]:
    """Pixels of `other` where each pixel's surface (or sky) of `view` lies, and whether `other` shows it there.

    It does if the surface falls into the picture, in front of the camera, and its depth lies within those of the 3×3
    pixels around (2 % tolerance, so that grazing floors are not taken for hidden). Sky, infinitely far, is shown
    where there is sky. Pixels of unknown depth are never shown.
    """
    depth = torch.where(view.sky, _FAR, view.depth)
    pixels, z = (values[0] for values in other.camera.project(view.camera.unproject(depth[None])[0].flatten(0, 1)))
    pixels, z = pixels.view(*depth.shape, 2), z.view(depth.shape)
    height, width = other.depth.shape
    size = pixels.new_tensor([width, height])
    inside = (z > 0) & (pixels >= 0).all(dim=-1) & (pixels < size).all(dim=-1)
    column, row = torch.where(inside[..., None], pixels, 0.0).floor().long().unbind(dim=-1)
    known = torch.where(other.depth > 0, other.depth, torch.inf)
    low = -F.max_pool2d(-known[None], 3, 1, padding=1)[0][row, column]
    high = F.max_pool2d(other.depth[None], 3, 1, padding=1)[0][row, column]
    surface = (view.depth > 0) & (z >= low * (1 - _TOLERANCE)) & (z <= high * (1 + _TOLERANCE))
    return pixels, inside & torch.where(view.sky, other.sky[row, column], surface)


def seen_in_any(view: View, others: list[View]) -> Bool[Tensor, "h w"]:
    """Whether any of the others shows it."""
    seen = torch.zeros_like(view.sky)
    for other in others:
        seen |= seen_in(view, other)[1]
    return seen


def sample(picture: Float[Tensor, "3 h w"], pixels: Float[Tensor, "y x 2"]) -> Float[Tensor, "3 y x"]:
    """Bilinear colours at pixel coordinates (centres at +0.5); outside the picture, those of its border."""
    size = pixels.new_tensor([picture.shape[2], picture.shape[1]])
    grid = (2 * pixels / size - 1).nan_to_num().clamp(-2, 2)
    return F.grid_sample(picture[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
