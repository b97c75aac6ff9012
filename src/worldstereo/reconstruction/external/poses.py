"""The networks' poses as `cam_from_world`, 4×4."""

import torch
from jaxtyping import Float
from torch import Tensor


def with_last_row(cam_from_world: Float[Tensor, "n r 4"]) -> Float[Tensor, "n 4 4"]:
    """Poses given as 3×4 or 4×4, float32."""
    poses = torch.eye(4).repeat(len(cam_from_world), 1, 1)
    poses[:, :3] = cam_from_world[:, :3].float().cpu()
    return poses


def inverted(world_from_cam: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
    """`cam_from_world` of camera-to-world poses, float32; the rotations may be off by the network's rounding."""
    return torch.linalg.inv(world_from_cam.double().cpu()).float()
