"""Depth from likeness: hypotheses around a first depth, tried on the exact cameras of other frames."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras

_WINDOW = 7
_TEXTURE = 0.012
_TINY = 1e-6
_UNSEEN = -1.0


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        offset: log of the best depth / first depth, to a fraction of the step between factors.
        score: likeness there, in [-1, 1]; −1 where nothing can be said.
        lead: by how much it is above every hypothesis that is not beside the best, and above the lowest on each
            side; hypotheses that the others do not see say nothing.
    """

    offset: Float[Tensor, "h w"]
    score: Float[Tensor, "h w"]
    lead: Float[Tensor, "h w"]


def plane_sweep(
    image: Float[Tensor, "3 h w"],
    depth: Float[Tensor, "h w"],
    camera: Cameras,
    images: Float[Tensor, "n 3 h w"],
    cameras: Cameras,
    factors: Float[Tensor, " k"],
) -> Sweep:
    """Try the depths `depth · factor` against other frames and take the best of each pixel (`Likeness`).

    A parabola through the best score and its two neighbours gives a fraction of a step. Windows follow the shape of
    `depth`, so slanted surfaces stay sharp. Memory O((n + factors) · pixels), time O(n · pixels · factors).

    Source: Collins, "A space-sweep approach to true multi-image matching", CVPR 1996, with the first depth's shape in
    place of planes.

    Args:
        depth: first z-depth, > 0 everywhere.
        camera: the frame's own, one.
        cameras: of the others, of the same size.
        factors: positive, ascending, at least three.
    """
    likeness = Likeness(image, camera, images, cameras)
    scores = torch.stack([likeness(depth * factor) for factor in factors])
    return _best(scores, factors.log(), likeness.textured)


class Likeness:
    """How alike a frame and others are where a depth says that they see the same.

    The others are sampled where they would see each pixel's point (`grid_sample`, all at once) and compared with the
    frame by zero-normalised cross-correlation of grey 7×7 windows. Of the others' scores the better half counts, so
    that one in which the point is hidden does no harm.
    """

    def __init__(
        self, image: Float[Tensor, "3 h w"], camera: Cameras, images: Float[Tensor, "n 3 h w"], cameras: Cameras
    ) -> None:
        self._grey, self._others = image.mean(dim=0), images.mean(dim=1, keepdim=True)
        self._mean, self._deviation = _window_statistics(self._grey[None, None])
        relative = cameras.cam_from_world.double() @ camera.world_from_cam.double()
        turned = (cameras.intrinsics.double() @ relative[:, :3, :3]).to(image.dtype)
        moved = (cameras.intrinsics.double() @ relative[:, :3, 3:]).to(image.dtype)
        self._moved = moved[..., None]
        self._rays = torch.einsum("nij,hwj->nihw", turned, camera.pixel_rays()[0])
        self._size = image.new_tensor([cameras.width, cameras.height])[:, None, None]

    @property
    def textured(self) -> Bool[Tensor, "h w"]:
        """Where the frame's own window has texture to compare."""
        return self._deviation[0, 0] > _TEXTURE

    def __call__(self, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """Scores in [−1, 1]; −1 where half of the others do not see the point."""
        place = self._rays * depth + self._moved
        ahead = place[:, 2] > _TINY
        grid = place[:, :2] / place[:, 2:].clamp(min=_TINY) * (2 / self._size) - 1
        inside = ahead & (grid.abs() < 1).all(dim=1)
        grid = grid.clamp(-2, 2).permute(0, 2, 3, 1)
        warped = functional.grid_sample(self._others, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean, deviation = _window_statistics(warped)
        both = _box(warped * self._grey) - mean * self._mean
        score = both / (self._deviation * deviation).clamp(min=_TEXTURE**2)
        return _better_half(torch.where(inside, score[:, 0].clamp(-0.99, 1), _UNSEEN))


def _better_half(scores: Float[Tensor, "n h w"]) -> Float[Tensor, "h w"]:
    """The mean of the larger half, by bubbling up (faster than sorting for a few); −1 if one of these is unseen."""
    rows = list(scores)
    half = -(-len(rows) // 2)
    total = torch.zeros_like(rows[0])
    for top in range(half):
        for k in range(len(rows) - 1, top, -1):
            rows[k - 1], rows[k] = torch.maximum(rows[k - 1], rows[k]), torch.minimum(rows[k - 1], rows[k])
        total += rows[top]
    return torch.where(rows[half - 1] > _UNSEEN, total / half, _UNSEEN)


def _window_statistics(grey: Float[Tensor, "n 1 h w"]) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h w"]]:
    mean = _box(grey)
    return mean, (_box(grey.square()) - mean.square()).clamp(min=0).sqrt()


def _box(values: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Means over windows, the border repeated, by sums of shifted rows and columns (faster than pooling)."""
    reach = _WINDOW // 2
    height, width = values.shape[2:]
    padded = functional.pad(values, (reach, reach, reach, reach), mode="replicate")
    rows = padded[..., :width].clone()
    for shift in range(1, _WINDOW):
        rows += padded[..., shift : shift + width]
    both = rows[..., :height, :].clone()
    for shift in range(1, _WINDOW):
        both += rows[..., shift : shift + height, :]
    return both / _WINDOW**2


def _best(scores: Float[Tensor, "k h w"], offsets: Float[Tensor, " k"], textured: Tensor) -> Sweep:
    top, best = scores.max(dim=0)
    last = len(scores) - 1
    inner = best.clamp(1, last - 1)
    left, middle, right = (scores.gather(0, (inner + shift)[None])[0] for shift in (-1, 0, 1))
    bend = (2 * middle - left - right).clamp(min=_TINY)
    at_rim = (best == 0) | (best == last)
    fraction = torch.where(at_rim, 0.0, (0.5 * (right - left) / bend).clamp(-0.5, 0.5))
    beside = (best + fraction.sign().long()).clamp(0, last)
    offset = offsets[best] + fraction.abs() * (offsets[beside] - offsets[best])
    number = torch.arange(len(scores), device=scores.device)[:, None, None]
    elsewhere = torch.where((number - best).abs() > 1, scores, _UNSEEN).amax(dim=0)
    seen = scores > _UNSEEN
    before = torch.where(seen & (number < best), scores, 1.0).amin(dim=0)
    after = torch.where(seen & (number > best), scores, 1.0).amin(dim=0)
    lead = torch.stack([top - elsewhere, top - before, top - after]).amin(dim=0)
    good = textured & ~at_rim
    return Sweep(offset, torch.where(good, top, _UNSEEN), torch.where(good, lead, 0.0))
