"""Rotations: matrices, unit quaternions (w, x, y, z), interpolation between them, cameras that look at a point."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError


def quaternion_from_matrix(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions (w, x, y, z) with w ≥ 0 of rotation matrices.

    Each of the four components yields a candidate for the whole quaternion; the one with the largest
    leading component is used, so that no small number is divided by (Shepperd 1978).
    At exactly 180° both signs have w = 0 and either may come back.
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    # Row i is 4 · q_i · (q_w, q_x, q_y, q_z); its own entry, 4 q_i², is the largest where q_i is.
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, wx, wy, wz], dim=-1),
            torch.stack([wx, 1 + xx - yy - zz, xy, xz], dim=-1),
            torch.stack([wy, xy, 1 - xx + yy - zz, yz], dim=-1),
            torch.stack([wz, xz, yz, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    chosen = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quaternion = torch.nn.functional.normalize(chosen, dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z); any non-zero length is accepted."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(dim=-1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
        ],
        dim=-2,
    )


def slerp(
    start: Float[Tensor, "*#batch 3 3"], end: Float[Tensor, "*#batch 3 3"], t: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Rotations on the shortest way from `start` (t = 0) to `end` (t = 1) at constant angular speed.

    The three broadcast together: for n steps between two matrices give `t` of shape [n].
    """
    q0, q1 = torch.broadcast_tensors(quaternion_from_matrix(start), quaternion_from_matrix(end))
    q1 = torch.where((q0 * q1).sum(dim=-1, keepdim=True) < 0, -q1, q1)
    angle = 2 * torch.atan2((q1 - q0).norm(dim=-1), (q1 + q0).norm(dim=-1))
    near = angle < 1e-6
    sine = torch.where(near, torch.ones_like(angle), angle.sin())
    weight0 = torch.where(near, 1 - t, ((1 - t) * angle).sin() / sine)
    weight1 = torch.where(near, t, (t * angle).sin() / sine)
    return matrix_from_quaternion(weight0[..., None] * q0 + weight1[..., None] * q1)


def look_at(
    eye: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], down: Float[Tensor, "3"]
) -> Float[Tensor, "n 4 4"]:
    """`cam_from_world` of cameras at `eye` whose z axis points at `target` and whose y axis leans towards `down`.

    Args:
        eye: camera centres in the world.
        target: points that project to the principal point.
        down: world direction that points down in the images, of any length.

    Raises:
        InputError: an eye lies at its target, or looks exactly along `down`, so that the roll is undefined.
    """
    offset = target - eye
    if bool((offset.norm(dim=1) < 1e-9).any()):
        raise InputError("a camera lies at the very point that it should look at; move one of the two")
    forward = torch.nn.functional.normalize(offset, dim=1)
    side = torch.linalg.cross(torch.nn.functional.normalize(down, dim=0).expand_as(forward), forward)
    if bool((side.norm(dim=1) < 1e-6).any()):
        raise InputError("a camera looks exactly along the down direction, so its roll is undefined; tilt it a little")
    right = torch.nn.functional.normalize(side, dim=1)
    pose = torch.zeros(len(eye), 4, 4, dtype=eye.dtype, device=eye.device)
    pose[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    pose[:, :3, 3] = -(pose[:, :3, :3] @ eye[:, :, None])[..., 0]
    pose[:, 3, 3] = 1
    return pose
