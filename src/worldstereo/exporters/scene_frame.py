"""What the coordinates of a world mean, as every exported file says it, and the way to axes with y up."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_AXES = "OpenCV world axes: x right, y down, z forward, of the first camera"


@dataclass(frozen=True)
class SceneFrame:
    """What a world's coordinates mean beside their axes.

    Attributes:
        up: the direction away from the ground, in the world; any length but 0.
        metric: whether the unit is the metre; otherwise it is that of the scene's depth.
    """

    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    metric: bool = False

    @property
    def unit(self) -> str:
        """The unit in words."""
        return "metre" if self.metric else "unit of the scene's depth (no metric scale)"

    def comments(self, axes: str = _AXES) -> list[str]:
        """Lines for a file's header."""
        up = " ".join(f"{value:.6g}" for value in self.up)
        return [f"axes {axes}", f"up {up} in the world's OpenCV axes", f"unit {self.unit}"]

    def level_rotation(self) -> Float[Tensor, "4"]:
        """The shortest turn of the world, as quaternion (w, x, y, z), that brings `up` to −y.

        Exactly (1, 0, 0, 0) if it is there already, as in the world of a photo without a camera file.
        """
        up = torch.nn.functional.normalize(torch.tensor(self.up, dtype=torch.float64), dim=0)
        straight = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
        cosine = up @ straight
        if float(cosine) > 1 - 1e-12:
            return torch.tensor([1.0, 0.0, 0.0, 0.0])
        if float(cosine) < -1 + 1e-12:
            return torch.tensor([0.0, 1.0, 0.0, 0.0])
        axis = torch.linalg.cross(up, straight)
        turn = torch.cat([(1 + cosine)[None], axis])
        return torch.nn.functional.normalize(turn, dim=0).float()


def flip_points(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """From OpenCV axes (x right, y down, z forward) to x right, y up, z backward (glTF, SPZ's RUB), or back."""
    return points * points.new_tensor([1.0, -1.0, -1.0])


def flip_rotations(rotations: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The same change of axes for quaternions (w, x, y, z): F R F with F = diag(1, −1, −1).

    An ellipsoid's own axes may point either way, so that F R and F R F are the same ellipsoid.
    """
    return rotations * rotations.new_tensor([1.0, 1.0, -1.0, -1.0])
