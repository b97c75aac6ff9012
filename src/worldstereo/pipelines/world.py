"""The whole loop: picture -> points -> path -> clip -> both memories -> next path."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

import worldstereo
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import read_cameras, write_official
from worldstereo.cameras.trajectories import (
    Obstacles,
    SceneScale,
    Spline,
    Trajectory,
    parse_trajectory,
    preset,
    shorten_to_clear,
)
from worldstereo.depth import DepthEstimator
from worldstereo.depth.file import FileDepth
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import InputError
from worldstereo.files import write_json
from worldstereo.images import Picture, load_picture
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.spatial_stereo import SpatialStereoMemory, update_indices
from worldstereo.models.hub import DEFAULT_MODEL, weights_fingerprint
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.generators import Generators
from worldstereo.pipelines.starting_point import (
    PANORAMA_ASPECT,
    Projection,
    StartingPoint,
    resolve_projection,
    start_from_panorama,
    start_from_photo,
)
from worldstereo.pipelines.world_folder import Clip, ClipPlan, Manifest, Request, World, exclusive
from worldstereo.threads import fixed_threads
from worldstereo.video import write_video

FRAMES_PER_SECOND = 16
_FRAMES = 21  # per clip, of a generator that makes any number
_SEEDS = 2**32

OnProgress = Callable[[str, float], None]
"""Called as (what is being done, share of the whole that is done in [0, 1])."""


def _silent(what: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Settings:
    """What a user can choose for a world.

    Attributes:
        trajectories: paths as `parse_trajectory` reads them; empty for the preset.
        preset: a name of `trajectories.PRESETS`; none for the default of the picture's projection.
        projection: of the picture; "auto" takes a 2:1 picture for a panorama.
        camera: a camera file of the photo, whose first camera is used.
        default_fov: field of view over the longer side in degrees, where nothing else is known.
        short_side: of the clips, in pixels; the generator's choice if none.
        frames: per clip; the generator's number, or 21, if none.
        squeeze: stretch the photo to the clips' shape, as the official release does, instead of cropping it.
        seed: of all randomness.
    """

    trajectories: tuple[str, ...] = ()
    preset: str | None = None
    projection: Literal["auto", "perspective", "equirectangular"] = "auto"
    camera: Path | None = None
    default_fov: float = 60.0
    short_side: int | None = None
    frames: int | None = None
    squeeze: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames is not None and not 2 <= self.frames <= 201:
            raise InputError(f"--frames {self.frames}: must lie between 2 and 201")
        if self.short_side is not None and (not 64 <= self.short_side <= 2160 or self.short_side % 16):
            raise InputError(f"--short-side {self.short_side}: must be a multiple of 16 between 64 and 2160")
        if not 10 <= self.default_fov <= 150:
            raise InputError(f"--fov {self.default_fov:g}: must lie between 10 and 150 degrees")
        if not 0 <= self.seed < _SEEDS:
            raise InputError(f"--seed {self.seed}: must lie between 0 and {_SEEDS - 1}")

    def paths(self, projection: Projection) -> tuple[Trajectory, ...]:
        """The trajectories asked for, or those of the preset."""
        if self.trajectories:
            return tuple(parse_trajectory(text) for text in self.trajectories)
        return preset(self.preset or ("panorama" if projection == "equirectangular" else "default"))


@dataclass(frozen=True)
class PlannedPath:
    """A path through the scene, before anything is generated.

    Attributes:
        trajectory: what was asked for.
        cameras: what will be flown, the start first.
        fraction: how much of the asked amounts was kept so as not to run into the geometry, in [0, 1].
    """

    trajectory: Trajectory
    cameras: Cameras
    fraction: float


def create_generator(
    model: str,
    options: GeneratorOptions = GeneratorOptions(),  # noqa: B008 (frozen)
    placement: Placement = Placement(),  # noqa: B008 (frozen)
) -> VideoGenerator:
    """The generator of that name: "warp", "nano", or a folder or hub id of a network, with optional `:subfolder`.

    Raises:
        InputError: unknown, or an option does not go with it.
    """
    return Generators(placement)(model, options)


def plan_paths(
    trajectories: Sequence[Trajectory], start: Cameras, scale: SceneScale, memory: GlobalGeometricMemory, frames: int
) -> list[PlannedPath]:
    """Cameras of paths from `start`, each shortened where it would run into the cloud."""
    obstacles = Obstacles(memory.cloud.points)
    planned = []
    for trajectory in trajectories:
        kept, fraction = shorten_to_clear(trajectory, start, scale, obstacles)
        planned.append(PlannedPath(trajectory, kept.cameras(start, scale, frames), fraction))
    return planned


class WorldPipeline:
    """Makes and extends worlds with one generator and one depth back-end."""

    def __init__(self, generator: VideoGenerator, depth: DepthEstimator) -> None:
        self.generator = generator
        self.depth = depth

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        depth: str = "nano",
        depth_scale: float | None = None,
        options: GeneratorOptions = GeneratorOptions(),  # noqa: B008 (frozen)
        placement: Placement = Placement(),  # noqa: B008 (frozen)
    ) -> "WorldPipeline":
        """The pipeline of a generator (see `create_generator`) and a depth back-end (see `create_depth_estimator`).

        Raises:
            InputError: an unknown name.
        """
        estimator = create_depth_estimator(depth, depth_scale=depth_scale, device=placement.device)
        return cls(create_generator(model, options, placement), estimator)

    def start(self, picture: Picture, settings: Settings) -> tuple[StartingPoint, list[PlannedPath]]:
        """Everything that is known before the first clip: points, cameras, planned paths.

        Raises:
            InputError: unusable camera file, depth or path.
        """
        projection = resolve_projection(picture, settings.projection)
        trajectories = settings.paths(projection)
        if projection == "equirectangular":
            if settings.camera is not None:
                raise InputError(f"{settings.camera}: a panorama takes no --camera; leave the option out")
            begun = start_from_panorama(picture, self.depth, self._clip_size(picture, settings))
        else:
            given = None
            if settings.camera is not None:
                height, width = picture.rgb.shape[1:]
                given = read_cameras(settings.camera, width=width, height=height).cameras
            size = self._clip_size(picture, settings)
            begun = start_from_photo(picture, self.depth, given, size, settings.default_fov, settings.squeeze)
        memory = GlobalGeometricMemory(begun.lifted.cloud, begun.lifted.sky)
        return begun, plan_paths(trajectories, begun.camera, begun.scale, memory, self._frames(settings))

    def __call__(
        self,
        picture: str | Path,
        out: str | Path,
        settings: Settings | None = None,
        on_progress: OnProgress = _silent,
    ) -> World:
        """Make the world of a picture in the folder `out`, or go on with it where an earlier run ended.

        Raises:
            InputError: unusable input; or `out` holds something else, or a world of another picture or of other
                settings: nothing is overwritten.
        """
        settings = settings or Settings()
        folder = Path(out)
        loaded = load_picture(Path(picture))
        request = self._request(loaded, settings)
        World.require_same_or_new(folder, request)
        with exclusive(folder), fixed_threads():
            World.require_same_or_new(folder, request)  # another run may have come between
            if World.exists(folder):
                world = World(folder)
            else:
                on_progress("estimating depth", 0.0)
                world = _write_start(folder, loaded.path.name, request, *self.start(loaded, settings))
            self._make_clips(world, on_progress)
        return world

    def extend(
        self,
        world: World,
        trajectories: Sequence[str],
        start: str = "input",
        on_progress: OnProgress = _silent,
    ) -> World:
        """Add clips to a world, with all its memory; clips that an earlier run left unfinished come first.

        Where these are the last that the same call added before it was stopped, they are finished and not added again.

        Args:
            start: "input", or "CLIP:FRAME" (e.g. "0:20") to leave from a generated frame.

        Raises:
            InputError: a bad path or start, or the world was made with another generator or depth back-end.
        """
        request = world.manifest.request
        if (request.model, request.depth) != (self.generator.name, self.depth.name):
            raise InputError(
                f"{world.folder}: was made with --model {request.model} --depth {request.depth}, "
                f"not {self.generator.name} and {self.depth.name}; extend it with the same"
            )
        parsed = [parse_trajectory(text) for text in trajectories]
        with exclusive(world.folder), fixed_threads():
            world.reload()
            wanted = [(str(trajectory), start) for trajectory in parsed]
            added = len(world.clips) - len(wanted)
            was_begun = world.kept_clips >= added and wanted == [
                (plan.trajectory, plan.start) for plan in world.manifest.clips[added:]
            ]
            unfinished = not world.is_done
            self._make_clips(world, on_progress)
            if unfinished and was_begun:
                return world
            camera = world.frame_camera(start)
            scale = SceneScale(world.manifest.radius, world.manifest.metric, torch.tensor(world.manifest.up))
            paths = plan_paths(parsed, camera, scale, world.memory, request.frames)
            world.plan_more(_write_plans(world.folder, paths, start, first=len(world.clips)))
            self._make_clips(world, on_progress)
        return world

    def _frames(self, settings: Settings) -> int:
        """Frames of every clip."""
        made = self.generator.frames
        if made is not None and settings.frames not in (None, made):
            raise InputError(f"--frames {settings.frames}: {self.generator.name} makes {made}; leave the option out")
        return made or settings.frames or _FRAMES

    def _clip_size(self, picture: Picture, settings: Settings) -> tuple[int, int]:
        """(width, height) of every clip."""
        height, width = picture.rgb.shape[1:]
        if resolve_projection(picture, settings.projection) == "equirectangular":
            width, height = PANORAMA_ASPECT
        return self.generator.clip_size(width, height, settings.short_side)

    def _request(self, picture: Picture, settings: Settings) -> Request:
        projection = resolve_projection(picture, settings.projection)
        trajectories = settings.paths(projection)
        file = self.depth if isinstance(self.depth, FileDepth) else None
        return Request(
            picture_sha256=hashlib.sha256(picture.path.read_bytes()).hexdigest(),
            projection=projection,
            depth=self.depth.name,
            camera="" if settings.camera is None else str(settings.camera),
            model=self.generator.name,
            options=self.generator.options,
            trajectories=tuple(str(trajectory) for trajectory in trajectories),
            seed=settings.seed,
            frames=self._frames(settings),
            size=self._clip_size(picture, settings),
            squeeze=settings.squeeze,
            default_fov=settings.default_fov,
            software=worldstereo.__version__,
            depth_scale=None if file is None else file.depth_scale,
            file_fingerprint=_fingerprints(self.generator, file, settings.camera, trajectories),
        )

    def _make_clips(self, world: World, on_progress: OnProgress) -> None:
        world.forget_old_clouds()
        if world.is_done:
            return
        clips, kept = world.clips, world.kept_clips
        for clip in clips[kept:]:
            clip.unmark()
        memory = world.memory
        bank = _restore_bank(world, clips[:kept])
        for index in range(kept, len(clips)):

            def report(what: str, share: float, index: int = index) -> None:
                on_progress(f"clip {index + 1} of {len(clips)}: {what}", (index + share) / len(clips))

            self._make_clip(world, index, memory, bank, report)
        on_progress("done", 1.0)

    def _make_clip(
        self,
        world: World,
        index: int,
        memory: GlobalGeometricMemory,
        bank: SpatialStereoMemory,
        on_progress: OnProgress,
    ) -> None:
        """Guidance, references, frames, then both memories; every file, then the mark that the clip is done."""
        clip, began = world.clips[index], time.perf_counter()
        cameras = clip.cameras
        on_progress("rendering the memory along the path", 0.0)
        guidance = self.generator.render_guidance(memory, cameras)
        references = bank.retrieve(cameras, memory.cloud)
        if self.generator.uses_reference_depth:
            references = references.with_depth(self.depth)
        conditions = ClipConditions(
            cameras=cameras,
            image=world.frame(clip.plan.start),
            guidance=guidance,
            references=references,
            seed=world.manifest.request.seed * 1_000_003 + index,
        )
        frames = self.generator.generate(
            conditions, lambda done, total: on_progress("generating frames", 0.25 + 0.25 * done / total)
        )
        on_progress("writing frames", 0.5)
        frames = clip.write_frames(frames)
        clip.write_guidance(guidance)
        on_progress("estimating depth of the new frames", 0.6)
        kept = list(update_indices(len(frames)))
        predictions = [
            self.depth.estimate(frames[number], cameras.intrinsics[number], hint=guidance.depth[number])
            for number in kept
        ]
        update = memory.update(frames[kept], cameras[kept], predictions)
        bank.add_clip(frames, cameras, clip.name)
        on_progress("writing the clip", 0.9)
        write_video(clip.video, frames, FRAMES_PER_SECOND)
        write_json(
            clip.folder / "references.json",
            {
                "references": references.names,
                "reference_of_frame": references.for_target.tolist(),
                "coverage": references.coverage.tolist(),
            },
        )
        write_json(
            clip.folder / "update.json",
            {"depth_frames": kept, "seconds": round(time.perf_counter() - began, 2), **asdict(update)},
        )
        memory.save(world.cloud_path(index))
        clip.mark_done(world.manifest.fingerprint(index))
        world.forget_old_clouds()


def _fingerprints(
    generator: VideoGenerator, depth: FileDepth | None, camera: Path | None, trajectories: Sequence[Trajectory]
) -> dict[str, str]:
    """Of the model's weights and of all files that a world is made from, by name."""
    paths = [move.source for trajectory in trajectories for move in trajectory.moves if isinstance(move, Spline)]
    given = (None if depth is None else depth.name, camera, generator.options.get("prompt_embeddings"))
    named = [*paths, *(str(name) for name in given if name is not None)]
    found = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16] for name in named if Path(name).is_file()}
    weights = weights_fingerprint(generator.name)
    return found if weights is None else {**found, generator.name: weights}


def _restore_bank(world: World, clips: Sequence[Clip]) -> SpatialStereoMemory:
    """The bank as it was after the `clips`, rebuilt from the lossless frames."""
    bank = SpatialStereoMemory(*world.initial_bank())
    for clip in clips:
        bank.add_clip(clip.frames, clip.cameras, clip.name)
    return bank


def _write_start(
    folder: Path, source_name: str, request: Request, begun: StartingPoint, paths: Sequence[PlannedPath]
) -> World:
    """Write the input, its cloud, the planned cameras, and last the manifest."""
    World.write_input(folder, begun.picture, begun.depth, begun.sky, begun.camera)
    GlobalGeometricMemory(begun.lifted.cloud, begun.lifted.sky).save(World.memory_path(folder, -1))
    plans = _write_plans(folder, paths, "input", first=0)
    return World.create(
        folder,
        Manifest(
            request=request,
            source_name=source_name,
            width=begun.camera.width,
            height=begun.camera.height,
            depth_source=begun.depth_source,
            metric=begun.scale.metric,
            intrinsics_source=begun.intrinsics_source,
            radius=begun.scale.radius,
            up=tuple(begun.scale.up.tolist()),
            clips=plans,
        ),
    )


def _write_plans(folder: Path, paths: Sequence[PlannedPath], start: str, first: int) -> tuple[ClipPlan, ...]:
    """Write the cameras of planned clips; gives what the manifest keeps of them."""
    plans = []
    for index, path in enumerate(paths, first):
        plan = ClipPlan(f"{index:03d}-{path.trajectory.name}", str(path.trajectory), round(path.fraction, 4), start)
        write_official(Clip(folder / "clips" / plan.name, plan).folder / "cameras.json", path.cameras)
        plans.append(plan)
    return tuple(plans)
