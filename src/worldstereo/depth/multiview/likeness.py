"""How alike two pictures are where a depth says that they see the same."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras

LEAST_TEXTURE = 0.012
"""Below it likeness says nothing."""
UNSEEN = -1.0
"""The likeness of what the others do not see."""

_WINDOW = 7
_TINY = 1e-6


class Likeness:
    """How alike a frame and others are where a depth says that they see the same.

    The others are sampled where they would see each pixel's point (`grid_sample`, all at once) and compared with the
    frame by zero-normalised cross-correlation of grey 7×7 windows. Of the others' scores the better half counts, so
    that one in which the point is hidden does no harm.

    Attributes:
        grey: the frame.
    """

    def __init__(
        self, image: Float[Tensor, "3 h w"], camera: Cameras, images: Float[Tensor, "n 3 h w"], cameras: Cameras
    ) -> None:
        self.grey, self._others = image.mean(dim=0), images.mean(dim=1, keepdim=True)
        self._mean, self._deviation = _window_statistics(self.grey[None, None])
        relative = cameras.cam_from_world.double() @ camera.world_from_cam.double()
        turned = (cameras.intrinsics.double() @ relative[:, :3, :3]).to(image.dtype)
        moved = (cameras.intrinsics.double() @ relative[:, :3, 3:]).to(image.dtype)
        self._moved = moved[..., None]
        self._rays = torch.einsum("nij,hwj->nihw", turned, camera.pixel_rays()[0])
        self._size = image.new_tensor([cameras.width, cameras.height])[:, None, None]

    @property
    def texture(self) -> Float[Tensor, "h w"]:
        """How much texture the frame's own window has to compare: standard deviation of grey, in [0, ½]."""
        return self._deviation[0, 0]

    def __call__(self, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """Scores in [−1, 1]; −1 where half of the others do not see the point."""
        place = self._rays * depth + self._moved
        ahead = place[:, 2] > _TINY
        grid = place[:, :2] / place[:, 2:].clamp(min=_TINY) * (2 / self._size) - 1
        inside = ahead & (grid.abs() < 1).all(dim=1)
        grid = grid.clamp(-2, 2).permute(0, 2, 3, 1)
        warped = functional.grid_sample(self._others, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean, deviation = _window_statistics(warped)
        both = _box(warped * self.grey) - mean * self._mean
        score = both / (self._deviation * deviation).clamp(min=LEAST_TEXTURE**2)
        return _better_half(torch.where(inside, score[:, 0].clamp(-0.99, 1), UNSEEN))


def _better_half(scores: Float[Tensor, "n h w"]) -> Float[Tensor, "h w"]:
    """The mean of the larger half, by bubbling up (faster than sorting for a few); −1 if one of these is unseen."""
    rows = list(scores)
    half = -(-len(rows) // 2)
    total = torch.zeros_like(rows[0])
    for top in range(half):
        for k in range(len(rows) - 1, top, -1):
            rows[k - 1], rows[k] = torch.maximum(rows[k - 1], rows[k]), torch.minimum(rows[k - 1], rows[k])
        total += rows[top]
    return torch.where(rows[half - 1] > UNSEEN, total / half, UNSEEN)


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
