"""The whole reconstruction, step by step, each kept on disk so that a killed run goes on."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.depth.base import DepthEstimator
from worldstereo.depth.multiview.neighbours import choose_neighbours
from worldstereo.depth.multiview.refinement import refine_depth
from worldstereo.errors import InputError
from worldstereo.pipelines.world import OnProgress
from worldstereo.pipelines.world_folder import World, exclusive
from worldstereo.reconstruction.aligned_depth import align_depth
from worldstereo.reconstruction.bootstrap import with_cloud
from worldstereo.reconstruction.consistency import NOBODY_SAYS, Votes, vote
from worldstereo.reconstruction.external import SceneReconstructor
from worldstereo.reconstruction.folder import FrameFiles, ReconstructionFolder
from worldstereo.reconstruction.fusion import LEAST_CONFIDENCE, MAX_POINTS, CloudFusion
from worldstereo.reconstruction.mesh import build_mesh, require_mesh_libraries, voxel_for
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.splat_optimization import SplatSettings
from worldstereo.reconstruction.splat_step import reconstruct_splats
from worldstereo.reconstruction.tsdf import SignedDistanceField

_Result = TypeVar("_Result")

_PIECE = 32
_GEOMETRY = 0.5  # share of the time of everything but splats
REFINING = 5
"""Frames that a frame is refined against: the best of its neighbours."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """What a user can choose.

    Attributes:
        refine: correct depth by multi-view stereo.
        bend: bend the depth of frames that no scale brings to the cloud, instead of leaving them out.
        mesh: build a mesh.
        splats: how splats are optimised; none for no splats and no fly-through.
        neighbours: how many other frames judge a frame.
        least_confidence: of a pixel that goes into cloud and mesh, in [0, 1]; at most one half counts for frames that
            no other frame can judge.
        max_points: of the cloud.

    Raises:
        InputError: a value out of range; the message names the option.
    """

    refine: bool = True
    bend: bool = False
    mesh: bool = True
    splats: SplatSettings | None = None
    neighbours: int = 8
    least_confidence: float = LEAST_CONFIDENCE
    max_points: int = MAX_POINTS

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 64:
            raise InputError(f"--neighbours {self.neighbours}: must lie between 1 and 64")
        if not 0 <= self.least_confidence < 1:
            raise InputError(f"--confidence {self.least_confidence:g}: must lie between 0 and 1")
        if self.max_points < 1000:
            raise InputError(f"--max-points {self.max_points}: must be at least 1000")


def _silent(what: str, share: float) -> None:
    """Report nothing."""


def reconstruct(
    world: World,
    estimator: DepthEstimator | SceneReconstructor,
    settings: ReconstructionSettings = ReconstructionSettings(),
    on_progress: OnProgress = _silent,
) -> ReconstructionFolder:
    """Reconstruct a world in its folder `reconstruction/`, or go on where an earlier run ended.

    Args:
        estimator: the depth back-end.

    Raises:
        InputError: nothing in the world can be reconstructed; what was finished before stays on disk.
    """
    with exclusive(world.folder):
        return reconstruct_frames(
            PosedFrames.of_world(world), world.folder / "reconstruction", estimator, settings, on_progress
        )


def reconstruct_frames(
    frames: PosedFrames,
    out: str | Path,
    estimator: DepthEstimator | SceneReconstructor,
    settings: ReconstructionSettings = ReconstructionSettings(),
    on_progress: OnProgress = _silent,
) -> ReconstructionFolder:
    """Reconstruct frames into the folder `out`: depth, confidence, cloud, mesh and splats (`ReconstructionFolder`).

    Each step's result is kept, with the key of what it was made from: a run with the same frames and settings goes on
    where the last one ended, a run with others redoes the steps that depend on what changed.

    Raises:
        InputError: `out` holds other things, no frame has a depth that fits the others, or a package that the mesh
            needs is missing.
    """
    if settings.mesh:
        require_mesh_libraries()
    folder = ReconstructionFolder(out)
    folder.require_usable()
    frames = with_cloud(frames, estimator)
    folder.begin(frames.names, frames.notes)
    work = _Work(frames, folder, settings, on_progress)
    work.estimate(estimator)
    work.fuse()
    if settings.mesh:
        work.mesh()
    if settings.splats is not None:
        work.splats(settings.splats)
    on_progress("done", 1.0)
    return folder


class _Work:
    """The steps, in order. Each first asks whether it is finished already."""

    def __init__(
        self, frames: PosedFrames, folder: ReconstructionFolder, settings: ReconstructionSettings, report: OnProgress
    ) -> None:
        self.frames, self.folder, self.settings = frames, folder, settings
        self._report = report
        self._geometry = 1.0 if settings.splats is None else _GEOMETRY
        self.aligned = FrameFiles(folder.folder / "working" / "aligned", frames.names)
        self.refined = FrameFiles(folder.folder / "working" / "refined", frames.names)
        self.depth = FrameFiles(folder.folder / "depth", frames.names)
        self._made_from: dict[str, Any] = {"frames": _digest(frames)}

    def estimate(self, estimator: DepthEstimator | SceneReconstructor) -> None:
        """Depth and confidence of each frame."""
        settings = self.settings
        self._made_from |= {"depth": estimator.name, "bend": settings.bend}
        self._needed("align")
        self._made_from |= {"refine": settings.refine, "neighbours": settings.neighbours}
        if self._needed("depth"):
            self._align(estimator)
            self._judge()

    def _align(self, estimator: DepthEstimator | SceneReconstructor) -> None:
        """Depth of each frame in the world's scale."""
        began = time.perf_counter()
        pieces = self.frames.by_clip(_PIECE)
        for number, piece in enumerate(pieces):
            self._tell(f"depth of {self.frames.clips[piece[0]] or 'the input'}", 0.35 * number / len(pieces))
            if all(self.aligned.has(index) for index in piece):
                continue
            for index, found in zip(
                piece, align_depth(self.frames, piece, estimator, bend=self.settings.bend), strict=True
            ):
                about = {"status": found.status, "reason": found.reason}
                self.aligned.write(index, {"depth": found.depth, "sky": found.sky}, about)
        notes = [self.aligned.notes(index) for index in range(len(self.frames))]
        statuses = [note["status"] for note in notes]
        reasons = {name: note["reason"] for name, note in zip(self.frames.names, notes, strict=True) if note["reason"]}
        if not any(bool((self.aligned.read(index)["depth"] > 0).any()) for index in range(len(self.frames))):
            why = next(iter(reasons.values()), "every frame shows only sky or depth edges")
            raise InputError(f"{self.folder.folder}: no frame has a depth that can be used: {why}; try another --depth")
        counts = {status: statuses.count(status) for status in sorted(set(statuses))}
        self._finish("align", began, {"frames": counts, "reasons": reasons})

    def _judge(self) -> None:
        """Refinement and votes."""
        began = time.perf_counter()
        settings, count = self.settings, len(self.frames)
        neighbours = choose_neighbours(
            self.frames.cameras, lambda index: self.aligned.read(index)["depth"], settings.neighbours
        )
        alone = sum(not others for others in neighbours)
        source = self.aligned
        if settings.refine and alone < count:
            source = self.refined
            waiting = [index for index in range(count) if not source.has(index)]
            for index, depth in _several_at_a_time(lambda index: self._refined(index, neighbours[index]), waiting):
                self._tell(f"refining depth, frame {index + 1} of {count}", 0.35 + 0.35 * index / count)
                source.write(index, {"depth": depth})
        confident = 0.0
        for index, votes in self._votes(source, neighbours):
            self._tell(f"comparing depth, frame {index + 1} of {count}", 0.7 + 0.1 * index / count)
            levels = (votes.confidence * 255).round().to(torch.uint8)
            sky = self.aligned.read(index)["sky"]
            self.depth.write(index, {"depth": votes.consensus, "confidence": levels, "sky": sky})
            confident += float((votes.confidence >= settings.least_confidence).float().mean()) / count
        self._finish(
            "depth",
            began,
            {"neighbours": [len(others) for others in neighbours], "alone": alone, "confident": round(confident, 4)},
        )

    def fuse(self) -> None:
        """The cloud and the sky."""
        settings = self.settings
        self._made_from |= {"least_confidence": settings.least_confidence, "max_points": settings.max_points}
        if not self._needed("cloud"):
            return
        began = time.perf_counter()
        fusion = CloudFusion()
        for index in range(len(self.frames)):
            self._tell("building the cloud", 0.8 + 0.1 * index / len(self.frames))
            depth, confidence, sky = self._judged(index)
            camera = self.frames.cameras[index]
            fusion.add(self.frames.frame(index), depth, confidence, sky, camera, self._least(index))
        cloud = fusion.surface(max_points=settings.max_points)
        backdrop = self.frames.sky if len(self.frames.sky) else fusion.sky()
        if not len(cloud) and not len(backdrop):
            raise InputError(
                f"{self.folder.folder}: no pixel is confident enough for a cloud; lower --confidence "
                f"({settings.least_confidence:g}) or use another --depth"
            )
        self.folder.write_cloud(cloud, backdrop)
        shutil.rmtree(self.folder.folder / "working", ignore_errors=True)
        self._finish("cloud", began, {"points": len(cloud), "sky_points": len(backdrop)})

    def mesh(self) -> None:
        """The mesh."""
        if not self._needed("mesh"):
            return
        began = time.perf_counter()
        cloud = self.folder.cloud
        if not len(cloud):
            self._finish("mesh", began, {"triangles": 0, "reason": "there is no surface, only sky"})
            return
        field = SignedDistanceField(cloud.points, voxel_for(cloud))
        for index in range(len(self.frames)):
            self._tell("building the mesh", 0.9 + 0.08 * index / len(self.frames))
            depth, confidence, _ = self._judged(index)
            used = torch.where(confidence >= self._least(index), depth, 0.0)
            field.add(used, confidence, self.frames.cameras[index])
        mesh = build_mesh(field, cloud)
        if not len(mesh.faces):
            self._finish("mesh", began, {"triangles": 0, "reason": "no surface is large enough for a triangle"})
            return
        self.folder.write_mesh(mesh)
        figures = {"triangles": len(mesh.faces), "vertices": len(mesh.vertices), "voxel": field.voxel}
        self._finish("mesh", began, figures)

    def splats(self, settings: SplatSettings) -> None:
        """The splats and the fly-through."""
        self._made_from |= {"splats": asdict(settings)}
        if not self._needed("splats"):
            return
        began = time.perf_counter()
        least = self.settings.least_confidence
        self._finish("splats", began, reconstruct_splats(self.frames, self.folder, least, settings, self._tell_splats))

    def _tell(self, what: str, share: float) -> None:
        self._report(what, self._geometry * share)

    def _tell_splats(self, what: str, share: float) -> None:
        self._report(what, self._geometry + (1 - self._geometry) * share)

    def _needed(self, step: str) -> bool:
        return self.folder.prepare(step, self._made_from)

    def _finish(self, step: str, began: float, figures: dict[str, Any]) -> None:
        self.folder.finish(step, {"seconds": round(time.perf_counter() - began, 2), **figures})

    def _least(self, index: int) -> float:
        """The confidence that a pixel of a frame needs: what is asked for, or one half where no frame can judge it."""
        neighbours = self.folder.record["steps"]["depth"]["figures"]["neighbours"]
        asked = self.settings.least_confidence
        return asked if neighbours[index] else min(asked, NOBODY_SAYS)

    def _judged(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        values = self.depth.read(index)
        return values["depth"], values["confidence"].float() / 255, values["sky"]

    def _refined(self, index: int, neighbours: tuple[int, ...]) -> Float[Tensor, "h w"]:
        frames, depth = self.frames, self.aligned.read(index)["depth"]
        others = list(neighbours[:REFINING])
        if not others:
            return depth
        return refine_depth(
            frames.frame(index), depth, frames.cameras[index], frames.frames(others), frames.cameras[others]
        )

    def _votes(self, source: FrameFiles, neighbours: list[tuple[int, ...]]) -> Iterator[tuple[int, Votes]]:
        """Votes on every frame, several at a time."""
        frames = self.frames

        def ask(index: int) -> Votes:
            others = list(neighbours[index])
            depth, image = source.read(index)["depth"], frames.frame(index)
            if not others:
                return vote(depth, image, frames.cameras[index], depth[None][:0], image[None][:0], None)
            depths = torch.stack([source.read(other)["depth"] for other in others])
            return vote(depth, image, frames.cameras[index], depths, frames.frames(others), frames.cameras[others])

        return _several_at_a_time(ask, [index for index in range(len(frames)) if not self.depth.has(index)])


def _several_at_a_time(work: Callable[[int], _Result], indices: Sequence[int]) -> Iterator[tuple[int, _Result]]:
    """Indices with what `work` makes of them, in order, as many at a time as torch has threads."""
    workers = max(1, torch.get_num_threads())
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(indices), workers):
            some = indices[start : start + workers]
            yield from zip(some, pool.map(work, some), strict=True)


def _digest(frames: PosedFrames) -> str:
    """A fingerprint of the frames' names and cameras, and of the cloud."""
    digest = hashlib.sha256("\n".join(frames.names).encode())
    for values in (frames.cameras.cam_from_world, frames.cameras.intrinsics, frames.cloud.points, frames.sky.points):
        digest.update(values.cpu().contiguous().numpy().tobytes())
    digest.update(f"{frames.cameras.width}x{frames.cameras.height}".encode())
    return digest.hexdigest()[:16]
