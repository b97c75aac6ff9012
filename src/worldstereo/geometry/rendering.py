"""What rendering a point cloud gives."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class PointRender:
    """Points seen by cameras.

    Attributes:
        rgb: colours in [0, 1]; the background's where nothing is known.
        hole_mask: True where no point covers the pixel.
        depth: z-depth of the nearest point, 0 in holes.
    """

    rgb: Float[Tensor, "f 3 h w"]
    hole_mask: Bool[Tensor, "f h w"]
    depth: Float[Tensor, "f h w"]

    def __len__(self) -> int:
        return len(self.rgb)
