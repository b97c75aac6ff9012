"""What every depth back-end takes and gives."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError


@dataclass(frozen=True)
class DepthPrediction:
    """Depth of one picture.

    Attributes:
        depth: z-depth, float32, 0 where unknown; finite and never negative.
        sky: where the picture shows sky (no surface); depth is 0 there.
        intrinsics: pinhole matrix in pixels of the picture, if the back-end knows it.
        metric: whether depth is in metres (else its scale is arbitrary).
        source: the back-end's name and model, for reports.
    """

    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]
    intrinsics: Float[Tensor, "3 3"] | None
    metric: bool
    source: str

    def __post_init__(self) -> None:
        if self.depth.shape != self.sky.shape:
            raise InputError(f"{self.source}: depth {tuple(self.depth.shape)} and sky {tuple(self.sky.shape)} differ")
        if not bool(torch.isfinite(self.depth).all()) or bool((self.depth < 0).any()):
            raise InputError(f"{self.source}: depth must be finite and not negative (0 = unknown)")
        if bool((self.depth[self.sky] != 0).any()):
            raise InputError(f"{self.source}: depth must be 0 in the sky")

    @property
    def valid(self) -> Bool[Tensor, "h w"]:
        """Where the depth is known."""
        return self.depth > 0


@runtime_checkable
class DepthEstimator(Protocol):
    """A depth back-end."""

    @property
    def name(self) -> str:
        """What `--depth` takes and what reports show."""
        ...

    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """Depth of `image` (RGB in [0, 1]), at its size and on its device, wherever the back-end computes.

        `intrinsics` are used by back-ends that can, in pixels of `image`. `hint` is a partial z-depth
        (0 = unknown) that the back-end may complete, in which case the result has the hint's scale;
        a back-end that cannot use a hint ignores it.
        """
        ...
