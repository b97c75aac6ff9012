"""What splats are optimised against: frames with exact cameras, and what else is known of their pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError

_SAME_SURFACE = 1.05


@dataclass(frozen=True, eq=False)
class SplatViews:
    """Frames of one static scene, all of one size.

    Attributes:
        frames: RGB in [0, 1].
        cameras: theirs, exact.
        depth: z-depth, 0 = unknown; none if nothing is known.
        weight: how much a pixel counts, ≥ 0: below 1 where its content is less sure; none for 1 everywhere.
        sky: where the sky is seen; none if nothing is known.

    Raises:
        InputError: no frame, sizes that differ, or values that are not finite or negative.
    """

    frames: Float[Tensor, "f 3 h w"]
    cameras: Cameras
    depth: Float[Tensor, "f h w"] | None = None
    weight: Float[Tensor, "f h w"] | None = None
    sky: Bool[Tensor, "f h w"] | None = None

    def __post_init__(self) -> None:
        count, _, height, width = self.frames.shape
        if count == 0:
            raise InputError("splats need at least one frame to be optimised against")
        if (count, height, width) != (len(self.cameras), self.cameras.height, self.cameras.width):
            raise InputError(
                f"there are {count} frames of {width}×{height} but {len(self.cameras)} cameras of "
                f"{self.cameras.width}×{self.cameras.height}; give one camera of the same size a frame"
            )
        for name in ("depth", "weight", "sky"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (count, height, width):
                raise InputError(f"the frames' {name} has shape {tuple(value.shape)}, not {(count, height, width)}")
            if value is not None and name != "sky" and not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise InputError(f"the frames' {name} has values that are negative or not finite; use 0 for unknown")
        if not bool(torch.isfinite(self.frames).all()):
            raise InputError("the frames have values that are not finite")

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device | str) -> "SplatViews":
        """The same with tensors on `device`."""
        depth, weight, sky = (None if v is None else v.to(device) for v in (self.depth, self.weight, self.sky))
        return SplatViews(self.frames.to(device), self.cameras.to(device), depth, weight, sky)

    def some(self, index: list[int]) -> "SplatViews":
        """Some of the frames."""
        depth, weight, sky = (None if value is None else value[index] for value in (self.depth, self.weight, self.sky))
        return SplatViews(self.frames[index], self.cameras[index], depth, weight, sky)

    def reduced(self, divisor: int) -> "SplatViews":
        """Frames of 1 / `divisor` of the size; depth and sky only where all of a new pixel's old ones agree."""
        if divisor == 1:
            return self
        size = (max(1, self.cameras.height // divisor), max(1, self.cameras.width // divisor))

        def mean(values: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(values, size)

        depth = None
        if self.depth is not None:
            inverse = torch.where(self.depth > 0, 1 / self.depth.clamp(min=1e-12), 0.0)
            far, near = F.adaptive_max_pool2d(self.depth, size), F.adaptive_max_pool2d(inverse, size)
            known = (mean((self.depth > 0).float()) == 1) & (far * near < _SAME_SURFACE)
            depth = torch.where(known, 1 / mean(inverse).clamp(min=1e-12), 0.0)
        weight = None if self.weight is None else mean(self.weight)
        sky = None if self.sky is None else mean(self.sky.float()) == 1
        return SplatViews(mean(self.frames), self.cameras.resized(size[1], size[0]), depth, weight, sky)
