"""The size of a scene, and lengths measured in it."""

from dataclasses import dataclass, field
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError

_LONGEST = 10_000


@dataclass(frozen=True)
class SceneScale:
    """What a move needs to know of the scene.

    Attributes:
        radius: `r`, the median depth seen by the first camera, in world units; orbits turn about the point
            at this distance on the optical axis.
        metric: whether a world unit is a metre.
        up: unit vector against gravity in the world; (0, -1, 0), the top of the first camera's image, unless known.

    Raises:
        InputError: the radius is not positive, or `up` is not a unit vector.
    """

    radius: float
    metric: bool = False
    up: Float[Tensor, "3"] = field(default_factory=lambda: torch.tensor([0.0, -1.0, 0.0]))

    def __post_init__(self) -> None:
        if not (isfinite(self.radius) and self.radius > 0):
            raise InputError(
                f"the scene radius {self.radius} must be a positive number; does the depth have valid pixels?"
            )
        if not abs(float(self.up.double().norm()) - 1) < 1e-3:
            raise InputError(f"the scene's up direction {self.up.tolist()} must be a vector of length 1")


@dataclass(frozen=True)
class Length:
    """A distance in multiples of the scene's radius (`r`) or in metres (`m`)."""

    value: float
    unit: str = "r"

    def __post_init__(self) -> None:
        if self.unit not in ("r", "m"):
            raise InputError(
                f"the unit '{self.unit}' is not known; use r (multiples of the median depth) or m (metres)"
            )
        if not 0 <= self.value <= _LONGEST:
            raise InputError(
                f"a length must be a number from 0 to {_LONGEST}, not {self.value:g}; the move's name says which way"
            )

    def __str__(self) -> str:
        return f"{number_text(self.value)}{self.unit}"

    def in_world_units(self, scale: SceneScale) -> float:
        """The length in world units.

        Raises:
            InputError: metres are asked for in a scene that is not metric.
        """
        if self.unit == "r":
            return self.value * scale.radius
        if not scale.metric:
            raise InputError(
                f"the length {self} is in metres but the scene's depth is not metric; give it in multiples of the "
                "median depth (as in dolly-in:0.5r), or use a metric depth"
            )
        return self.value

    def scaled(self, fraction: float) -> "Length":
        """The same unit, `fraction` of the value."""
        return Length(self.value * fraction, self.unit)


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number, without a trailing `.0`."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
