"""The border to viser: one scale for all lengths, and poses as quaternion and position.

viser has OpenCV camera axes as we have, but fixed lengths: keys move by 2 units a second, the nearest visible distance
is 0.01 units, covariances of splats are 16-bit floats. So a world is shown with its radius, the median depth, at 5
units.
"""

from dataclasses import dataclass
from math import atan

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion, quaternion_from_matrix, slerp

_RADIUS_SHOWN = 5.0  # of viser's units


@dataclass(frozen=True)
class ViewPose:
    """A camera or a thing as viser takes it: `parent_from_local` as quaternion (w, x, y, z) and position."""

    wxyz: Float[np.ndarray, "4"]
    position: Float[np.ndarray, "3"]

    def differs(self, other: "ViewPose", length: float, angle: float) -> bool:
        """Whether the two lie farther apart than `length` (units of viser), or are turned by more than `angle`."""
        turned = 2 * np.arccos(min(1.0, abs(float(self.wxyz @ other.wxyz))))
        return bool(np.linalg.norm(self.position - other.position) > length or turned > angle)


@dataclass(frozen=True)
class ViewSpace:
    """How long a world unit is in viser.

    Attributes:
        scale: units of viser in a world unit.
    """

    scale: float

    @classmethod
    def of_radius(cls, radius: float) -> "ViewSpace":
        """The space where `radius` world units are 5 units of viser."""
        return cls(_RADIUS_SHOWN / radius)

    def points(self, points: Float[Tensor, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Positions for viser, float32."""
        return (points.detach().cpu().double().numpy() * self.scale).astype(np.float32)

    def pose(self, cam_from_world: Float[Tensor, "4 4"]) -> ViewPose:
        """The pose of one of our cameras."""
        rotation = cam_from_world[:3, :3].detach().cpu().double()
        center = -(rotation.T @ cam_from_world[:3, 3].detach().cpu().double())
        return ViewPose(quaternion_from_matrix(rotation.T).numpy(), center.numpy() * self.scale)

    def cam_from_world(self, pose: ViewPose) -> Float[Tensor, "4 4"]:
        """Our pose of one of viser's cameras, float32."""
        rotation = matrix_from_quaternion(torch.from_numpy(np.asarray(pose.wxyz, np.float64))).T
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -(rotation @ torch.from_numpy(np.asarray(pose.position, np.float64) / self.scale))
        return matrix.float()


def picture_fov(camera: Cameras) -> tuple[float, float]:
    """The vertical field of view in radians and the aspect of the camera's picture, for a frustum.

    viser's frusta are symmetrical: a principal point off the middle is not drawn.
    """
    focal_x, focal_y = float(camera.intrinsics[0, 0, 0]), float(camera.intrinsics[0, 1, 1])
    half_width, half_height = camera.width / 2 / focal_x, camera.height / 2 / focal_y
    return 2 * atan(half_height), half_width / half_height


def window_fov(camera: Cameras, window_aspect: float) -> float:
    """The vertical field of view in radians that shows the camera's whole picture in a window of that aspect."""
    k = camera.intrinsics[0].double()
    sides = [k[0, 2] / k[0, 0], (camera.width - k[0, 2]) / k[0, 0]]
    ends = [k[1, 2] / k[1, 1], (camera.height - k[1, 2]) / k[1, 1]]
    return 2 * atan(max(max(map(float, ends)), max(map(float, sides)) / window_aspect))


def flight(cameras: Cameras, at: float) -> Cameras:
    """The camera at a fractional frame: centre and intrinsics on the straight line, rotation on the shortest way."""
    low = min(int(at), len(cameras) - 1)
    high = min(low + 1, len(cameras) - 1)
    share = torch.tensor(at - low, dtype=torch.float64)
    poses = cameras.cam_from_world.double()
    rotation = slerp(poses[low, :3, :3], poses[high, :3, :3], share)
    centers = cameras.centers.double()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = -(rotation @ torch.lerp(centers[low], centers[high], share))
    intrinsics = torch.lerp(cameras.intrinsics[low], cameras.intrinsics[high], float(share))
    return Cameras(pose.float()[None], intrinsics[None], cameras.width, cameras.height)
