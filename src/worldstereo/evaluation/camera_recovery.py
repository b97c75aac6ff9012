"""Where a camera must have stood for a frame to show what it shows, of a scene whose surfaces are known."""

from math import cos, radians

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.evaluation.reprojection import sample

_REDUCTIONS = (4, 2, 1)
_ITERATIONS = 8
_MOST_PIXELS = 4000
_FEWEST_PIXELS = 200
_ROBUST = 0.1  # grey difference from which pixels count less
_DAMPING = 1e-4
_LARGEST_TURN = 20.0  # degrees
_FARTHEST = 0.5  # of the median depth


def recover_camera(
    frame: Float[Tensor, "3 h w"],
    truth: Float[Tensor, "3 h w"],
    depth: Float[Tensor, "h w"],
    commanded: Cameras,
    mask: Bool[Tensor, "h w"],
) -> Cameras | None:
    """The camera whose view of the true surfaces agrees best with a generated frame.

    Direct alignment (Lucas and Kanade, 1981; photometric, as in Steinbrücker et al., 2011): the pose moves from the
    commanded one until the frame's grey values, where the surfaces of the mask's pixels fall, are the truth's up to
    gain and offset; Gauss–Newton with robust weights from coarse to fine. No features are needed, but it starts from
    the commanded pose: errors of many pixels may stay unseen, so it serves for small ones.

    Args:
        truth: what the commanded camera really sees.
        depth: z-depth of the truth, 0 = unknown.
        commanded: one camera.
        mask: pixels of which the frame can be expected to show the truth.

    Returns:
        None where fewer than 200 pixels are known, and where the pose left the commanded one by more than 20° or half
        the median depth: then nothing was found to align with.
    """
    mask = mask & (depth > 0)
    if int(mask.sum()) < _FEWEST_PIXELS:
        return None
    pose = commanded.cam_from_world[0].double()
    for reduction in _REDUCTIONS:
        height, width = (side // reduction for side in depth.shape)
        small = commanded.resized(width, height)
        ours, true = (
            F.interpolate(each.mean(dim=0)[None, None], size=(height, width), mode="area")[0] for each in (frame, truth)
        )
        near, inside = (
            F.interpolate(each[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0]
            for each in (depth, mask)
        )
        chosen = (inside > 0) & (near > 0)
        step = max(1, int(chosen.sum()) // _MOST_PIXELS)
        points = small.unproject(near[None])[0][chosen][::step].double()
        values = true[0][chosen][::step].double()
        if len(points) >= _FEWEST_PIXELS // reduction**2:
            pose = _aligned(pose, small.intrinsics[0].double(), _with_gradients(ours), points, values)
    rotation = _nearest_rotation(pose[:3, :3])
    if not _is_near(rotation, pose[:3, 3], commanded, _FARTHEST * float(depth[mask].median())):
        return None
    exact = torch.eye(4, dtype=torch.float64)
    exact[:3, :3], exact[:3, 3] = rotation, pose[:3, 3]
    return Cameras(exact.float()[None], commanded.intrinsics, commanded.width, commanded.height)


def _aligned(
    pose: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    picture: Float[Tensor, "3 h w"],
    points: Float[Tensor, "p 3"],
    values: Float[Tensor, " p"],
) -> Float[Tensor, "4 4"]:
    """The pose after some steps of Gauss–Newton, with gain and offset of the picture as further unknowns."""
    size = points.new_tensor([picture.shape[2], picture.shape[1]])
    gain, offset = 1.0, 0.0
    for _ in range(_ITERATIONS):
        camera = points @ pose[:3, :3].T + pose[:3, 3]
        image = camera @ intrinsics.T
        pixels = image[:, :2] / image[:, 2:]
        inside = (camera[:, 2] > 0) & (pixels >= 0).all(dim=1) & (pixels <= size).all(dim=1)
        if int(inside.sum()) < 8:
            return pose
        x, y, z = camera[inside].unbind(dim=1)
        grey, across, down = sample(picture, pixels[inside][None].float())[:, 0].double()
        residual = gain * grey + offset - values[inside]
        along_x, along_y = gain * across * intrinsics[0, 0] / z, gain * down * intrinsics[1, 1] / z
        along_z = -(along_x * x + along_y * y) / z
        turning = [along_z * y - along_y * z, along_x * z - along_z * x, along_y * x - along_x * y]
        jacobian = torch.stack([along_x, along_y, along_z, *turning, grey, torch.ones_like(grey)], dim=1)
        weight = 1 / (1 + (residual / _ROBUST) ** 2)
        normal = jacobian.T @ (weight[:, None] * jacobian)
        normal = normal + _DAMPING * torch.diag(normal.diagonal() + 1e-9)
        change = -torch.linalg.solve(normal, jacobian.T @ (weight * residual))
        twist = torch.zeros(4, 4, dtype=torch.float64)
        twist[:3, 3] = change[:3]
        a, b, c = change[3:6]
        twist[0, 1], twist[0, 2], twist[1, 2] = -c, b, -a
        twist[1, 0], twist[2, 0], twist[2, 1] = c, -b, a
        pose = torch.linalg.matrix_exp(twist) @ pose
        gain, offset = gain + float(change[6]), offset + float(change[7])
    return pose


def _with_gradients(grey: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 h w"]:
    """The picture and its central differences along x and y."""
    padded = F.pad(grey[None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    return torch.stack([grey[0], across, down])


def _is_near(
    rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], commanded: Cameras, farthest: float
) -> bool:
    start = commanded.cam_from_world[0].double()
    cosine = (torch.trace(rotation @ start[:3, :3].T) - 1) / 2
    step = (rotation.T @ translation - start[:3, :3].T @ start[:3, 3]).norm()
    return bool(cosine > cos(radians(_LARGEST_TURN))) and float(step) <= farthest


def _nearest_rotation(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    u, _, vt = torch.linalg.svd(matrix)
    return u @ vt
