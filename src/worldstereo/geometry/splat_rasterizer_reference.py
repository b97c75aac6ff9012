"""The splat rasteriser in plain torch: the statement of its semantics, against which the compiled one is tested."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.geometry.splat_rasterizer import BLUR, NEAREST_Z, SplatImage


def composite_splats_reference(
    means: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 3"],
    rotations: Float[Tensor, "n 4"],
    opacities: Float[Tensor, " n"],
    values: Float[Tensor, "n c"],
    camera: Cameras,
    *,
    blur: float = BLUR,
) -> SplatImage:
    """What `composite_splats` gives, up to rounding, in the precision of the tensors. O(n · pixels) time and memory."""
    width, height = camera.width, camera.height
    pose, k = camera.cam_from_world[0].to(means), camera.intrinsics[0].to(means)
    place = means @ pose[:3, :3].T + pose[:3, 3]
    z = place[:, 2]
    in_front = z > NEAREST_Z
    z = torch.where(in_front, z, 1.0)
    ratio = place[:, :2] / z[:, None]
    pixels = torch.where(in_front[:, None], ratio @ k[:2, :2].T + k[:2, 2], 0.0)

    size = means.new_tensor([width, height])
    focal, centre = torch.stack([k[0, 0], k[1, 1]]), k[:2, 2]
    held = torch.minimum(torch.maximum(ratio, -centre / focal - 0.15 * size / focal), (1.15 * size - centre) / focal)
    onto_plane = torch.cat([torch.eye(2).to(means).expand(len(z), 2, 2), -held[:, :, None]], dim=2) / z[:, None, None]
    axes = k[:2, :2] @ onto_plane @ pose[:3, :3] @ matrix_from_quaternion(rotations) * scales[:, None]
    covariance = axes @ axes.transpose(1, 2) + blur * torch.eye(2).to(means)
    conic = torch.linalg.inv(covariance)

    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    offset = torch.stack([columns, rows], dim=-1).to(means).view(1, -1, 2) - pixels[:, None]
    exponent = 0.5 * torch.einsum("npi,nij,npj->np", offset, conic, offset)
    alpha = (opacities[:, None] * torch.exp(-exponent)).clamp(max=0.999)
    alpha = torch.where((alpha >= 1 / 255) & in_front[:, None], alpha, 0.0)

    order = torch.sort(z, stable=True).indices
    alpha, values = alpha[order], values[order]
    clear = torch.cumprod(1 - alpha, dim=0)
    counts = (clear > 1e-4).to(alpha)
    before = torch.cat([torch.ones_like(clear[:1]), clear[:-1]])
    weight = alpha * before * counts
    out = (values.T @ weight).view(-1, height, width)
    drawn = torch.zeros_like(in_front).index_put((order,), (alpha > 0).any(dim=1))
    return SplatImage(out, weight.sum(dim=0).view(height, width), pixels, drawn)
