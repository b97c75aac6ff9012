"""A builder that places solids in nested frames, and the materials they wear."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import cos, hypot, sin

import numpy as np
import torch

from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.solids import BOX, ROUND, Solids
from worldstereo.data.procedural.textures import TEXTURES

Number = int | float
Color = tuple[Number, Number, Number]
Triple = tuple[Number, Number, Number]


@dataclass(frozen=True)
class Material:
    """How a surface looks; colours are sRGB in [0, 1], sizes metres."""

    texture: str
    colors: tuple[Color, Color, Color]
    period: tuple[Number, Number] = (1.0, 1.0)
    grain: Triple = (0.3, 0.3, 0.3)
    noise: Number = 0.6
    relief: Number = 0.0
    gloss: Number = 0.0
    glow: Number = 0.0

    def fitted(self, width: Number, height: Number) -> "Material":
        """The pattern stretched to a whole number of periods over a face."""
        u, v = self.period
        return replace(self, period=(width / max(1, round(width / u)), height / max(1, round(height / v))))


def rotation(yaw: Number = 0.0, pitch: Number = 0.0, roll: Number = 0.0) -> np.ndarray:
    """Turn about the vertical (z towards x), then tilts about the own x and z, in axes with y down."""
    cy, sy, cp, sp, cr, sr = cos(yaw), sin(yaw), cos(pitch), sin(pitch), cos(roll), sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


@dataclass
class Builder:
    """Collects the solids of one scene.

    Places are `(x, up, z)` in metres of the current frame: x right, up against gravity, z forward. The packed solids
    are in world axes with y down.
    """

    rng: Chance
    _rows: list[tuple] = field(default_factory=list)
    _turn: np.ndarray = field(default_factory=lambda: np.eye(3))
    _origin: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @contextmanager
    def at(self, x: Number, up: Number, z: Number, yaw: Number = 0.0) -> Iterator[None]:
        """A frame within the current one."""
        turn, origin = self._turn, self._origin
        self._origin = self._world(x, up, z)
        self._turn = turn @ rotation(yaw)
        try:
            yield
        finally:
            self._turn, self._origin = turn, origin

    def place(self, x: Number, up: Number, z: Number) -> Triple:
        """World point of a place in the current frame."""
        world = self._world(x, up, z)
        return (float(world[0]), float(world[1]), float(world[2]))

    def direction(self, x: Number, up: Number, z: Number) -> Triple:
        """World direction of one in the current frame."""
        world = self._turn @ np.array([x, -up, z])
        return (float(world[0]), float(world[1]), float(world[2]))

    def box(
        self, at: Triple, size: Triple, material: Material, yaw: Number = 0.0, pitch: Number = 0.0, roll: Number = 0.0
    ) -> None:
        """A box of a size (width, height, length) that stands on the place `at`, the middle of its base."""
        self._add(BOX, at, size, material, rotation(yaw, pitch, roll), (0, 0, 0))

    def ball(self, at: Triple, size: Triple, material: Material, yaw: Number = 0.0, pitch: Number = 0.0) -> None:
        """An ellipsoid of a size (diameters) whose lowest point (untilted) is `at`."""
        self._add(ROUND, at, size, material, rotation(yaw, pitch), (1, 0, -1))

    def tube(
        self,
        at: Triple,
        size: Triple,
        material: Material,
        top: Number = 1.0,
        yaw: Number = 0.0,
        pitch: Number = 0.0,
        roll: Number = 0.0,
    ) -> None:
        """A cylinder of a size (diameter, height, diameter) on the place `at`, tapering to `top` times its base."""
        mean, slope = (1 + top) / 2, (1 - top) / 2
        self._add(ROUND, at, size, material, rotation(yaw, pitch, roll), (mean**2, 2 * mean * slope, slope**2))

    def beam(
        self, start: Triple, end: Triple, size: tuple[Number, Number], material: Material, square: bool = True
    ) -> None:
        """A straight bar between two places with a cross section (width, thickness)."""
        x, up, z = (end[k] - start[k] for k in range(3))
        flat = hypot(x, z)
        turn = rotation(float(np.arctan2(x, z)), -float(np.arctan2(flat, up)))
        middle = tuple((start[k] + end[k]) / 2 for k in range(3))
        length = hypot(flat, up)
        low = (middle[0], middle[1] - length / 2, middle[2])
        shape, quadric = (BOX, (0, 0, 0)) if square else (ROUND, (1, 0, 0))
        self._add(shape, low, (size[0], length, size[1]), material, turn, quadric)

    def solids(self) -> Solids:
        """All solids packed."""

        def column(index: int) -> torch.Tensor:
            return torch.from_numpy(np.array([row[index] for row in self._rows], dtype=np.float32))

        def whole(index: int) -> torch.Tensor:
            return torch.tensor([row[index] for row in self._rows])

        return Solids(
            whole(0), column(1), column(2), column(3), column(4), whole(5), column(6), column(7), column(8), column(9)
        )

    def _world(self, x: Number, up: Number, z: Number) -> np.ndarray:
        return self._origin + self._turn @ np.array([x, -up, z])

    def _add(self, shape: int, at: Triple, size: Triple, m: Material, turn: np.ndarray, quadric: Triple) -> None:
        center = self._world(at[0], at[1] + size[1] / 2, at[2])
        linear = np.clip(np.array(m.colors), 0.0, 1.0) ** 2.2
        half = np.array(size) / 2
        self._rows.append(
            (
                shape,
                center,
                self._turn @ turn,
                half,
                quadric,
                list(TEXTURES).index(m.texture),
                linear,
                m.period,
                m.grain,
                (m.noise, m.relief, m.gloss, m.glow),
            )
        )
