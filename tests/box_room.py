"""A textured room with a box in it, ray-cast in closed form: exact pictures and depth for any camera."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction

_ROOM = (torch.tensor([-3.0, -1.5, -2.0]), torch.tensor([3.0, 1.5, 5.0]))
_BOX = (torch.tensor([-0.6, 0.2, 2.0]), torch.tensor([0.5, 1.5, 3.0]))


def see_room(cameras: Cameras) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
    """Pictures and z-depth."""
    rays = torch.einsum("nji,nhwj->nhwi", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())
    start = cameras.centers[:, None, None]
    near, far = _slabs(start, rays, *_BOX)
    hits_box = (near < far) & (near > 0)
    depth = torch.where(hits_box, near, _slabs(start, rays, *_ROOM)[1])
    place = start + depth[..., None] * rays
    wave = torch.sin(place @ torch.tensor([[7.0, 2.0, 3.0], [3.0, 8.0, 1.0], [1.0, 3.0, 9.0]]))
    rgb = 0.5 + 0.2 * wave + 0.2 * hits_box[..., None] * torch.tensor([1.0, -1.0, 0.5])
    return rgb.permute(0, 3, 1, 2).clamp(0, 1), depth


def look(x: float, yaw_degrees: float, width: int = 128, height: int = 80, fov: float = 70.0) -> Cameras:
    """A camera at (x, 0, 0), turned to the right by `yaw_degrees`."""
    yaw = torch.deg2rad(torch.tensor(yaw_degrees))
    pose = torch.eye(4)
    pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = yaw.cos(), -yaw.sin(), yaw.sin(), yaw.cos()
    pose[:3, 3] = -pose[:3, :3] @ torch.tensor([x, 0.0, 0.0])
    return Cameras.from_fov(fov, width, height).with_poses(pose[None])


def predicted(depth: Float[Tensor, "h w"], sky: Bool[Tensor, "h w"] | None = None) -> DepthPrediction:
    """A depth back-end's answer."""
    nowhere = torch.zeros_like(depth, dtype=torch.bool)
    return DepthPrediction(depth, nowhere if sky is None else sky, None, True, "test")


def _slabs(start: Tensor, rays: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave an axis-aligned box."""
    rays = torch.where(rays.abs() < 1e-9, 1e-9, rays)
    one, other = (low - start) / rays, (high - start) / rays
    return torch.minimum(one, other).amax(dim=-1), torch.maximum(one, other).amin(dim=-1)
