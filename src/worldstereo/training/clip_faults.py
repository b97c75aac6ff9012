"""What goes wrong at inference, imitated: depth of networks, gaps in the cloud, references of other exposure.

Kinds and proportions after HY-World 2.0 (arXiv 2604.14268): half of the depth maps bilinearly down-sampled (edges
bleed), a tenth slightly Gaussian-filtered (floaters); colour jitter and motion blur of references; strong distortion
of the cloud hurts and is avoided. WorldStereo (arXiv 2603.02049): a random part of the further views' points is
dropped, scattered or in connected regions. Strengths are not published: ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, exp, pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_LARGEST_REDUCTION = 4.0
_WAVES = 4
_LEAST_DISPARITY = 0.5  # of the true one, after a shift


@dataclass(frozen=True)
class DepthFaults:
    """How depth maps are spoilt.

    Attributes:
        bleeding: share of the maps that are bilinearly reduced by 1.5 to 4 and enlarged again.
        floaters: share of the maps that are Gaussian-filtered, by 0.6 to 1.5 pixels.
        noise: largest relative error that varies smoothly over the picture (standard deviation); a quarter of it
            varies from pixel to pixel.
        scale: standard deviation of the logarithm of a map's scale.
        shift: standard deviation of a map's shift of disparity, relative to the median disparity.
    """

    bleeding: float = 0.5
    floaters: float = 0.1
    noise: float = 0.02
    scale: float = 0.02
    shift: float = 0.01


NO_DEPTH_FAULTS = DepthFaults(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class PictureFaults:
    """How references are spoilt.

    Attributes:
        jitter: share of the references with another exposure, contrast, saturation and white balance.
        blur: share of the references that are blurred along a line, as by a moving camera.
    """

    jitter: float = 0.5
    blur: float = 0.2


NO_PICTURE_FAULTS = PictureFaults(0.0, 0.0)


def spoil_depth(depth: Float[Tensor, "h w"], faults: DepthFaults, rng: np.random.Generator) -> Float[Tensor, "h w"]:
    """Depth as a network might give it. Unknown (0) stays unknown, known stays known and positive."""
    known = depth > 0
    if not bool(known.any()):
        return depth
    if rng.random() < faults.bleeding:
        depth = _filtered(depth, known, _reduction(depth.shape, rng.uniform(1.5, _LARGEST_REDUCTION)))
    if rng.random() < faults.floaters:
        depth = _filtered(depth, known, _gaussian(rng.uniform(0.6, 1.5)))
    error = rng.uniform(0, faults.noise) * (_smooth_field(depth.shape, rng) + 0.25 * _white_field(depth.shape, rng))
    disparity = torch.where(known, 1 / depth.clamp(min=1e-12), 0.0)
    shift = rng.normal(0, faults.shift) * float(disparity[known].median())
    disparity = torch.maximum(disparity + shift, _LEAST_DISPARITY * disparity)
    disparity = disparity * torch.exp(error.to(depth) + rng.normal(0, faults.scale))
    return torch.where(known, 1 / disparity.clamp(min=1e-12), 0.0)


def keep_some(points: Float[Tensor, "p 3"], dropped: float, rng: np.random.Generator) -> Bool[Tensor, " p"]:
    """Which points stay when a share is dropped: scattered ones, or connected regions (a random sum of waves)."""
    count = len(points)
    if count == 0 or dropped == 0:
        return torch.ones(count, dtype=torch.bool, device=points.device)
    if rng.random() < 0.5:
        value = rng.random(count)
    else:
        place = points.detach().cpu().double().numpy()
        place = (place - place.mean(axis=0)) / max(float(place.std()), 1e-9)
        waves = rng.normal(0, 2, (3, _WAVES))
        value = np.cos(place @ waves + rng.uniform(0, 2 * pi, _WAVES)).sum(axis=1)
    rank = np.argsort(np.argsort(value, kind="stable"), kind="stable")
    return torch.from_numpy(rank >= round(dropped * count)).to(points.device)


def spoil_picture(
    picture: Float[Tensor, "3 h w"], faults: PictureFaults, rng: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """A reference with another exposure, or moved while it was taken; in [0, 1]."""
    if rng.random() < faults.jitter:
        grey = picture.mean(dim=0, keepdim=True)
        picture = grey + rng.uniform(0.7, 1.2) * (picture - grey)
        gains = torch.from_numpy(np.exp(rng.normal(0, 0.04, 3))).to(picture) * exp(rng.normal(0, 0.1))
        picture = picture * gains[:, None, None]
        middle = picture.mean()
        picture = (middle + rng.uniform(0.8, 1.2) * (picture - middle)).clamp(0, 1)
    if rng.random() < faults.blur:
        picture = _moved(picture, 0.01 * rng.uniform(0.5, 2.0) * min(picture.shape[1:]), rng.uniform(0, pi))
    return picture


def _filtered(
    depth: Float[Tensor, "h w"], known: Bool[Tensor, "h w"], smooth: Callable[[Tensor], Tensor]
) -> Float[Tensor, "h w"]:
    """A linear filter over the known pixels alone."""
    weight = known.to(depth.dtype)
    total, mass = smooth(torch.stack([depth * weight, weight])[None])[0]
    return torch.where(known & (mass > 0.05), total / mass.clamp(min=0.05), depth)


def _reduction(shape: torch.Size, factor: float) -> Callable[[Tensor], Tensor]:
    small = (max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor)))

    def smooth(values: Tensor) -> Tensor:
        reduced = F.interpolate(values, size=small, mode="bilinear", align_corners=False)
        return F.interpolate(reduced, size=tuple(shape), mode="bilinear", align_corners=False)

    return smooth


def _gaussian(sigma: float) -> Callable[[Tensor], Tensor]:
    reach = ceil(3 * sigma)

    def smooth(values: Tensor) -> Tensor:
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(values) / sigma) ** 2)
        taps = taps / taps.sum()
        padded = F.pad(values.transpose(0, 1), (reach,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1)).transpose(0, 1)

    return smooth


def _smooth_field(shape: torch.Size, rng: np.random.Generator) -> Float[Tensor, "h w"]:
    """Gaussian values that vary over about a sixth of the picture."""
    cells = torch.from_numpy(rng.standard_normal((1, 1, 6, 8), dtype=np.float32))
    return F.interpolate(cells, size=tuple(shape), mode="bicubic", align_corners=False)[0, 0]


def _white_field(shape: torch.Size, rng: np.random.Generator) -> Float[Tensor, "h w"]:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def _moved(picture: Float[Tensor, "3 h w"], reach: float, angle: float) -> Float[Tensor, "3 h w"]:
    """The mean of five pictures shifted along a line, up to `reach` pixels either way."""
    height, width = picture.shape[1:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    total = torch.zeros_like(picture)
    steps = (-1.0, -0.5, 0.0, 0.5, 1.0)
    for step in steps:
        at = ((x + step * reach * cos(angle)) * 2 / width - 1, (y + step * reach * sin(angle)) * 2 / height - 1)
        grid = torch.stack(at, dim=-1)[None].to(picture)
        total += F.grid_sample(picture[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return total / len(steps)
