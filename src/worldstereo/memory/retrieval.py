"""Which frames of the spatial-stereo memory a clip refers to: the published overlap score, and the choice of few."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError

Rule = Literal["coverage", "published"]


def frustum_overlap(
    targets: Cameras, bank: Cameras, *, near: float = 0.1, far: float = 10.0
) -> tuple[Float[Tensor, "t b"], Float[Tensor, "t b"]]:
    """The two figures of the published rule, for every target and every bank camera.

    A frustum is the 8 points `near` and `far` (scene units, along the ray) from the centre through the four
    image corners; the overlap is the intersection over union of the boxes around them that are aligned with the
    world axes. So the overlap depends on the orientation of the world and on its unit, and knows no occlusion:
    the `coverage` rule is ours and knows better.

    Source: the official WorldStereo 2.0 memory bank.

    Returns:
        overlap in [0, 1], and the angle between the optical axes in degrees.

    Raises:
        InputError: not 0 < near < far.
    """
    if not 0 < near < far:
        raise InputError(f"near {near} and far {far} must satisfy 0 < near < far")
    target_low, target_high = _frustum_boxes(targets, near, far)
    bank_low, bank_high = _frustum_boxes(bank, near, far)
    extent = torch.minimum(target_high[:, None], bank_high) - torch.maximum(target_low[:, None], bank_low)
    shared = extent.clamp(min=0).prod(dim=-1)
    union = (target_high - target_low).prod(dim=-1)[:, None] + (bank_high - bank_low).prod(dim=-1) - shared
    cosine = targets.forward.double() @ bank.forward.double().T
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    return (shared / (union + 1e-8)).float(), angle.float()


def published_scores(targets: Cameras, bank: Cameras, *, near: float = 0.1, far: float = 10.0) -> Float[Tensor, "t b"]:
    """Scores in [0, 1] of the published rule: `frustum_overlap` times a factor of the angle between the axes.

    The factor is exp(5 (90° − angle) / 180°), at most 1: none up to 90°, 0.43 at 120°, 0.08 at 180°.
    """
    overlap, angle = frustum_overlap(targets, bank, near=near, far=far)
    return overlap * torch.exp(5 * (90 - angle) / 180).clamp(max=1)


def choose(
    scores: Float64[ndarray, "t b"],
    features: Float64[ndarray, "b d"],
    *,
    max_references: int,
    least: float,
) -> tuple[Int64[ndarray, " r"], Int64[ndarray, " t"]]:
    """At most `max_references` distinct bank frames for all targets.

    Each target asks for its best frame. Where these are too many, farthest-point sampling over `features` takes
    `max_references` of them (distances are multiplied by 0.5 + quality, the quality of a frame being the sum of
    its scores over all targets, relative to the largest), and each target is given its best among those taken.
    Equal scores go to the earlier frame.

    Args:
        scores: how useful each bank frame is to each target, in [0, 1].
        features: a position per bank frame in which near means alike.
        max_references: at least 1.
        least: a score must be larger than this to count.

    Returns:
        bank indices of the references in order of their first use, and per target the position in them or −1.

    Raises:
        InputError: `max_references` < 1.
    """
    if max_references < 1:
        raise InputError(f"max_references is {max_references} but must be at least 1")
    if scores.shape[1] == 0:
        return np.zeros(0, np.int64), np.full(len(scores), -1, np.int64)
    best = _best(scores, least)
    candidates = np.unique(best[best >= 0])
    if len(candidates) > max_references:
        quality = scores[:, candidates].sum(axis=0)
        taken = np.sort(candidates[_farthest_points(features[candidates], quality / quality.max(), max_references)])
        among = _best(scores[:, taken], least)
        best = np.where(among >= 0, taken[among], -1)
    used, first = np.unique(best[best >= 0], return_index=True)
    references = used[np.argsort(first)].astype(np.int64)
    position = np.full(scores.shape[1] + 1, -1, np.int64)  # the last entry answers index -1
    position[references] = np.arange(len(references))
    return references, position[best]


def view_features(cameras: Cameras, scale: float) -> Float64[ndarray, "b 6"]:
    """Camera centres in units of `scale` (a typical distance to what is seen) beside unit viewing directions.

    Euclidean distances between them do not depend on the orientation of the world, nor on its unit when `scale`
    is measured in it: a step by `scale` counts as much as a turn by 60°.
    """
    return torch.cat([cameras.centers.double() / scale, cameras.forward.double()], dim=1).cpu().numpy()


def _frustum_boxes(cameras: Cameras, near: float, far: float) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, "n 3"]]:
    w, h = cameras.width, cameras.height
    corners = torch.tensor([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]], dtype=torch.float64)
    rays = corners.to(cameras.intrinsics.device) @ torch.linalg.inv(cameras.intrinsics.double()).transpose(1, 2)
    rays = torch.nn.functional.normalize(rays, dim=-1) @ cameras.cam_from_world[:, :3, :3].double()
    points = cameras.centers.double()[:, None] + torch.cat([near * rays, far * rays], dim=1)
    return points.amin(dim=1), points.amax(dim=1)


def _best(scores: Float64[ndarray, "t b"], least: float) -> Int64[ndarray, " t"]:
    best = scores.argmax(axis=1)
    return np.where(scores[np.arange(len(scores)), best] > least, best, -1)


def _farthest_points(
    features: Float64[ndarray, "c d"], quality: Float64[ndarray, " c"], count: int
) -> Int64[ndarray, " k"]:
    weight = 0.5 + quality
    taken = [int(quality.argmax())]
    nearest = np.full(len(features), np.inf)
    while len(taken) < count:
        nearest = np.minimum(nearest, np.linalg.norm(features - features[taken[-1]], axis=1))
        nearest[taken] = -1
        taken.append(int((nearest * weight).argmax()))
    return np.array(taken, dtype=np.int64)
