"""Camera trajectories: moves with amounts, sequences, presets, and keeping clear of the geometry."""

from worldstereo.cameras.trajectories.clearance import Obstacles, shorten_to_clear
from worldstereo.cameras.trajectories.curves import Ellipse, Spiral, Spline
from worldstereo.cameras.trajectories.moves import Move, Orbit, Slide, Turn, Zoom
from worldstereo.cameras.trajectories.parsing import MOVE_KINDS, parse_trajectory, preset
from worldstereo.cameras.trajectories.presets import PRESETS
from worldstereo.cameras.trajectories.trajectory import Trajectory
from worldstereo.cameras.trajectories.units import Length, SceneScale

__all__ = [
    "MOVE_KINDS",
    "PRESETS",
    "Ellipse",
    "Length",
    "Move",
    "Obstacles",
    "Orbit",
    "SceneScale",
    "Slide",
    "Spiral",
    "Spline",
    "Trajectory",
    "Turn",
    "Zoom",
    "parse_trajectory",
    "preset",
    "shorten_to_clear",
]
