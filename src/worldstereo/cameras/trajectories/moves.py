"""Straight and turning moves: orbit, dolly, truck, pedestal, pan, tilt, zoom.

The first word of a name says what moves: `orbit` circles about the point looked at, `dolly`, `truck` and `pedestal`
translate and never turn, `pan` and `tilt` turn and never translate, `zoom` changes the focal length alone.
The second word says where the camera goes, or for `pan` and `tilt` where it looks.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import atan2, degrees, isfinite, log, radians

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.cameras.trajectories.units import Length, SceneScale, number_text
from worldstereo.errors import InputError

_MAX_ELEVATION = 85.0  # degrees; at 90 the camera would stand over the centre and its azimuth be undefined
_MIN_FOCUS = 0.1  # in r; a dolly that comes nearer to the centre has passed it
_MAX_UPRIGHT_PITCH = 80.0  # degrees; beyond it the camera's own vertical replaces the world's


@dataclass(frozen=True)
class View:
    """Where a move begins.

    Attributes:
        world_from_cam: the camera's pose, float64 on the CPU.
        focus: distance along the optical axis, in world units, of the centre that the camera circles and looks at.
    """

    world_from_cam: Float[Tensor, "4 4"]
    focus: float

    @property
    def eye(self) -> Float[Tensor, "3"]:
        """The camera's centre."""
        return self.world_from_cam[:3, 3]

    @property
    def right(self) -> Float[Tensor, "3"]:
        """Unit vector to the right of the image."""
        return self.world_from_cam[:3, 0]

    @property
    def down(self) -> Float[Tensor, "3"]:
        """Unit vector to the bottom of the image."""
        return self.world_from_cam[:3, 1]

    @property
    def forward(self) -> Float[Tensor, "3"]:
        """Unit viewing direction."""
        return self.world_from_cam[:3, 2]

    @property
    def center(self) -> Float[Tensor, "3"]:
        """The point looked at."""
        return self.eye + self.focus * self.forward

    def upright_axis(self, scale: SceneScale) -> Float[Tensor, "3"]:
        """The axis of azimuths: the world's up, or the image's up where the camera looks nearly along the world's."""
        up = scale.up.to(self.world_from_cam)
        pitch = degrees(atan2(abs(float(self.forward @ up)), float(torch.linalg.cross(self.forward, up).norm())))
        return up if pitch < _MAX_UPRIGHT_PITCH else -self.down


class Move(ABC):
    """One piece of a trajectory: a pose for every progress from 0 (where it begins) to 1 (the full amount).

    Moves are frozen and comparable; `str(move)` is the text that `parse_trajectory` reads back as the same move.
    """

    @abstractmethod
    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        """`world_from_cam` at each progress in [0, 1], float64."""

    @abstractmethod
    def effort(self, scale: SceneScale) -> float:
        """How much the picture changes; frames are shared out by it.

        An angle in radians, the length of the path in r or the logarithm of a zoom; of a spline their sum.
        """

    @abstractmethod
    def scaled(self, fraction: float) -> "Move":
        """The same move with `fraction` of its amount, in [0, 1]."""

    def zoom(self, progress: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Focal length at each progress relative to that at the start."""
        return torch.ones_like(progress)

    def end(self, start: View, scale: SceneScale) -> View:
        """Where the next move begins."""
        return View(self.poses(start, scale, torch.ones(1, dtype=torch.float64))[0], start.focus)


@dataclass(frozen=True)
class Orbit(Move):
    """Circle about the centre (at distance r on the optical axis), always looking at it from the same distance.

    `orbit-right` carries the camera to its right while it turns left, about the world's up; `orbit-up` raises it while
    it looks further down, about its own right axis, never above 85° of elevation (nor below -85° for `orbit-down`).
    `degrees` is the angle at the centre, up to 360 sideways and 85 up or down.
    """

    name: str
    degrees: float

    def __post_init__(self) -> None:
        _check_name(self.name, ("orbit-left", "orbit-right", "orbit-up", "orbit-down"))
        _check_amount(self.name, self.degrees, 360.0 if self._sideways else _MAX_ELEVATION, "degrees")

    def __str__(self) -> str:
        return f"{self.name}:{number_text(self.degrees)}"

    @property
    def _sideways(self) -> bool:
        return self.name in ("orbit-left", "orbit-right")

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        if self._sideways:
            axis = start.upright_axis(scale)
            angle = self.degrees if self.name == "orbit-right" else -self.degrees
        else:
            axis = start.right
            up = scale.up.to(start.world_from_cam)
            elevation = degrees(atan2(-float(start.forward @ up), -float(start.down @ up)))
            if self.name == "orbit-up":
                angle = -min(self.degrees, max(_MAX_ELEVATION - elevation, 0.0))
            else:
                angle = min(self.degrees, max(elevation + _MAX_ELEVATION, 0.0))
        return _turned(start, axis, progress * radians(angle), start.center)

    def effort(self, scale: SceneScale) -> float:
        return radians(self.degrees)

    def scaled(self, fraction: float) -> "Orbit":
        return replace(self, degrees=self.degrees * fraction)


@dataclass(frozen=True)
class Turn(Move):
    """Turn on the spot. `pan-left` looks further left, about the world's up; `tilt-up` looks further up, about the
    camera's right axis. The camera's centre stays. `degrees` is up to 360 for pans and 90 for tilts."""

    name: str
    degrees: float

    def __post_init__(self) -> None:
        _check_name(self.name, ("pan-left", "pan-right", "tilt-up", "tilt-down"))
        _check_amount(self.name, self.degrees, 360.0 if self.name.startswith("pan") else 90.0, "degrees")

    def __str__(self) -> str:
        return f"{self.name}:{number_text(self.degrees)}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        axis = start.upright_axis(scale) if self.name.startswith("pan") else start.right
        sign = 1 if self.name in ("pan-left", "tilt-up") else -1
        return _turned(start, axis, progress * sign * radians(self.degrees), start.eye)

    def effort(self, scale: SceneScale) -> float:
        return radians(self.degrees)

    def scaled(self, fraction: float) -> "Turn":
        return replace(self, degrees=self.degrees * fraction)


@dataclass(frozen=True)
class Slide(Move):
    """Translate without turning: `dolly-in` and `dolly-out` along the optical axis, `truck-left` and `truck-right`
    along the camera's right axis, `pedestal-up` and `pedestal-down` along the world's up.

    A later orbit keeps its centre through a dolly; where the dolly comes to the centre (nearer than 0.1 r), the next
    centre is again r ahead.
    """

    name: str
    length: Length

    def __post_init__(self) -> None:
        _check_name(self.name, ("dolly-in", "dolly-out", "truck-left", "truck-right", "pedestal-up", "pedestal-down"))

    def __str__(self) -> str:
        return f"{self.name}:{self.length}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        direction = {
            "dolly-in": start.forward,
            "dolly-out": -start.forward,
            "truck-left": -start.right,
            "truck-right": start.right,
            "pedestal-up": scale.up.to(start.world_from_cam),
            "pedestal-down": -scale.up.to(start.world_from_cam),
        }[self.name]
        poses = start.world_from_cam.repeat(len(progress), 1, 1)
        poses[:, :3, 3] += progress[:, None] * self.length.in_world_units(scale) * direction
        return poses

    def effort(self, scale: SceneScale) -> float:
        return self.length.in_world_units(scale) / scale.radius

    def scaled(self, fraction: float) -> "Slide":
        return replace(self, length=self.length.scaled(fraction))

    def end(self, start: View, scale: SceneScale) -> View:
        end = super().end(start, scale)
        if not self.name.startswith("dolly"):
            return end
        approach = self.length.in_world_units(scale) * (1 if self.name == "dolly-in" else -1)
        focus = start.focus - approach
        return replace(end, focus=focus if focus >= _MIN_FOCUS * scale.radius else scale.radius)


@dataclass(frozen=True)
class Zoom(Move):
    """Change the focal length alone: `zoom-in:1.5` ends with 1.5 times the start's, `zoom-out:1.5` with 1/1.5.

    Equal steps of progress magnify by equal factors. The factor is at least 1 and at most 10.
    """

    name: str
    factor: float

    def __post_init__(self) -> None:
        _check_name(self.name, ("zoom-in", "zoom-out"))
        if not 1 <= self.factor <= 10:
            raise InputError(
                f"{self.name} takes a factor from 1 to 10, not {self.factor:g}; 1.5 makes things 1.5 times "
                f"{'larger' if self.name == 'zoom-in' else 'smaller'}"
            )

    def __str__(self) -> str:
        return f"{self.name}:{number_text(self.factor)}"

    def poses(self, start: View, scale: SceneScale, progress: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
        return start.world_from_cam.repeat(len(progress), 1, 1)

    def zoom(self, progress: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        factor = self.factor if self.name == "zoom-in" else 1 / self.factor
        return torch.full_like(progress, factor) ** progress

    def effort(self, scale: SceneScale) -> float:
        return log(self.factor)

    def scaled(self, fraction: float) -> "Zoom":
        return replace(self, factor=self.factor**fraction)


def _turned(
    start: View, axis: Float[Tensor, "3"], angles: Float[Tensor, " n"], pivot: Float[Tensor, "3"]
) -> Float[Tensor, "n 4 4"]:
    """The start's pose turned rigidly about `axis` (right-hand rule, radians) through `pivot`."""
    half = angles / 2
    rotation = matrix_from_quaternion(torch.cat([half.cos()[:, None], half.sin()[:, None] * axis], dim=1))
    poses = start.world_from_cam.repeat(len(angles), 1, 1)
    poses[:, :3, :3] = rotation @ start.world_from_cam[:3, :3]
    poses[:, :3, 3] = pivot + rotation @ (start.eye - pivot)
    return poses


def _check_name(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise InputError(f"the move '{name}' is none of {', '.join(known)}")


def _check_amount(name: str, amount: float, largest: float, unit: str) -> None:
    if not (isfinite(amount) and 0 <= amount <= largest):
        raise InputError(f"{name} takes from 0 to {largest:g} {unit}, not {amount:g}; the name says which way")
