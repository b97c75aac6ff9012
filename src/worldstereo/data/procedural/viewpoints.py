"""Hand-held photographer's poses in the free space of a scene."""

from math import atan2, hypot, pi, radians, tan

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.data.procedural.building import Number, rotation
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.solids import Solids


def propose(
    rng: Chance,
    count: int,
    walks: Float[Tensor, "w 2 3"],
    solids: Solids,
    size: tuple[int, int],
    fov_x_degrees: tuple[Number, Number],
) -> Cameras:
    """Poses in the walkable boxes that look ahead or at a thing, level within a few degrees; not yet tested."""
    width, height = size
    boxes = walks.cpu().double().numpy()
    extent = boxes[:, 1] - boxes[:, 0]
    area = np.maximum(extent[:, 0], 0.1) * np.maximum(extent[:, 2], 0.1)
    box = rng.generator.choice(len(boxes), size=count, p=area / area.sum())
    place = boxes[box, 0] + extent[box] * rng.generator.uniform(size=(count, 3))
    moderate = (solids.half.amax(dim=-1) < 4).cpu().numpy()
    things = solids.center.cpu().double().numpy()[moderate]

    pose = np.tile(np.eye(4), (count, 1, 1))
    intrinsics = np.tile(np.eye(3), (count, 1, 1))
    for k in range(count):
        yaw, pitch = rng.between(-pi, pi), rng.normal(-0.05, 0.09)
        if rng.happens(0.65):
            to = things - place[k]
            away = np.hypot(to[:, 0], to[:, 2])
            near = np.flatnonzero((away > 1.2) & (away < 18))
            if len(near):
                x, y, z = to[near[rng.integer(0, len(near))]]
                yaw = atan2(x, z) + rng.normal(0, 0.15)
                pitch = min(max(0.6 * atan2(-y, hypot(x, z)), -0.4), 0.25) + rng.normal(0, 0.05)
        world_from_cam = rotation(yaw, pitch, rng.normal(0, 0.02))
        pose[k, :3, :3] = world_from_cam.T
        pose[k, :3, 3] = -world_from_cam.T @ place[k]
        focal = width / (2 * tan(radians(rng.between(*fov_x_degrees)) / 2))
        intrinsics[k, :2] = np.array([[focal, 0, width / 2], [0, focal, height / 2]])
    return Cameras(
        torch.from_numpy(pose.astype(np.float32)), torch.from_numpy(intrinsics.astype(np.float32)), width, height
    )


def worth_taking(depth: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """1 for views with something to see: not mostly sky, nothing right before the lens, some variety of depth."""
    n = len(depth)
    flat = depth.reshape(n, -1)
    seen = flat > 0
    share = seen.float().mean(dim=1)
    closest = torch.where(seen, flat, torch.inf)
    too_close = (closest < 0.7).float().mean(dim=1)
    ordered = closest.sort(dim=1).values
    known = (share * flat.shape[1]).long().clamp(min=1)
    near, middle, far = (ordered.gather(1, (known[:, None] * p) // 100)[:, 0] for p in (15, 50, 85))
    return ((share > 0.35) & (too_close < 0.06) & (middle > 1.2) & (far > 1.5 * near)).float()
