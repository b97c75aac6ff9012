"""True surfaces as points, and how near a reconstruction comes to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import read_colmap_points
from worldstereo.cameras.trajectories import SceneScale, parse_trajectory
from worldstereo.data.captures import Capture
from worldstereo.data.points_npz import read_points_npz
from worldstereo.data.procedural import ProceduralScene
from worldstereo.errors import InputError
from worldstereo.evaluation.cloud_metrics import cloud_errors
from worldstereo.evaluation.protocol import Figure
from worldstereo.exporters.ply import read_ply
from worldstereo.geometry.filtering import voxel_keep
from worldstereo.geometry.panorama import equirect_directions
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import depth_edges
from worldstereo.pipelines.world import plan_paths

THRESHOLDS = (0.005, 0.01, 0.02, 0.05)
"""Distances, of the scene's size."""

_VOXEL = THRESHOLDS[0] / 2  # both clouds are thinned to it, so that what was seen often does not count more
_CENTRAL = 0.98  # of the true points along each axis, whose box is the scene's
_VIEWS = 9  # of each path
_VIEW_SIZE = (256, 144)
_AROUND = 128  # height of the panorama that paths are kept clear of
_FRAMES = 60  # of a capture with depth, at most
_SHORT_SIDE = 240

CLOUD_FIGURES = (
    *(Figure(f"f1_{t}", f"F1 at {100 * t:g} %", 3, "higher", compared=t == 0.02) for t in THRESHOLDS),
    Figure("precision", "precision at 2 %", 3, "higher"),
    Figure("recall", "recall at 2 %", 3, "higher"),
    Figure("auc", "AUC of F1 to 5 %", 3, "higher", compared=True),
    Figure("accuracy", "accuracy %", 2, "lower"),
    Figure("completeness", "completeness %", 2, "lower", compared=True),
    Figure("outside", "points outside %", 1, "lower"),
)
_HEADLINE = THRESHOLDS.index(0.02)


@dataclass(frozen=True, eq=False)
class Surface:
    """Points on the true surface.

    Attributes:
        points: in the scene's world.
        is_dense: whether a point beside none of them is wrong.
        source: where they come from, for people.
    """

    points: Float[Tensor, "p 3"]
    is_dense: bool
    source: str

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise InputError(f"the true surface ({self.source}) has {len(self.points)} points; nothing can be compared")

    @property
    def box(self) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
        """Lowest and highest corner of the box around the central 98 % of the points along each axis."""
        ordered = self.points.sort(dim=0).values
        margin = int((1 - _CENTRAL) / 2 * len(ordered))
        return ordered[margin], ordered[len(ordered) - 1 - margin]

    def within(self, center: Float[Tensor, "3"], radius: float) -> "Surface":
        """The part that lies at most `radius` from a point."""
        return replace(self, points=self.points[(self.points - center).norm(dim=1) <= radius])

    @property
    def size(self) -> float:
        """Of the scene: the box's diagonal."""
        low, high = self.box
        return float((high - low).norm())


def procedural_surface(
    scene: ProceduralScene, camera: Cameras, trajectories: Sequence[str], frames: int = _VIEWS
) -> Surface:
    """What `true_paths` from a view of a procedural scene see of it, exactly."""
    cameras = true_paths(scene, camera, trajectories, frames).resized(*_VIEW_SIZE).to(scene.walks.device)
    depth = scene.render(cameras).depth
    return Surface(_thinned(cameras.unproject(depth)[depth > 0].cpu()), True, "exact")


def true_paths(scene: ProceduralScene, camera: Cameras, trajectories: Sequence[str], frames: int = _VIEWS) -> Cameras:
    """Cameras of paths from a view, at the scene's true scale.

    Each path is shortened where it would run into what is seen from its start, in any direction.
    """
    camera = camera.to(scene.walks.device)
    seen = scene.render(camera.resized(*_VIEW_SIZE)).depth
    scale = SceneScale(float(seen[seen > 0].median()), metric=True)
    rig = camera.world_from_cam[0]
    around = scene.render_panorama(rig, _AROUND).depth[0]
    rays = equirect_directions(2 * _AROUND, _AROUND).to(rig.device) @ rig[:3, :3].T
    near = (rig[:3, 3] + around[..., None] * rays)[around > 0]
    known = GlobalGeometricMemory(_grey(near), _grey(near[:0]))
    paths = plan_paths([parse_trajectory(text) for text in trajectories], camera.to("cpu"), scale, known, frames)
    return Cameras.cat([path.cameras for path in paths])


def capture_surface(capture: Capture) -> Surface | None:
    """The points of a capture, or those of its depth (of at most 60 frames, without depth edges); none if it has none.

    Raises:
        InputError: a file cannot be read.
    """
    if capture.points is not None:
        source = "scanned points" if capture.is_dense else "sparse points"
        return Surface(read_points(capture.points), capture.is_dense, source)
    video = capture.video
    if not video.has_depth:
        return None
    shrink = min(1.0, _SHORT_SIDE / min(video.cameras.width, video.cameras.height))
    size = round(video.cameras.width * shrink), round(video.cameras.height * shrink)
    points = []
    for index in np.unique(np.linspace(0, len(video) - 1, _FRAMES).round().astype(int)).tolist():
        loaded = video.load([index], *size)
        depth = loaded.depth[0]
        good = (depth > 0) & ~depth_edges(depth, torch.zeros_like(depth, dtype=torch.bool))
        points.append(loaded.cameras.unproject(depth[None])[0][good])
    return Surface(_thinned(torch.cat(points)), True, "measured depth")


def read_points(path: Path) -> Float[Tensor, "p 3"]:
    """Points of a PLY, of an npz (`xyz`), or of a COLMAP model's folder.

    Raises:
        InputError: it cannot be read.
    """
    if path.is_dir():
        return read_colmap_points(path).points
    if path.suffix.lower() == ".ply":
        return read_ply(path).points
    if path.suffix.lower() == ".npz":
        return read_points_npz(path)
    raise InputError(f"{path}: must be a PLY, an npz with the array 'xyz', or the folder of a COLMAP model")


def cloud_figures(points: Float[Tensor, "p 3"], surface: Surface) -> dict[str, float | None]:
    """The figures of `CLOUD_FIGURES` of points in the surface's world; lengths are in percent of the scene's size.

    Both clouds are thinned to cubes of half the smallest threshold. Points outside the scene's box, grown by the
    largest threshold, are counted (`outside`) and left out, as those of which the truth says nothing. Where the
    truth is sparse, only what it says of completeness is there. No point at all has F1 0.
    """
    size = surface.size
    low, high = surface.box
    margin = THRESHOLDS[-1] * size
    truth = surface.points[voxel_keep(surface.points, _VOXEL * size)]
    finite = points[torch.isfinite(points).all(dim=1)]
    inside = ((finite >= low - margin) & (finite <= high + margin)).all(dim=1)
    figures: dict[str, float | None] = {figure.key: None for figure in CLOUD_FIGURES}
    figures["outside"] = 100 * (1 - float(inside.float().mean())) if len(inside) else 100.0
    ours = finite[inside]
    ours = ours[voxel_keep(ours, _VOXEL * size)] if len(ours) else ours
    if not len(ours):
        nothing = {f"f1_{t}": 0.0 for t in THRESHOLDS} | {"precision": 0.0, "auc": 0.0}
        return figures | (nothing if surface.is_dense else {}) | {"recall": 0.0}
    errors = cloud_errors(ours, truth, [t * size for t in THRESHOLDS])
    figures |= {"recall": errors.recall[_HEADLINE], "completeness": 100 * errors.completeness / size}
    if surface.is_dense:
        figures |= {f"f1_{t}": value for t, value in zip(THRESHOLDS, errors.f1, strict=True)}
        figures |= {
            "precision": errors.precision[_HEADLINE],
            "auc": errors.auc,
            "accuracy": 100 * errors.accuracy / size,
        }
    return figures


def _thinned(points: Float[Tensor, "p 3"]) -> Float[Tensor, "q 3"]:
    """Without what lies nearer together than can matter, so that many views stay small."""
    if len(points) < 2:
        return points
    extent = float((points.amax(dim=0) - points.amin(dim=0)).norm())
    return points[voxel_keep(points, max(extent, 1e-9) * _VOXEL / 10)]


def _grey(points: Float[Tensor, "p 3"]) -> PointCloud:
    return PointCloud(points.cpu(), torch.full_like(points.cpu(), 0.5))
