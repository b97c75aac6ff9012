"""The one-image reconstruction benchmark: a picture, four paths, a cloud, and how near it comes to the true surface."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import PRESETS
from worldstereo.depth.base import DepthEstimator
from worldstereo.errors import BusyError, FullDiskError, InputError
from worldstereo.evaluation.comparison import PathsConfig, compare
from worldstereo.evaluation.depth_metrics import median_ratio
from worldstereo.evaluation.methods import CONSTANT_DEPTH, PULL_PUSH, Method
from worldstereo.evaluation.protocol import (
    Comparison,
    Figure,
    Item,
    OnProgress,
    Protocol,
    Reference,
    Result,
    part_of,
    silent,
)
from worldstereo.evaluation.reference_depth import FlatDepth
from worldstereo.evaluation.subjects import Subject
from worldstereo.evaluation.surfaces import CLOUD_FIGURES, Surface, capture_surface, cloud_figures, procedural_surface
from worldstereo.evaluation.worlds import WorldMaker
from worldstereo.geometry.alignment import Similarity
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct

INPUT_ALONE = "input alone"

_BLOCK = 8  # pixels; of sparse points in one block the nearest is the one that is seen
_FEWEST_PAIRS = 20
_REACH = 4.0  # median depths: farther surface is left out

_NOTES = """\
Means over scenes ± standard error (95 % intervals in the JSON). One picture is given; the real loop flies the paths and
remembers; its cloud is compared with the true surface. Alignment: the picture's true camera is given, so pose and
intrinsics are exact, and the one unknown, the scale, is the median ratio of true to estimated depth over the pixels of
the picture whose true depth is known; it is applied about the picture's camera. Thresholds, accuracy (mean distance
from a point to the truth) and completeness (from the truth to a point) are relative to the scene's size, the diagonal
of the box around the central 98 % of the true points along each axis. Both clouds are thinned to half the smallest
threshold.
Points outside that box, grown by the largest threshold, are left out of the figures but counted. The true surface of a
procedural scene is what the paths, flown at true scale, see of it; that of a capture is its scan or its measured depth,
and where it has only sparse points, there is only recall and completeness. Surface farther than 4 median depths of the
picture from its camera is left out, as the loop (like the published one) draws far points near. "Input alone" is the
cloud of the picture before any clip: what generated frames add must beat it. "Constant depth" takes the picture for a
plane, in its cloud too. What failed has F1 0 and is listed."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(PathsConfig):
    """What to evaluate.

    Attributes:
        trajectories: paths, flown one after the other with all memory.
        cloud: "memory", the cloud that the loop keeps, or "fused", of all frames by `reconstruct`.
    """

    trajectories: tuple[str, ...] = PRESETS["paper"]
    cloud: Literal["memory", "fused"] = "memory"


def evaluate_reconstruction(config: ReconstructionConfig, on_progress: OnProgress = silent) -> Path:
    """Make and measure the worlds that are not there yet, then write the tables; gives `reconstruction.md`.

    `out` gets `scenes/` with one result file each, `worlds/` with all worlds (to look at with `worldstereo view`),
    `reconstruction.json`, `reconstruction.md` and bars.

    Raises:
        InputError: a model or capture cannot be read, or `out` holds results of other settings.
    """
    methods, maker = config.methods(), config.maker()
    skipped: dict[str, str] = {}
    items = []
    for subject in config.subjects():
        if subject.capture is not None and not subject.capture.has_surface:
            skipped[subject.name] = "nothing is known of its surface (no depth, no points)"
        else:
            measure = partial(measure_subject, config, methods, maker, subject)
            items.append(Item(subject.name, subject.source, measure))
    if not items:
        raise InputError(f"{config.data}: no capture there says anything of its surface; give --scenes or others")
    facts = {
        "paths": " ".join(config.trajectories),
        "cloud": "of the memory" if config.cloud == "memory" else "fused from all frames (worldstereo reconstruct)",
        "alignment": "camera given; scale by the median ratio of true to estimated depth of the picture",
    }
    return compare(config, reconstruction_protocol(methods), items, on_progress, facts=facts, skipped=skipped)


def reconstruction_protocol(methods: Sequence[Method]) -> Protocol:
    """The table's columns and rows."""
    return Protocol(
        name="reconstruction",
        title="Reconstruction from one picture",
        item="scene",
        figures=(
            *CLOUD_FIGURES,
            Figure("scale", "scale", 2, "1"),
            Figure("failed", "failed %", 0, "lower"),
        ),
        rows=(Reference(INPUT_ALONE), *methods),
        notes=_NOTES,
        comparisons=(Comparison(PULL_PUSH), Comparison(INPUT_ALONE, INPUT_ALONE)),
        about=_about,
    )


def measure_subject(
    config: ReconstructionConfig,
    methods: Sequence[Method],
    maker: WorldMaker,
    subject: Subject,
    on_progress: OnProgress,
) -> Result:
    """The figures of all rows for one picture."""
    on_progress("finding the true surface", 0.0)
    surface = true_surface(subject, config.trajectories)
    folder = config.out / "worlds" / subject.name
    rows: dict[str, dict[str, float | None]] = {}
    failures: dict[str, str] = {}
    for number, method in enumerate(methods):
        report = part_of(on_progress, method.name, number / len(methods), 1 / len(methods))
        try:
            world = maker.make(subject, method, config.trajectories, folder, report)
            alignment = align_world(world, subject, surface)
            estimator = FlatDepth(maker.depth) if method.name == CONSTANT_DEPTH else maker.depth
            points = _cloud(world, estimator, config.cloud)
            rows[method.name] = cloud_figures(alignment.apply(points), surface)
            rows[method.name] |= {"scale": alignment.scale, "failed": 0.0}
            if method.name != CONSTANT_DEPTH and INPUT_ALONE not in rows:
                start = GlobalGeometricMemory.load(World.memory_path(world.folder, -1)).cloud.points
                rows[INPUT_ALONE] = cloud_figures(alignment.apply(start), surface) | {"scale": alignment.scale}
        except (FullDiskError, BusyError):
            raise
        except InputError as error:
            rows[method.name] = cloud_figures(surface.points[:0], surface) | {"failed": 100.0}
            failures[method.name] = str(error)
    return {
        "name": subject.name,
        "group": subject.group if surface.is_dense else f"{subject.group}, sparse truth",
        "surface": surface.source,
        "size": surface.size,
        "depth": maker.depth_name(subject),
        "rows": rows,
        "failures": failures,
    }


def align_world(world: World, subject: Subject, surface: Surface) -> Similarity:
    """What brings a world that began with the subject's picture and camera to the true scale.

    Raises:
        InputError: fewer than 20 pixels have both depths.
    """
    camera = world.camera
    estimated = load_file(world.folder / "input" / "depth.safetensors")["depth"]
    fitted = subject.fitted(camera.width, camera.height)
    truth = _true_depth(fitted, surface)
    both = (truth > 0) & (estimated > 0)
    if int(both.sum()) < _FEWEST_PAIRS:
        count = int(both.sum())
        raise InputError(f"{subject.name}: only {count} pixels have a true and an estimated depth to align by")
    scale = median_ratio(estimated[both], truth[both])
    center = camera.centers[0]
    return Similarity(torch.eye(3), center - scale * center, scale)


def _depth_of_points(points: Float[Tensor, "p 3"], camera: Cameras) -> Float[Tensor, "h w"]:
    """z-depth of sparse points at the pixels that show them; of the points in a block of pixels the nearest alone."""
    pixels, z = (values[0] for values in camera.project(points))
    size = pixels.new_tensor([camera.width, camera.height])
    inside = (z > 0) & (pixels >= 0).all(dim=1) & (pixels < size).all(dim=1)
    column, row = pixels[inside].floor().long().unbind(dim=1)
    inverse = torch.zeros(camera.height * camera.width)
    inverse = inverse.scatter_reduce(0, row * camera.width + column, 1 / z[inside], "amax")
    inverse = inverse.view(camera.height, camera.width)
    nearest = F.max_pool2d(inverse[None, None], 2 * _BLOCK + 1, 1, _BLOCK)[0, 0]
    return torch.where((inverse > 0) & (inverse == nearest), 1 / inverse.clamp(min=1e-9), 0.0)


def true_surface(subject: Subject, trajectories: Sequence[str]) -> Surface:
    """The true surface of a subject whose surface is known, up to 4 median depths from where its picture was taken.

    Raises:
        InputError: nothing of it lies there, or a file cannot be read.
    """
    assert subject.camera is not None
    if subject.scene is not None:
        whole = procedural_surface(subject.scene, subject.camera, trajectories)
    else:
        assert subject.capture is not None
        found = capture_surface(subject.capture)
        assert found is not None
        whole = found
    depth = _true_depth(subject, whole)
    if not bool((depth > 0).any()):
        raise InputError(f"{subject.name}: the first picture shows nothing of the true surface")
    return whole.within(subject.camera.centers[0], _REACH * float(depth[depth > 0].median()))


def _true_depth(subject: Subject, surface: Surface) -> Float[Tensor, "h w"]:
    if subject.has_depth:
        return subject.depth
    assert subject.camera is not None
    return _depth_of_points(surface.points, subject.camera)


def _cloud(world: World, depth: DepthEstimator, kind: Literal["memory", "fused"]) -> Float[Tensor, "p 3"]:
    if kind == "memory":
        return world.point_cloud.points
    return reconstruct(world, depth, ReconstructionSettings(mesh=False)).cloud.points


def _about(scenes: Sequence[Result]) -> str:
    surfaces, depths = (", ".join(sorted({scene[key] for scene in scenes})) for key in ("surface", "depth"))
    return f"Truth: {surfaces}. Depth of the picture: {depths}. Scenes: {', '.join(scene['name'] for scene in scenes)}."
