"""How training clips are made out of posed frames with depth, by the same functions that serve a generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.memory.coverage import coverage_scores
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import compress_far, lift_picture
from worldstereo.memory.references import References
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, render_guidance, stereo_inputs
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.training.clip_faults import DepthFaults, PictureFaults, keep_some, spoil_depth, spoil_picture
from worldstereo.training.training_clip import TrainingClip

_POINTS_FOR_COVERAGE = 200_000


@dataclass(frozen=True, eq=False)
class ClipWorld:
    """Frames of one static scene.

    Attributes:
        name: for reports.
        frames: RGB.
        depth: z-depth in the cameras' unit, 0 = unknown.
        sky: where there is sky, depth 0.
        cameras: of the frames.
        tracks: the numbers of the frames that make up a clip, in order, for each clip that can be made; frames may
            belong to several or none.
    """

    name: str
    frames: UInt8[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n h w"]
    sky: Bool[Tensor, "n h w"]
    cameras: Cameras
    tracks: tuple[tuple[int, ...], ...]

    def picture(self, index: int) -> Float[Tensor, "3 h w"]:
        """A frame in [0, 1]."""
        return self.frames[index].float() / 255

    @cached_property
    def coverage(self) -> Float[Tensor, "n n"]:
        """`coverage_scores` of every frame (row) by every other (column), through the points of all frames."""
        points = torch.cat([self.cameras[k].unproject(self.depth[k][None])[0][self.depth[k] > 0] for k in self._all])
        some = points[:: max(1, len(points) // _POINTS_FOR_COVERAGE)]
        return coverage_scores(self.cameras, self.cameras, PointCloud(some, torch.zeros_like(some)))

    @property
    def _all(self) -> range:
        return range(len(self.cameras))


@dataclass(frozen=True)
class ClipRecipe:
    """What is drawn for a clip.

    The cloud begins with the first frame's points. Then further views are chosen, up to `extra_views`: frames of the
    clip itself or of elsewhere, and the memory is updated by them as after a clip; a random part of what they add is
    dropped. References are a small bank of frames from elsewhere, of which each target takes the one that covers
    most of it within the range `overlap`; some targets lose theirs.

    Attributes:
        extra_views: at most; the number is drawn from 0 to this.
        own_views: share of the further views that are frames of the clip itself.
        dropped: largest share of the further views' points that is dropped; the share is drawn from 0 to this.
        unfiltered: share of the clips whose first cloud keeps the points on depth edges.
        depth_faults: of every depth map.
        bank: at most so many frames in the bank; the number is drawn from 1 to this; 0 for clips without references.
        overlap: smallest and largest coverage of a target by its reference.
        masked: probability that a target has no reference although there is one.
        picture_faults: of the references.
        reference_depth: share of the clips whose references come with a depth, as a network completes that of the
            cloud; the others' continues the cloud's.
        reference_depth_faults: of that depth where the cloud knows none.
    """

    extra_views: int = 6
    own_views: float = 0.4
    dropped: float = 0.8
    unfiltered: float = 0.25
    depth_faults: DepthFaults = field(default_factory=DepthFaults)
    bank: int = 8
    overlap: tuple[float, float] = (0.3, 0.9)
    masked: float = 0.15
    picture_faults: PictureFaults = field(default_factory=PictureFaults)
    reference_depth: float = 0.75
    reference_depth_faults: DepthFaults = field(default_factory=lambda: DepthFaults(noise=0.05, scale=0.03, shift=0.03))

    def __post_init__(self) -> None:
        shares = (self.own_views, self.dropped, self.unfiltered, self.masked, self.reference_depth, *self.overlap)
        if not all(0 <= share <= 1 for share in shares) or self.overlap[0] > self.overlap[1]:
            raise InputError(
                "own_views, dropped, unfiltered, masked, reference_depth and overlap must be shares in [0, 1], in order"
            )
        if self.extra_views < 0 or self.bank < 0:
            raise InputError(f"extra_views {self.extra_views} and bank {self.bank} must not be negative")


CAMERA_RECIPE = ClipRecipe(extra_views=0, bank=0)
"""Stage 1: the photo's cloud alone."""

GLOBAL_RECIPE = ClipRecipe(bank=0)
"""Stage 2: a growing cloud."""

STEREO_RECIPE = ClipRecipe()
"""Stage 3: a growing cloud and references."""


def make_clip(world: ClipWorld, track: Sequence[int], recipe: ClipRecipe, rng: np.random.Generator) -> TrainingClip:
    """The clip of the frames `track`; all that is random is drawn from `rng`.

    Raises:
        InputError: the first frame has neither depth nor sky.
    """
    targets = list(track)
    cameras = world.cameras[targets]
    elsewhere = np.setdiff1d(np.arange(len(world.cameras)), targets)
    bank = _draw_bank(world, targets, elsewhere, recipe, rng)
    memory = _memory(world, targets, bank if len(bank) else elsewhere, recipe, rng)
    conditions = ClipConditions(
        cameras=cameras,
        image=world.picture(targets[0]),
        guidance=render_guidance(memory, cameras, OWN_CAMERAS),
        references=_references(world, targets, bank, memory.cloud, recipe, rng),
        seed=0,
    )
    inputs = replace(stereo_inputs(conditions, OWN_CAMERAS, pointmaps=True), filled=conditions.remembered_render())
    name = f"{world.name}/{targets[0]}-{targets[-1]}"
    return TrainingClip(name, world.frames[targets].float() / 255, cameras, inputs)


def _memory(
    world: ClipWorld, targets: list[int], elsewhere: np.ndarray, recipe: ClipRecipe, rng: np.random.Generator
) -> GlobalGeometricMemory:
    """The first frame's points, and a part of what further views add to them."""
    image, first = world.picture(targets[0]), _prediction(world, targets[0], recipe, rng)
    lifted = lift_picture(image, first, world.cameras[targets[0]])
    cloud = lifted.cloud
    if rng.random() < recipe.unfiltered:
        points = world.cameras[targets[0]].unproject(compress_far(first.depth)[None])[0]
        cloud = PointCloud(points[first.valid], image.permute(1, 2, 0)[first.valid])
    memory = GlobalGeometricMemory(cloud, lifted.sky)
    views = _draw_views(targets[1:], elsewhere, recipe, rng)
    if not views:
        return memory
    frames = torch.stack([world.picture(view) for view in views])
    memory.update(frames, world.cameras[views], [_prediction(world, view, recipe, rng) for view in views])
    added = memory.cloud[len(cloud) :]
    kept = keep_some(added.points, rng.uniform(0, recipe.dropped), rng)
    return GlobalGeometricMemory(PointCloud.cat([cloud, added[kept]]), memory.sky)


def _draw_views(own: list[int], elsewhere: np.ndarray, recipe: ClipRecipe, rng: np.random.Generator) -> list[int]:
    """Numbers of further views, in order."""
    wanted = int(rng.integers(recipe.extra_views + 1))
    of_own = min(int(rng.binomial(wanted, recipe.own_views)), len(own))
    of_others = min(wanted - of_own, len(elsewhere))
    drawn = [*rng.choice(own, of_own, replace=False), *rng.choice(elsewhere, of_others, replace=False)]
    return sorted(int(view) for view in drawn)


def _prediction(world: ClipWorld, index: int, recipe: ClipRecipe, rng: np.random.Generator) -> DepthPrediction:
    depth = spoil_depth(world.depth[index], recipe.depth_faults, rng)
    return DepthPrediction(depth, world.sky[index], None, metric=False, source=f"{world.name}/{index}")


def _draw_bank(
    world: ClipWorld, targets: list[int], elsewhere: np.ndarray, recipe: ClipRecipe, rng: np.random.Generator
) -> np.ndarray:
    """Frames from elsewhere that some target could take for its reference."""
    if recipe.bank == 0 or len(elsewhere) == 0:
        return np.zeros(0, np.int64)
    low, high = recipe.overlap
    scores = world.coverage[targets][:, elsewhere.tolist()].cpu().numpy()
    useful = elsewhere[((scores >= low) & (scores <= high)).any(axis=0)]
    size = min(int(rng.integers(1, recipe.bank + 1)), len(useful))
    return rng.choice(useful, size, replace=False) if size else useful


def _references(
    world: ClipWorld,
    targets: list[int],
    bank: np.ndarray,
    cloud: PointCloud,
    recipe: ClipRecipe,
    rng: np.random.Generator,
) -> References:
    """One of the bank or none for each target; the references' order is the bank's, which is random."""
    low, high = recipe.overlap
    scores = world.coverage[targets][:, bank.tolist()]
    scores = torch.where((scores >= low) & (scores <= high), scores, -1.0)
    scores[torch.from_numpy(rng.random(len(targets)) < recipe.masked)] = -1.0
    coverage, best = torch.cat([scores.new_zeros(len(targets), 1), scores], dim=1).max(dim=1)
    used = sorted({index for index in best.tolist() if index > 0})
    place = {0: -1, **{index: position for position, index in enumerate(used)}}
    numbers = [int(bank[index - 1]) for index in used]
    pictures = [spoil_picture(world.picture(number), recipe.picture_faults, rng) for number in numbers]
    size = (0, *world.frames.shape[1:])
    maps = [spoil_depth(world.depth[number], recipe.reference_depth_faults, rng) for number in numbers]
    references = References(
        frames=torch.stack(pictures) if pictures else torch.zeros(size, device=world.frames.device),
        cameras=world.cameras[numbers],
        names=tuple(f"{world.name}/{number}" for number in numbers),
        for_target=torch.tensor([place[index] for index in best.tolist()], device=world.frames.device),
        coverage=coverage,
        cloud=cloud,
    )
    with_depth = maps and rng.random() < recipe.reference_depth
    return references.completed(torch.stack(maps)) if with_depth else references
