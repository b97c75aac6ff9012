"""Where to look from: what pictures and pages need to know about the extent of a scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin, tan

import numpy as np
import torch
from jaxtyping import Float

from worldstereo.cameras.cameras import Cameras
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.paths import PathSketch

_SAMPLE = 20_000  # points that the extent is measured on
_CORE = 0.93  # share of the points that must be in sight
_TURN_DEGREES, _DOWN_DEGREES = 32.0, 24.0  # the overview turns by this from the input's direction
_MARGIN = 1.12  # room around the core
OVERVIEW_FOV_DEGREES = 45.0  # of the height
CUT_AWAY_COSINE = -0.35  # of the angle under which observer and eye see a point; below it the point faces away


@dataclass(frozen=True)
class Framing:
    """The extent and the directions of a scene.

    Attributes:
        observer: where the input was taken.
        up: unit vector against gravity, as far as the input's cameras tell.
        north: unit vector, horizontal, the input's viewing direction.
        pivot: the middle of the scene, to turn about.
        core: some of the points, far ones left out, and all camera centres: what must be in sight.
        radius: most of the core is within this of the pivot, in world units.
        all_around: the input looks in all directions (a panorama).
    """

    observer: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    north: Float[np.ndarray, "3"]
    pivot: Float[np.ndarray, "3"]
    core: Float[np.ndarray, "c 3"]
    radius: float
    all_around: bool

    @property
    def east(self) -> Float[np.ndarray, "3"]:
        """Horizontal unit vector to the right of north."""
        return np.cross(self.north, self.up)

    def overview(self, width: int, height: int) -> tuple[Cameras, Float[np.ndarray, "3"]]:
        """A camera behind and above the observer that has the core in sight, and the point that it turns about."""
        yaw, pitch = radians(_TURN_DEGREES), radians(_DOWN_DEGREES)
        forward = cos(pitch) * (cos(yaw) * self.north - sin(yaw) * self.east) - sin(pitch) * self.up
        rotation = looking(self.pivot, forward, self.up)[0, :3, :3].double().numpy()
        core = (self.core - self.pivot) @ rotation.T
        across = tan(radians(OVERVIEW_FOV_DEGREES / 2)) / _MARGIN * np.array([width / height, 1.0])
        # A point is in sight when |x - ex| ≤ across · (z - ez): the nearest eye of each axis has both sides touch.
        low = (core[:, :2] / across - core[:, 2:]).max(axis=0)
        high = (-core[:, :2] / across - core[:, 2:]).max(axis=0)
        sideways = (low - high) / 2 * across
        back = float(((low + high) / 2).max())
        eye = self.pivot + rotation.T @ np.array([*sideways, -back])
        lens = Cameras.from_fov(OVERVIEW_FOV_DEGREES, height, height).cropped((height - width) // 2, 0, width, height)
        return lens.with_poses(looking(eye, forward, self.up)), eye + forward * back


def frame_scene(cloud: PointCloud, paths: Sequence[PathSketch], input_cameras: Cameras) -> Framing:
    """Measure a scene; a few far points do not matter, every camera does."""
    observer = input_cameras.centers.double().mean(dim=0).cpu().numpy()
    mean_down = input_cameras.cam_from_world[:, 1, :3].double().mean(dim=0).cpu().numpy()
    mean_forward = input_cameras.forward.double().mean(dim=0).cpu().numpy()
    all_around = float(np.linalg.norm(mean_forward)) < 0.4
    up = _unit(-mean_down, np.array([0.0, -1.0, 0.0]))
    ahead = input_cameras.forward[0].double().cpu().numpy() if all_around else mean_forward
    north = _unit(ahead - up * (ahead @ up), _any_perpendicular(up))
    stride = max(1, len(cloud) // _SAMPLE)
    points = cloud.points[::stride].double().cpu().numpy()
    centers = torch.cat([input_cameras.centers.cpu(), *(path.cameras.centers.cpu() for path in paths)]).double().numpy()
    pivot = np.median(points, axis=0) if len(points) else observer + north
    away = np.linalg.norm(points - pivot, axis=1)
    near = points[away <= np.quantile(away, _CORE)] if len(points) else points
    core = np.concatenate([near, centers, pivot[None]])
    radius = float(np.quantile(np.linalg.norm(core - pivot, axis=1), 0.9))
    radius = max(radius, 0.7 * float(np.linalg.norm(centers - pivot, axis=1).max()), 1e-6)
    return Framing(observer, up, north, pivot, core, radius, all_around)


def looking(
    eye: Float[np.ndarray, "3"], forward: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]
) -> Float[torch.Tensor, "1 4 4"]:
    """The `cam_from_world` of a camera at `eye` that looks along the unit vector `forward`, upright."""
    right = _unit(np.cross(forward, up), _any_perpendicular(forward))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return torch.from_numpy(pose).float()[None]


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-3 else otherwise


def _any_perpendicular(vector: np.ndarray) -> np.ndarray:
    axis = np.eye(3)[int(np.abs(vector).argmin())]
    across = np.cross(vector, axis)
    return across / np.linalg.norm(across)
