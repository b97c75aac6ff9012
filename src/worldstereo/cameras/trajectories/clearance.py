"""Trajectories shortened where they would run into the geometry."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.trajectories.moves import Move, View
from worldstereo.cameras.trajectories.trajectory import Trajectory, start_view
from worldstereo.cameras.trajectories.units import SceneScale

_SAMPLES_PER_CLEARANCE = 4
_MIN_SAMPLES = 64
_MAX_SAMPLES = 2048
_HALVINGS = 8  # the fraction of a move is found to 1/256
_NEARER_ALLOWED = 0.9  # of the distance at the start, where that is already below the clearance
_NEIGHBOURS = 16  # points that make up a patch of surface
_FLATNESS = 0.3  # a patch is a surface if it is thinner than this, relative to its smaller width
_SPACING_RANK = (
    8  # the spacing at a point is the distance to its 8th neighbour: twice the step of a square grid at most
)
_GAP = 1.5  # a patch has a hole where its nearest point is farther than this times the spacing


@dataclass(frozen=True, eq=False)
class Obstacles:
    """The scene's points with a search tree, built once for all the paths that are tested against them.

    Attributes:
        points: world coordinates; may be empty.
    """

    points: Float[Tensor, "p 3"]

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points.detach().cpu().double().numpy(), balanced_tree=False, compact_nodes=False)

    def distance(self, eyes: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Distance from each position to the nearest point; infinite if there are no points."""
        if len(self.points) == 0:
            return torch.full((len(eyes),), float("inf"), dtype=torch.float64)
        return torch.from_numpy(self._tree.query(eyes.numpy())[0])

    def crossed(self, eyes: Float[Tensor, "n 3"]) -> Bool[Tensor, " m"]:
        """Whether each of the n - 1 steps between successive positions passes through a surface of points.

        The points nearest to a step's middle form a patch. The step crosses it if the patch is flat, the step's ends
        lie on its two sides, and it has points close around the crossing, close being relative to the spacing of
        the cloud there: a wall stops the camera however sparsely it is sampled, a doorway does not.
        """
        before, after = eyes[:-1].numpy(), eyes[1:].numpy()
        k = min(_NEIGHBOURS, len(self.points))
        if k < 4:
            return torch.zeros(len(before), dtype=torch.bool)
        _, index = self._tree.query((before + after) / 2, k=k)
        patch = np.asarray(self._tree.data)[index]
        middle = patch.mean(axis=1)
        variance, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", patch - middle[:, None], patch - middle[:, None]))
        normal = axes[:, :, 0]
        side0 = np.einsum("ni,ni->n", before - middle, normal)
        side1 = np.einsum("ni,ni->n", after - middle, normal)
        flat = np.sqrt(variance[:, 0].clip(0)) < _FLATNESS * np.sqrt(variance[:, 1].clip(0))
        crossing = flat & (side0 * side1 <= 0) & (side0 != side1)
        found = np.flatnonzero(crossing)
        ratio = side0[found] / (side0[found] - side1[found])
        hit = before[found] + ratio[:, None] * (after - before)[found]
        crossing[found] = _covered(hit, patch[found], axes[found], self._spacing(patch[found]))
        return torch.from_numpy(crossing)

    def _spacing(self, patch: np.ndarray) -> np.ndarray:
        """How far apart the cloud's points are around those of each patch."""
        rank = min(_SPACING_RANK, len(self.points) - 1) + 1  # the first neighbour is the point itself
        return np.median(self._tree.query(patch, k=[rank])[0][..., 0], axis=-1)


def shorten_to_clear(
    trajectory: Trajectory,
    start: Cameras,
    scale: SceneScale,
    obstacles: Obstacles,
    clearance: float = 0.1,
) -> tuple[Trajectory, float]:
    """The trajectory with as much of each move as keeps clear of the points.

    Move by move, each beginning where the one before it now ends, the largest fraction of the amount (to 1/256) is
    kept whose whole path stays at least `clearance` away from every point and passes through no surface. An ellipse
    and a spiral shrink, so that a closed path stays closed; other moves stop earlier. Turns and zooms are never
    touched. The path is tested densely between the frames (steps of a quarter of the clearance), so the result does
    not depend on the number of frames. If the start is already nearer than the clearance to a point, the path may not
    come nearer than nine tenths of that distance.

    What no point shows is taken to be free: behind the first picture's surfaces nothing is known.

    Args:
        trajectory: the wish.
        start: one camera.
        scale: the scene's size.
        obstacles: the scene's points; the search tree is built at the first call and kept.
        clearance: smallest distance to the points, in r.

    Returns:
        the trajectory, and the kept share of its effort in [0, 1]: exactly 1 (and the same trajectory) if nothing was
        shortened; near 0 if the camera can hardly move, when the path had better be left out.

    Raises:
        InputError: `start` is not one camera, or metres in a scene that is not metric.
    """
    view = start_view(start, scale)
    wanted = clearance * scale.radius
    limit = min(wanted, _NEARER_ALLOWED * float(obstacles.distance(view.eye[None])[0]))
    moves = []
    for move in trajectory.moves:
        kept = _clear_part(move, view, scale, obstacles, limit, wanted / _SAMPLES_PER_CLEARANCE)
        moves.append(kept)
        view = kept.end(view, scale)
    shortened = Trajectory(tuple(moves))
    if shortened == trajectory:
        return trajectory, 1.0
    effort = sum(move.effort(scale) for move in trajectory.moves)
    return shortened, sum(move.effort(scale) for move in moves) / effort


def _clear_part(move: Move, view: View, scale: SceneScale, obstacles: Obstacles, limit: float, step: float) -> Move:
    """The largest part of a move that is clear, by bisection of its amount."""
    if _is_clear(move, view, scale, obstacles, limit, step):
        return move
    clear, blocked = 0.0, 1.0
    for _ in range(_HALVINGS):
        fraction = (clear + blocked) / 2
        if _is_clear(move.scaled(fraction), view, scale, obstacles, limit, step):
            clear = fraction
        else:
            blocked = fraction
    return move.scaled(clear)


def _is_clear(move: Move, view: View, scale: SceneScale, obstacles: Obstacles, limit: float, step: float) -> bool:
    """Whether the whole path of a move keeps `limit` away from the points and crosses no surface."""
    eyes = _eyes(move, view, scale, _MIN_SAMPLES)
    length = float((eyes[1:] - eyes[:-1]).norm(dim=1).sum())
    if length < 1e-6 * scale.radius:
        return True
    eyes = _eyes(move, view, scale, min(max(ceil(length / step) + 1, _MIN_SAMPLES), _MAX_SAMPLES))
    return bool((obstacles.distance(eyes) >= limit).all()) and not bool(obstacles.crossed(eyes).any())


def _eyes(move: Move, view: View, scale: SceneScale, samples: int) -> Float[Tensor, "n 3"]:
    return move.poses(view, scale, torch.linspace(0, 1, samples, dtype=torch.float64))[:, :3, 3]


def _covered(hit: np.ndarray, patch: np.ndarray, axes: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Whether points of the patch lie all around the hit and no farther from it than the spacing allows."""
    offset = patch - hit[:, None]
    near = np.linalg.norm(offset, axis=-1).min(axis=-1) <= _GAP * spacing
    across, along = (np.einsum("nki,ni->nk", offset, axes[:, :, column]) for column in (1, 2))
    direction = np.sort(np.arctan2(across, along), axis=-1)
    gaps = np.diff(np.concatenate([direction, direction[:, :1] + 2 * np.pi], axis=-1), axis=-1)
    return near & (gaps.max(axis=-1) < np.pi)
