"""Training samples for nano depth: crops, colours and hints drawn from frames, all a function of one generator."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, exp, log, radians, sin

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from worldstereo.data.rgbd import RgbdFrame
from worldstereo.models.depth_network import assumed_rays
from worldstereo.training.painted_skies import paint_sky

_UNKNOWN_CAMERA_SHARE = 0.3
"""Share of the samples whose camera the network is not told."""

_PAINTED_SKY_SHARE = 0.5
"""Share of the samples with a sky that get another one: procedural skies alone teach too few kinds."""


@dataclass(frozen=True)
class DepthBatch:
    """What the depth network takes and what it should answer.

    `depth` is 0 where unknown, `sky` is known sky; `hint` is 0 where unknown, all 0 for a sample without a hint.
    """

    image: Float[Tensor, "n 3 h w"]
    rays: Float[Tensor, "n 2 h w"]
    depth: Float[Tensor, "n h w"]
    sky: Bool[Tensor, "n h w"]
    hint: Float[Tensor, "n h w"]

    def to(self, device: torch.device | str) -> "DepthBatch":
        """The same batch on `device`."""
        return DepthBatch(*(t.to(device) for t in (self.image, self.rays, self.depth, self.sky, self.hint)))


def draw_batch(
    frames: Sequence[RgbdFrame], width: int, height: int, hint_share: float, rng: np.random.Generator
) -> DepthBatch:
    """One augmented crop of every frame, at `width` × `height`; a share of the samples gets a hint."""
    crops = [_crop(frame, width, height, rng) for frame in frames]
    images = torch.stack([_recolor(image, rng) for image, *_ in crops])
    rays, depth, sky = (torch.stack(parts) for parts in list(zip(*crops, strict=True))[1:])
    hints = torch.stack([draw_hint(d, rng) if rng.random() < hint_share else torch.zeros_like(d) for d in depth])
    return DepthBatch(images, rays, depth, sky, hints)


def draw_hint(depth: Float[Tensor, "h w"], rng: np.random.Generator) -> Float[Tensor, "h w"]:
    """A partial depth: scattered pixels, or a region with ragged edges like a point render; sometimes noisy."""
    keep = torch.ones_like(depth, dtype=torch.bool)
    kind = rng.random()
    if kind > 0.4:
        keep = _region(depth.shape, rng)
    if kind < 0.6:
        density = exp(rng.uniform(log(0.003), log(0.5)))
        keep &= _uniform(depth.shape, rng) < density
    hint = torch.where(keep, depth, 0.0)
    if rng.random() < 0.3:
        sigma = rng.uniform(0.005, 0.04)
        hint = hint * torch.from_numpy(np.exp(sigma * rng.standard_normal(depth.shape, dtype=np.float32)))
    return hint


def _region(shape: torch.Size, rng: np.random.Generator) -> Bool[Tensor, "h w"]:
    """A random share of the picture: a smooth random field plus a ramp, cut at a quantile."""
    height, width = shape
    cells = int(rng.integers(2, 9))
    field = torch.from_numpy(rng.standard_normal((1, 1, cells, cells + 1), dtype=np.float32))
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=False)[0, 0]
    angle, slope = rng.uniform(0, 2 * np.pi), rng.choice([0.0, 2.0, 8.0])
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    field = field + slope * (x * cos(angle) + y * sin(angle)) + 0.1 * _uniform(shape, rng)
    return field > torch.quantile(field.flatten()[::7], float(rng.uniform(0.05, 0.95)))


def _uniform(shape: torch.Size, rng: np.random.Generator) -> Float[Tensor, "h w"]:
    return torch.from_numpy(rng.random(tuple(shape), dtype=np.float32))


def _crop(
    frame: RgbdFrame, width: int, height: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "2 h w"], Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """A turned, zoomed, perhaps mirrored window: picture, rays, depth and sky.

    The camera keeps its centre and axis, so z-depth stays; turning about the axis turns the rays.
    """
    full_height, full_width = frame.depth.shape
    fit = min(full_width / width, full_height / height)
    zoom = fit * rng.uniform(0.6, 1.04)
    roll = radians(float(np.clip(rng.normal(0, 3), -8, 8)))
    stretch = exp(rng.normal(0, 0.04))
    scale_x, scale_y = zoom * stretch, zoom / stretch
    spare_x, spare_y = full_width - width * scale_x, full_height - height * scale_y
    center_x = full_width / 2 + rng.uniform(-0.5, 0.5) * max(spare_x, 0.0)
    center_y = full_height / 2 + rng.uniform(-0.5, 0.5) * max(spare_y, 0.0)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = mirror * (x - width / 2) * scale_x, (y - height / 2) * scale_y
    source_x = center_x + cos(roll) * dx - sin(roll) * dy
    source_y = center_y + sin(roll) * dx + cos(roll) * dy
    grid = torch.stack([source_x * 2 / full_width - 1, source_y * 2 / full_height - 1], dim=-1)[None]
    image = F.grid_sample(frame.image[None].float() / 255, grid, mode="bilinear", align_corners=False)[0]
    if bool(frame.sky.any()) and rng.random() < _PAINTED_SKY_SHARE:
        share = F.grid_sample(frame.sky[None, None].float(), grid, mode="bilinear", align_corners=False)[0, 0]
        image = paint_sky(image, share, rng)
    layers = torch.stack([frame.depth.float(), frame.sky.float()])[None]
    depth, sky = F.grid_sample(layers, grid, mode="nearest", align_corners=False)[0]
    if rng.random() < _UNKNOWN_CAMERA_SHARE:
        rays = assumed_rays(width, height)
    else:
        k = frame.intrinsics
        ray_x, ray_y = (source_x - k[0, 2]) / k[0, 0], (source_y - k[1, 2]) / k[1, 1]
        rays = torch.stack([mirror * (cos(roll) * ray_x + sin(roll) * ray_y), cos(roll) * ray_y - sin(roll) * ray_x])
    return image, rays, depth, sky > 0.5


def _recolor(image: Float[Tensor, "3 h w"], rng: np.random.Generator) -> Float[Tensor, "3 h w"]:
    """Exposure, contrast, colour, blur, noise and JPEG of other cameras."""
    gray = image.mean(dim=0, keepdim=True)
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.4)
    gains = torch.from_numpy(np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)) * exp(rng.normal(0, 0.2))
    image = ((gray + saturation * (image - gray)) * gains[:, None, None]).clamp(0, 1)
    mean = image.mean()
    image = (mean + rng.uniform(0.7, 1.3) * (image - mean)).clamp(1e-4, 1) ** exp(rng.normal(0, 0.25))
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.5)
        taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
        taps = taps / taps.sum()
        padded = F.pad(image[:, None], (3, 3, 3, 3), mode="replicate")
        image = F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, 7)), taps.view(1, 1, 7, 1))[:, 0]
    if rng.random() < 0.3:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32) * np.float32(rng.uniform(0.005, 0.04))
        image = (image + torch.from_numpy(noise)).clamp(0, 1)
    if rng.random() < 0.3:
        image = _jpeg(image, int(rng.integers(30, 90)))
    return image


def _jpeg(image: Float[Tensor, "3 h w"], quality: int) -> Float[Tensor, "3 h w"]:
    buffer = io.BytesIO()
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
