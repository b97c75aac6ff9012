"""A batch of pinhole cameras that share an image size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import radians, tan

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.errors import InputError

_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras, in order, of one image size.

    OpenCV axes: x right, y down, z forward. A world point `X` has the camera coordinates
    `cam_from_world @ [X, 1]` and the pixel `intrinsics @ x / x_z`; the centre of the pixel in column `c`
    and row `r` is at `(c + 0.5, r + 0.5)`.

    Attributes:
        cam_from_world: rigid transforms (rotation and translation, last row 0 0 0 1), float32.
        intrinsics: `[[fx, s, cx], [0, fy, cy], [0, 0, 1]]` in pixels of the image, float32.
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        InputError: a field has a wrong shape, is not finite, or is not a rotation or an intrinsic matrix;
            the message names the field and the first camera at fault.
    """

    cam_from_world: Float[Tensor, "n 4 4"]
    intrinsics: Float[Tensor, "n 3 3"]
    width: int
    height: int

    def __post_init__(self) -> None:
        pose, k = self.cam_from_world.cpu(), self.intrinsics.cpu()  # not every device has float64
        if pose.ndim != 3 or pose.shape[1:] != (4, 4):
            raise InputError(f"cam_from_world has shape {tuple(pose.shape)} but must be [n, 4, 4]")
        if k.ndim != 3 or k.shape[1:] != (3, 3):
            raise InputError(f"intrinsics have shape {tuple(k.shape)} but must be [n, 3, 3]")
        if len(pose) != len(k):
            raise InputError(f"there are {len(pose)} cam_from_world but {len(k)} intrinsics; the numbers must be equal")
        if self.width < 1 or self.height < 1:
            raise InputError(f"the image size {self.width}×{self.height} must be positive")
        _require(torch.isfinite(pose).all(dim=(1, 2)), "cam_from_world has a value that is not finite")
        _require(torch.isfinite(k).all(dim=(1, 2)), "intrinsics have a value that is not finite")
        rotation = pose[:, :3, :3].double()
        gram = rotation @ rotation.transpose(1, 2) - torch.eye(3, dtype=torch.float64)
        _require(
            (gram.abs().amax(dim=(1, 2)) < _ROTATION_TOLERANCE) & (torch.linalg.det(rotation) > 0),
            "cam_from_world holds no rotation: its upper left 3×3 must be orthonormal with determinant +1",
        )
        last = pose.new_tensor([0.0, 0.0, 0.0, 1.0])
        _require((pose[:, 3] - last).abs().amax(dim=1) < 1e-5, "cam_from_world must end with the row 0 0 0 1")
        _require((k[:, 0, 0] > 0) & (k[:, 1, 1] > 0), "intrinsics must have positive focal lengths")
        lower = torch.stack([k[:, 1, 0], k[:, 2, 0], k[:, 2, 1], k[:, 2, 2] - 1], dim=1)
        _require(
            lower.abs().amax(dim=1) < 1e-4,
            "intrinsics must have the form [[fx, s, cx], [0, fy, cy], [0, 0, 1]]",
        )

    @classmethod
    def from_fov(cls, fov_x_degrees: float, width: int, height: int) -> "Cameras":
        """One camera at the origin, square pixels, principal point in the middle, given horizontal field of view."""
        focal = width / (2 * tan(radians(fov_x_degrees) / 2))
        k = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]], dtype=torch.float32)
        return cls(torch.eye(4)[None], k, width, height)

    @classmethod
    def cat(cls, parts: "Sequence[Cameras]") -> "Cameras":
        """Join batches of one image size."""
        sizes = {(part.width, part.height) for part in parts}
        if len(sizes) != 1:
            raise InputError(f"cameras of different image sizes {sorted(sizes)} cannot be joined; resize them first")
        return cls(
            torch.cat([part.cam_from_world for part in parts]),
            torch.cat([part.intrinsics for part in parts]),
            parts[0].width,
            parts[0].height,
        )

    def __len__(self) -> int:
        return len(self.cam_from_world)

    def __getitem__(self, index: int | slice | Int[Tensor, " k"] | list[int]) -> "Cameras":
        """A sub-batch; an integer gives a batch of one."""
        if isinstance(index, int):
            index = [index]
        return Cameras(self.cam_from_world[index], self.intrinsics[index], self.width, self.height)

    def __iter__(self) -> "Iterator[Cameras]":
        """Batches of one, in order."""
        return (self[index] for index in range(len(self)))

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras with tensors on `device`."""
        return Cameras(self.cam_from_world.to(device), self.intrinsics.to(device), self.width, self.height)

    @property
    def world_from_cam(self) -> Float[Tensor, "n 4 4"]:
        """Inverse poses, computed in closed form."""
        rotation = self.cam_from_world[:, :3, :3].transpose(1, 2)
        inverse = torch.zeros_like(self.cam_from_world)
        inverse[:, :3, :3] = rotation
        inverse[:, :3, 3] = self.centers
        inverse[:, 3, 3] = 1
        return inverse

    @property
    def centers(self) -> Float[Tensor, "n 3"]:
        """Camera centres in the world."""
        rotation = self.cam_from_world[:, :3, :3].transpose(1, 2)
        return -(rotation @ self.cam_from_world[:, :3, 3:])[..., 0]

    @property
    def forward(self) -> Float[Tensor, "n 3"]:
        """Unit viewing directions in the world."""
        return self.cam_from_world[:, 2, :3]

    def with_poses(self, cam_from_world: Float[Tensor, "m 4 4"]) -> "Cameras":
        """New poses with the first camera's intrinsics."""
        return Cameras(
            cam_from_world,
            self.intrinsics[:1].expand(len(cam_from_world), 3, 3).clone(),
            self.width,
            self.height,
        )

    def resized(self, width: int, height: int) -> "Cameras":
        """The cameras of the images resized to `width` × `height` (the field of view is kept)."""
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return Cameras(self.cam_from_world, self.intrinsics * scale[None, :, None], width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> "Cameras":
        """The cameras of the images cropped to the box (negative `left`, `top` pad)."""
        shift = torch.zeros_like(self.intrinsics)
        shift[:, 0, 2] = left
        shift[:, 1, 2] = top
        return Cameras(self.cam_from_world, self.intrinsics - shift, width, height)

    def transformed(
        self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float = 1.0
    ) -> "Cameras":
        """The same cameras after the world moved by `X' = scale · rotation @ X + translation`.

        Camera coordinates grow by `scale`, pixels stay.
        """
        pose = self.cam_from_world.clone()
        turned = self.cam_from_world[:, :3, :3] @ rotation.T
        pose[:, :3, :3] = turned
        pose[:, :3, 3] = scale * self.cam_from_world[:, :3, 3] - turned @ translation
        return Cameras(pose, self.intrinsics, self.width, self.height)

    def pixel_rays(self) -> Float[Tensor, "n h w 3"]:
        """Directions through the pixel centres in camera axes, scaled to z = 1 (depth times this is the point)."""
        device = self.intrinsics.device
        y, x = torch.meshgrid(
            torch.arange(self.height, device=device) + 0.5,
            torch.arange(self.width, device=device) + 0.5,
            indexing="ij",
        )
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        return torch.einsum("nij,hwj->nhwi", torch.linalg.inv(self.intrinsics), pixels)

    def project(self, points: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "n p 2"], Float[Tensor, "n p"]]:
        """Pixels and z-depths of world points; pixels of points with z ≤ 0 are meaningless."""
        camera = torch.einsum("nij,pj->npi", self.cam_from_world[:, :3, :3], points)
        camera = camera + self.cam_from_world[:, None, :3, 3]
        image = torch.einsum("nij,npj->npi", self.intrinsics, camera)
        return image[..., :2] / image[..., 2:], camera[..., 2]

    def unproject(self, depth: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w 3"]:
        """World points of z-depths at the pixel centres."""
        if tuple(depth.shape) != (len(self), self.height, self.width):
            raise InputError(
                f"depth has shape {tuple(depth.shape)} but the cameras need {(len(self), self.height, self.width)}"
            )
        camera = self.pixel_rays() * depth[..., None]
        rotation = self.cam_from_world[:, :3, :3]
        return torch.einsum("nji,nhwj->nhwi", rotation, camera) + self.centers[:, None, None]


def _require(ok: Tensor, message: str) -> None:
    if not bool(ok.all()):
        raise InputError(f"camera {int((~ok).nonzero()[0])}: {message}")
