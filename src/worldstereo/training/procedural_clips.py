"""Clips of procedural scenes: several trajectories through a scene, rendered once, used in many roles."""

from dataclasses import dataclass, field
from math import exp, log

import numpy as np
import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale, Trajectory, parse_trajectory
from worldstereo.data.procedural import ProceduralScene
from worldstereo.data.procedural.viewpoints import worth_taking
from worldstereo.errors import InputError
from worldstereo.training.clip_recipe import ClipRecipe, ClipWorld, make_clip
from worldstereo.training.config_file import require_whole
from worldstereo.training.training_clip import TrainingClip

PATHS = (
    "ellipse:0.3x0.4",
    "orbit-up:45",
    "orbit-right:140",
    "orbit-left:140",
    "dolly-in:0.5",
    "dolly-out:0.5",
    "truck-right:0.4",
    "truck-left:0.4",
    "pan-right:60",
    "pan-left:60",
    "dolly-in:0.4+pan-right:45",
    "dolly-in:0.4+pan-left:45",
    "orbit-right:60+pan-left:30",
    "orbit-left:60+dolly-in:0.3",
)
"""Full amounts; the first four are those of the paper's benchmark."""

_CLEARANCE = 0.3  # metres
_SHRINK = 0.7
_LEAST_SHARE = 0.04
_SAMPLES = 64
_PREVIEW = (32, 18)


@dataclass(frozen=True)
class ProceduralClips:
    """Makes the clips of a scene from its seed: every trajectory there and back, each with its own draw of the recipe.

    A scene has up to two standpoints: some trajectories leave from the first view, the others from where the first
    of them ends. All that leave from one view share its frame.

    Attributes:
        recipe: of the clips.
        width, height: of the frames.
        frames: per clip.
        trajectories: per scene.
        share: smallest and largest part of the full amounts of `PATHS`; as likely between 10 and 20 % as 20 and 40 %.
        device: where scenes are rendered and clips made.
    """

    recipe: ClipRecipe = field(default_factory=ClipRecipe)
    width: int = 256
    height: int = 144
    frames: int = 13
    trajectories: int = 4
    share: tuple[float, float] = (0.1, 1.0)
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_whole(self, 1, "width", "height", "trajectories")
        require_whole(self, 2, "frames")
        match self.share:
            case (float() | int() as least, float() | int() as most) if 0 < least <= most <= 1:
                pass
            case _:
                raise InputError(f"share is {self.share!r} but must be two numbers in (0, 1] in order")

    def __call__(self, seed: int) -> list[TrainingClip]:
        """All clips of a scene."""
        world = self.world(seed)
        rng = np.random.default_rng([seed, 1])
        return [make_clip(world, track, self.recipe, rng) for track in world.tracks]

    def world(self, seed: int) -> ClipWorld:
        """The scene's frames, with exact depth."""
        rng = np.random.default_rng([seed, 0])
        scene = ProceduralScene.sample(seed, device=self.device)
        first = scene.sample_cameras(1, seed, self.width, self.height)
        there = self._paths(scene, first, -(-self.trajectories // 2), rng)
        further = self._paths(scene, there[0][-1], self.trajectories // 2, rng) if self.trajectories > 1 else []
        cameras, tracks = [first], []
        total = 1
        for paths, start in ((there, 0), (further, self.frames - 1)):
            for path in paths:
                cameras.append(path[1:])
                tracks.append((start, *range(total, total + self.frames - 1)))
                total += self.frames - 1
        every = Cameras.cat(cameras)
        render = scene.render(every)
        return ClipWorld(
            name=f"procedural/{seed}",
            frames=(render.rgb.clamp(0, 1) * 255).round().to(torch.uint8),
            depth=render.depth,
            sky=render.sky,
            cameras=every,
            tracks=(*tracks, *(track[::-1] for track in tracks)),
        )

    def _paths(self, scene: ProceduralScene, start: Cameras, count: int, rng: np.random.Generator) -> list[Cameras]:
        """Cameras of up to `count` trajectories of other moves each from a view; one stands still if none is clear."""
        depth = scene.render(start.resized(*_PREVIEW)).depth
        scale = SceneScale(float(depth[depth > 0].median()), metric=True)
        paths: list[Cameras] = []
        for kind in rng.permutation(len(PATHS)):
            share = exp(rng.uniform(log(self.share[0]), log(self.share[1])))
            path = _largest_clear(scene, start, scale, parse_trajectory(PATHS[kind]), share, self.frames)
            if path is not None:
                paths.append(path)
            if len(paths) == count:
                break
        return paths or [start[[0] * self.frames]]


def _largest_clear(
    scene: ProceduralScene, start: Cameras, scale: SceneScale, full: Trajectory, share: float, frames: int
) -> Cameras | None:
    """A part of a trajectory, at most `share`, that is clear of the geometry and shows something in every frame."""
    while share > _LEAST_SHARE:
        trajectory = Trajectory(tuple(move.scaled(share) for move in full.moves))
        eyes = trajectory.cameras(start, scale, _SAMPLES).centers.to(scene.walks.device)
        if float(scene.distance(eyes).min()) > _CLEARANCE:
            path = trajectory.cameras(start, scale, frames)
            if bool(worth_taking(scene.render(path.resized(*_PREVIEW)).depth).all()):
                return path
        share *= _SHRINK
    return None
