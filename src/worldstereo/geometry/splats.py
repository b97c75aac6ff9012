"""Three-dimensional Gaussians: the scene as things that can be drawn and improved."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError

SH_BASE = 0.28209479177387814
"""The constant spherical harmonic: colour = SH_BASE · coefficient + 0.5 in files of 3D Gaussian Splatting."""


@dataclass(frozen=True, eq=False)
class GaussianSplats:
    """Gaussians in world coordinates, of one colour each whatever they are seen from.

    Values are what they mean, not what an optimiser or a file keeps: files of 3D Gaussian Splatting (Kerbl et al.,
    SIGGRAPH 2023) hold the logarithm of the scales, the logit of the opacity, and colours as (c − 0.5) / SH_BASE.

    Attributes:
        means: centres, in the world's unit.
        scales: standard deviations along the three own axes, > 0, in the world's unit.
        rotations: unit quaternions (w, x, y, z), world from own axes.
        opacities: in (0, 1).
        colors: RGB, mostly in [0, 1].

    Raises:
        InputError: the numbers of values differ.
    """

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    rotations: Float[Tensor, "n 4"]
    opacities: Float[Tensor, " n"]
    colors: Float[Tensor, "n 3"]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise InputError(f"splats need as many of each value, but there are {lengths}")

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: Tensor | slice) -> "GaussianSplats":
        """Some of them."""
        return GaussianSplats(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def cat(cls, parts: "list[GaussianSplats]") -> "GaussianSplats":
        """All of several."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))
