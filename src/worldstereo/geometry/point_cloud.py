"""Coloured points in the world."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldstereo.errors import InputError


@dataclass(frozen=True)
class PointCloud:
    """Coloured points.

    Attributes:
        points: world coordinates, OpenCV axes of the first camera, finite, float32.
        colors: RGB in [0, 1], float32.

    Raises:
        InputError: wrong shapes, or coordinates that are not finite.
    """

    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise InputError(f"points have shape {tuple(self.points.shape)} but must be [p, 3]")
        if self.points.shape != self.colors.shape:
            raise InputError(f"there are {len(self.points)} points but {len(self.colors)} colors")
        if not bool(torch.isfinite(self.points).all()):
            raise InputError("points have coordinates that are not finite")

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "PointCloud":
        """No points."""
        return cls(torch.zeros(0, 3, device=device), torch.zeros(0, 3, device=device))

    @classmethod
    def cat(cls, parts: "Sequence[PointCloud]") -> "PointCloud":
        """All points of all parts, in order."""
        return cls(torch.cat([part.points for part in parts]), torch.cat([part.colors for part in parts]))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: slice | Int[Tensor, " k"] | Bool[Tensor, " p"]) -> "PointCloud":
        """A subset."""
        return PointCloud(self.points[index], self.colors[index])

    def to(self, device: torch.device | str) -> "PointCloud":
        """The same points with tensors on `device`."""
        return PointCloud(self.points.to(device), self.colors.to(device))
