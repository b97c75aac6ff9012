"""Curved moves: the ellipse and the spiral that keep looking at the centre, and the spline through given poses."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import asinh, hypot, pi, sqrt

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.rotations import look_at
from worldstereo.cameras.trajectories.moves import Move, View
from worldstereo.cameras.trajectories.units import Length, SceneScale, number_text
from worldstereo.errors import InputError


@dataclass(frozen=True)
class Ellipse(Move):
    """One closed turn in the image plane, always looking at the centre; the published `eloop`.

    It starts at the lowest point of the ellipse, goes to the right, over the top at twice the vertical half axis above
    the start, and comes back from the left. Shortened, it shrinks and stays closed.

    Attributes:
        horizontal: half axis along the image's right.
        vertical: half axis along the image's up.
    """

    horizontal: Length
    vertical: Length

    def __post_init__(self) -> None:
        if self.horizontal.unit != self.vertical.unit:
            raise InputError(f"the half axes {self.horizontal} and {self.vertical} of an ellipse must share their unit")

    def __str__(self) -> str:
        return f"ellipse:{number_text(self.horizontal.value)}x{self.vertical}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        angle = 2 * pi * progress
        right = self.horizontal.in_world_units(scale) * angle.sin()
        up = self.vertical.in_world_units(scale) * (1 - angle.cos())
        return _looking_at_center(start, right, up)

    def effort(self, scale: SceneScale) -> float:
        a, b = (axis.in_world_units(scale) / scale.radius for axis in (self.horizontal, self.vertical))
        return pi * (3 * (a + b) - sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan's perimeter

    def scaled(self, fraction: float) -> "Ellipse":
        return Ellipse(self.horizontal.scaled(fraction), self.vertical.scaled(fraction))


@dataclass(frozen=True)
class Spiral(Move):
    """Outwards in the image plane at constant speed, clockwise from the top, always looking at the centre.

    The distance from the start grows in proportion to the turned angle and ends at `radius` after `turns` turns.
    Shortened, the radius shrinks and the turns stay.
    """

    radius: Length
    turns: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.turns <= 10:
            raise InputError(f"a spiral takes more than 0 and at most 10 turns, not {self.turns:g}")

    def __str__(self) -> str:
        return f"spiral:{self.radius}x{number_text(self.turns)}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        full = 2 * pi * self.turns
        angles = np.linspace(0, full, 4096)
        lengths = angles * np.sqrt(1 + angles**2) + np.arcsinh(angles)  # arc length of ρ = θ, doubled
        angle = torch.from_numpy(np.interp(progress.cpu().numpy() * lengths[-1], lengths, angles))
        distance = self.radius.in_world_units(scale) * angle / full
        return _looking_at_center(start, distance * angle.sin(), distance * angle.cos())

    def effort(self, scale: SceneScale) -> float:
        full = 2 * pi * self.turns
        radius = self.radius.in_world_units(scale) / scale.radius
        return radius / full * (full * hypot(1, full) + asinh(full)) / 2

    def scaled(self, fraction: float) -> "Spiral":
        return replace(self, radius=self.radius.scaled(fraction))


@dataclass(frozen=True, eq=False)
class Spline(Move):
    """A smooth path through given poses, the first of which is laid on the camera where the move begins.

    Positions and the logarithm of the focal length follow a cubic spline, rotations a spline with continuous angular
    velocity and acceleration; knots are evenly spaced in progress, so a file of 21 poses sampled at 21 frames gives its
    own poses, and its timing is kept. Shortened, it is cut.

    Attributes:
        knots: `world_from_cam` relative to the first pose, float64.
        zooms: focal lengths relative to the first.
        source: the file they came from, or a name.
        unit: the length of one unit of the file; a world unit if not given.
        percent: the part of the path that is used, in [0, 100].
    """

    knots: Float[Tensor, "n 4 4"]
    zooms: Float[Tensor, " n"]
    source: str
    unit: Length | None = None
    percent: float = 100.0

    def __post_init__(self) -> None:
        if len(self.knots) < 2:
            raise InputError(f"the path '{self.source}' has {len(self.knots)} pose but a spline needs at least 2")
        if not 0 <= self.percent <= 100:
            raise InputError(f"the part of the path '{self.source}' must be from 0 to 100 %, not {self.percent:g} %")

    @classmethod
    def through(cls, cameras: Cameras, source: str, unit: Length | None = None, percent: float = 100.0) -> "Spline":
        """The path through a camera file's poses; of its intrinsics the change of focal length is used."""
        poses = cameras.to("cpu").world_from_cam.double()
        focal = cameras.intrinsics[:, 0, 0].cpu().double()
        return cls(torch.linalg.inv(poses[0]) @ poses, focal / focal[0], source, unit, percent)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Spline)
            and (self.source, self.unit, self.percent) == (other.source, other.unit, other.percent)
            and torch.equal(self.knots, other.knots)
            and torch.equal(self.zooms, other.zooms)
        )

    def __hash__(self) -> int:
        return hash((self.source, self.unit, self.percent, len(self.knots)))

    def __str__(self) -> str:
        unit = "" if self.unit is None else f":{self.unit}"
        part = "" if self.percent == 100 else f":{number_text(self.percent)}%"
        return f"{self.source}{unit}{part}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        time = self._times(progress)
        local = torch.eye(4, dtype=torch.float64).repeat(len(progress), 1, 1)
        local[:, :3, :3] = torch.from_numpy(self._rotation_spline(time).as_matrix())
        local[:, :3, 3] = torch.from_numpy(self._position_spline(time)[:, :3]) * self._unit_in_world(scale)
        return start.world_from_cam @ local

    def zoom(self, progress: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return torch.from_numpy(np.exp(self._position_spline(self._times(progress))[:, 3]))

    def effort(self, scale: SceneScale) -> float:
        time = self._times(torch.linspace(0, 1, 8 * len(self.knots), dtype=torch.float64))
        values, rotations = self._position_spline(time), self._rotation_spline(time)
        length = np.linalg.norm(np.diff(values[:, :3], axis=0), axis=1).sum() * self._unit_in_world(scale)
        turned = (rotations[:-1].inv() * rotations[1:]).magnitude().sum()
        return float(length / scale.radius + turned + np.abs(np.diff(values[:, 3])).sum())

    def scaled(self, fraction: float) -> "Spline":
        return replace(self, percent=self.percent * fraction)

    def end(self, start: View, scale: SceneScale) -> View:
        return replace(super().end(start, scale), focus=scale.radius)

    def _times(self, progress: Float[Tensor, " n"]) -> np.ndarray:
        return progress.cpu().numpy() * (self.percent / 100) * (len(self.knots) - 1)

    def _unit_in_world(self, scale: SceneScale) -> float:
        return 1.0 if self.unit is None else self.unit.in_world_units(scale)

    @cached_property
    def _position_spline(self) -> CubicSpline:
        values = torch.cat([self.knots[:, :3, 3], self.zooms.log()[:, None]], dim=1)
        return CubicSpline(np.arange(len(self.knots)), values.numpy())

    @cached_property
    def _rotation_spline(self) -> RotationSpline:
        return RotationSpline(np.arange(len(self.knots)), Rotation.from_matrix(self.knots[:, :3, :3].numpy()))


def _looking_at_center(start: View, right: Float[Tensor, " n"], up: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
    """`world_from_cam` of cameras moved by `right` and `up` in the image plane that look at the start's centre."""
    eye = start.eye + right[:, None] * start.right - up[:, None] * start.down
    return torch.linalg.inv(look_at(eye, start.center.expand_as(eye), start.down))
