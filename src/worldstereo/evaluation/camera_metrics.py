"""How far recovered cameras are from those that were commanded."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.alignment import Similarity, umeyama

_STILL = 1e-6


@dataclass(frozen=True)
class CameraErrors:
    """Errors of a path; lengths are in the true cameras' unit.

    Attributes:
        rotation_degrees: RotErr, the mean angle between the rotations relative to the first camera.
        translation: TransErr, the mean distance between the positions in the first camera's axes.
        ate: absolute trajectory error, the root mean square distance of the aligned centres.
        rpe_rotation_degrees: mean angle between the turns from each camera to the next.
        rpe_translation: root mean square distance between the steps from each camera to the next.
        scale: what the recovered positions were multiplied by.
        path_length: of the true path, to put lengths into relation.
        note: why figures are missing; empty if none is. Without a common scale all three lengths are missing.
        rotations_degrees: what RotErr is the mean of, one for each camera after the first.
        translations: what TransErr is the mean of, likewise; empty without a common scale.
    """

    rotation_degrees: float
    translation: float | None
    ate: float | None
    rpe_rotation_degrees: float
    rpe_translation: float | None
    scale: float | None
    path_length: float
    note: str = ""
    rotations_degrees: tuple[float, ...] = ()
    translations: tuple[float, ...] = ()


def camera_errors(estimated: Cameras, truth: Cameras, *, metric: bool = False) -> CameraErrors:
    """Compare paths of the same frames.

    Worlds and, unless `metric`, scales of the two may differ. RotErr and TransErr put both into the axes of the
    first camera (as CameraCtrl does, He et al., 2024); TransErr scales the recovered positions by least squares. ATE
    aligns all centres by `align_cameras`, rigidly if `metric` (Sturm et al., 2012). RPE scales by the same factor.

    Nothing changes if the recovered world is moved or turned, or scaled unless `metric`.

    Args:
        metric: both have one unit: no scale is fitted.

    Raises:
        InputError: unequal numbers, or fewer than two cameras.
    """
    if len(estimated) != len(truth) or len(truth) < 2:
        raise InputError(f"{len(estimated)} recovered and {len(truth)} true cameras: give two or more, as many of both")
    ours, theirs = (cameras.world_from_cam.double().cpu() for cameras in (estimated, truth))
    relative, true_relative = (torch.linalg.inv(poses[:1]) @ poses for poses in (ours, theirs))
    angles = _degrees(relative[1:, :3, :3], true_relative[1:, :3, :3])
    steps, true_steps = (_steps(poses) for poses in (ours, theirs))
    turns = float(_degrees(steps[:, :3, :3], true_steps[:, :3, :3]).mean())
    length = float(true_steps[:, :3, 3].norm(dim=1).sum())
    alignment = align_cameras(estimated, truth, metric=metric)
    if alignment is None:
        note = "the cameras do not move, so there is no common scale: positions cannot be compared"
        each = tuple(angles.tolist())
        return CameraErrors(float(angles.mean()), None, None, turns, None, None, length, note, each)
    places, true_places = relative[:, :3, 3], true_relative[:, :3, 3]
    own_scale = 1.0 if metric else _best_scale(places, true_places)
    moved = alignment.apply(ours[:, :3, 3])
    distances = (own_scale * places - true_places)[1:].norm(dim=1)
    return CameraErrors(
        rotation_degrees=float(angles.mean()),
        translation=float(distances.mean()),
        ate=_rms(moved - theirs[:, :3, 3]),
        rpe_rotation_degrees=turns,
        rpe_translation=_rms(alignment.scale * steps[:, :3, 3] - true_steps[:, :3, 3]),
        scale=alignment.scale,
        path_length=length,
        rotations_degrees=tuple(angles.tolist()),
        translations=tuple(distances.tolist()),
    )


def align_cameras(estimated: Cameras, truth: Cameras, *, metric: bool = False) -> Similarity | None:
    """From the recovered world to the true one: Umeyama's similarity of the centres, in float64.

    Centres on a line leave the turn about it open, and centres that stand still every turn: it comes from the
    orientations then.

    Args:
        metric: both have one unit: the scale is 1.

    Returns:
        None where a scale is wanted but one of both does not move.
    """
    ours, theirs = (cameras.world_from_cam.double().cpu() for cameras in (estimated, truth))
    a, b = ours[:, :3, 3], theirs[:, :3, 3]
    mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
    turns = (theirs[:, :3, :3] @ ours[:, :3, :3].transpose(1, 2)).sum(dim=0)
    if _stands_still(a) or _stands_still(b):
        if not metric:
            return None
        rotation = _nearest_rotation(turns)
    elif _is_a_line(a) or _is_a_line(b):
        rotation = _turn_along_lines((b - mean_b).T @ (a - mean_a), turns)
    else:
        rotation = umeyama(a, b).rotation
    scale = 1.0 if metric else _best_scale((a - mean_a) @ rotation.T, b - mean_b)
    return Similarity(rotation, mean_b - scale * rotation @ mean_a, scale)


def _stands_still(places: Float[Tensor, "n 3"]) -> bool:
    size = max(1.0, float(places.norm(dim=1).max()))
    return float((places - places.mean(dim=0)).norm()) <= _STILL * size


def _is_a_line(places: Float[Tensor, "n 3"]) -> bool:
    spread = torch.linalg.svdvals(places - places.mean(dim=0))
    return len(places) < 3 or not bool(spread[1] > 1e-3 * spread[0])


def _turn_along_lines(correlation: Float[Tensor, "3 3"], turns: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """One line upon the other, as the centres' correlation has them; the turn about it is nearest to `turns`."""
    u, _, vt = torch.linalg.svd(correlation)
    u[:, 2] *= torch.linalg.det(u)
    vt[2] *= torch.linalg.det(vt)
    rotation = torch.eye(3, dtype=u.dtype)
    rotation[1:, 1:] = _nearest_rotation(u[:, 1:].T @ turns @ vt[1:].T)
    return u @ rotation @ vt


def _nearest_rotation(matrix: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """In the chordal sense: the mean of the rotations that `matrix` is the sum of."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.ones(len(u), dtype=u.dtype)
    sign[-1] = torch.sign(torch.linalg.det(u @ vt))
    return u @ torch.diag(sign) @ vt


def _best_scale(places: Float[Tensor, "n 3"], true_places: Float[Tensor, "n 3"]) -> float:
    return float((places * true_places).sum() / (places**2).sum().clamp(min=1e-30))


def _steps(poses: Float[Tensor, "n 4 4"]) -> Float[Tensor, "m 4 4"]:
    return torch.stack([torch.linalg.inv(one) @ other for one, other in pairwise(poses)])


def _degrees(rotations: Float[Tensor, "n 3 3"], others: Float[Tensor, "n 3 3"]) -> Float[Tensor, " n"]:
    """Geodesic angles, exact for small ones too: |R − S| = 2√2 sin(angle / 2)."""
    chord = (rotations - others).flatten(1).norm(dim=1)
    return torch.rad2deg(2 * torch.asin((chord / 8**0.5).clamp(max=1)))


def _rms(differences: Float[Tensor, "n 3"]) -> float:
    return float(differences.square().sum(dim=1).mean().sqrt())
