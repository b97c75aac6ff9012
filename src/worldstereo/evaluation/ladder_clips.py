"""Held-out clips for the ladder: true frames, both memories as earlier clips left them, and which pixels those saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.posed_video import PosedVideo
from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.depth.multiview.posed_depth import estimate_posed_depth
from worldstereo.errors import InputError
from worldstereo.evaluation.reprojection import View, seen_in, seen_in_any
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture
from worldstereo.memory.references import References
from worldstereo.memory.spatial_stereo import SpatialStereoMemory, update_indices
from worldstereo.training.clip_recipe import ClipWorld
from worldstereo.training.procedural_clips import ProceduralClips

FIRST_SEED = 900_000_000
"""Of procedural scenes; training's are far below."""

_TRAJECTORIES = 4
_REMEMBERED = 8  # frames of a capture that make up its memory, at most
_FEWEST_FRAMES = 4
_WIDEST_STEP = 4
_LARGEST_TURN = 30.0  # degrees
_FINER = 2  # how much larger than the clip pictures are when their depth is estimated


@dataclass(frozen=True, eq=False)
class LadderClip:
    """A clip, and what was seen before it.

    Attributes:
        world: true frames with depth.
        targets: their numbers in the world that make up the clip.
        earlier: numbers of the frames that the memory has of each earlier clip.
        group: the set that its figures belong to.
        depth_source: where the depth of the world comes from, for people.
    """

    world: ClipWorld
    targets: tuple[int, ...]
    earlier: tuple[tuple[int, ...], ...]
    group: str
    depth_source: str

    @property
    def name(self) -> str:
        """Fit for a file."""
        return self.world.name.replace("/", "-")

    @property
    def frames(self) -> Float[Tensor, "f 3 h w"]:
        """The truth."""
        return self.world.frames[list(self.targets)].float() / 255

    @property
    def depth(self) -> Float[Tensor, "f h w"]:
        """Of the truth."""
        return self.world.depth[list(self.targets)]

    @property
    def cameras(self) -> Cameras:
        """Of the truth."""
        return self.world.cameras[list(self.targets)]

    @cached_property
    def first_cloud(self) -> GlobalGeometricMemory:
        """The points of the first frame alone."""
        first = self.targets[0]
        lifted = lift_picture(self.world.picture(first), self._prediction(first), self.world.cameras[first])
        return GlobalGeometricMemory(lifted.cloud, lifted.sky)

    @cached_property
    def grown_cloud(self) -> GlobalGeometricMemory:
        """The same after every second earlier clip, beginning with the first.

        The others are only in the bank: so there is something that references alone know, as in use, where frames
        whose depth cannot be aligned add nothing to the cloud.
        """
        memory = GlobalGeometricMemory(self.first_cloud.cloud, self.first_cloud.sky)
        for clip in self.earlier[::2]:
            frames = torch.stack([self.world.picture(k) for k in clip])
            memory.update(frames, self.world.cameras[list(clip)], [self._prediction(k) for k in clip])
        return memory

    @cached_property
    def references(self) -> References:
        """What the bank of the first frame and all earlier clips gives, with the true depth of its frames."""
        numbers = list(dict.fromkeys([self.targets[0], *(k for clip in self.earlier for k in clip)]))
        pictures = torch.stack([self.world.picture(k) for k in numbers])
        bank = SpatialStereoMemory(pictures, self.world.cameras[numbers], [str(k) for k in numbers])
        found = bank.retrieve(self.cameras, self.grown_cloud.cloud)
        return found.completed(self.world.depth[[int(name) for name in found.names]]) if found.names else found

    @cached_property
    def regions(self) -> dict[str, Bool[Tensor, "f h w"]]:
        """Kinds of pixels; none of the first frame, which is given, belongs to any.

        `known`: the first frame's cloud shows something. The others are its holes: `seen`, what the pixel's own
        reference or a frame that grew the cloud shows; `referred`, holes of the grown cloud that the pixel's own
        reference shows; `unseen`, what no frame in memory shows. Holes of unknown depth are in none.
        """
        holes = self.first_cloud.render_sharp(self.cameras).hole_mask
        grown_holes = self.grown_cloud.render_sharp(self.cameras).hole_mask
        growing = [self._view(k) for clip in self.earlier[::2] for k in clip]
        bank = [self._view(k) for k in {self.targets[0], *(k for clip in self.earlier for k in clip)}]
        regions = {name: torch.zeros_like(holes) for name in ("known", "seen", "referred", "unseen")}
        for place in range(1, len(self.targets)):
            view = self._view(self.targets[place])
            chosen = int(self.references.for_target[place])
            own = self._view(int(self.references.names[chosen])) if chosen >= 0 else None
            shown = torch.zeros_like(view.sky) if own is None else seen_in(view, own)[1]
            has_truth = (view.depth > 0) | view.sky
            regions["known"][place] = ~holes[place]
            regions["seen"][place] = holes[place] & (shown | seen_in_any(view, growing))
            regions["referred"][place] = grown_holes[place] & shown
            regions["unseen"][place] = holes[place] & has_truth & ~seen_in_any(view, bank)
        return regions

    def _view(self, number: int) -> View:
        return View(self.world.cameras[number], self.world.depth[number], self.world.sky[number])

    def _prediction(self, number: int) -> DepthPrediction:
        return DepthPrediction(
            self.world.depth[number], self.world.sky[number], None, metric=True, source=self.depth_source
        )


def procedural_clip(number: int, width: int, height: int, frames: int, device: str = "cpu") -> LadderClip:
    """A trajectory of a scene that training never sees; the scene's other trajectories were flown before.

    Of even scenes it is the one whose end others leave from, so that most of its holes were seen; of odd scenes, where
    there is one, another from the same first view, of which less was seen.
    """
    make = ProceduralClips(width=width, height=height, frames=frames, trajectories=_TRAJECTORIES, device=device)
    made = make.world(FIRST_SEED + number)
    on_cpu = {name: getattr(made, name).to("cpu") for name in ("frames", "depth", "sky", "cameras")}
    world = ClipWorld(name=made.name, tracks=made.tracks, **on_cpu)
    flown = list(world.tracks[: len(world.tracks) // 2])
    from_start = sum(track[0] == flown[0][0] for track in flown)
    target = flown.pop(number % from_start)
    kept = list(update_indices(frames))
    earlier = tuple(tuple(track[k] for k in kept) for track in flown)
    return LadderClip(world, target, earlier, "procedural, held out", "exact")


def capture_clip(
    video: PosedVideo, width: int, height: int, frames: int, estimator: DepthEstimator, group: str
) -> LadderClip:
    """Frames of a posed video; others of its frames are the memory, in two clips, of which the first grew the cloud.

    A run of at most every fourth frame that turns by at most 30°; a video with fewer than three frames for every two
    of the clip gives two of every three, there and back as often as it takes. The memory are frames between, shortly
    before and shortly after. Depth that the video has not is estimated from all these frames and their cameras
    (`estimate_posed_depth`), which see the clip's own too: like stored depth it is not what is judged.

    Raises:
        InputError: the video has fewer than four frames.
    """
    targets, memory = split_capture(video.cameras, frames)
    return _clip_of(video, targets, memory, frames, width, height, estimator, group)


def clip_of_frames(
    video: PosedVideo, targets: Sequence[int], width: int, height: int, estimator: DepthEstimator, group: str
) -> LadderClip:
    """Some frames of a posed video, of which only the first is known before; depth as of `capture_clip`.

    Raises:
        InputError: a picture or depth cannot be read, or estimated depth cannot be brought to the cameras' unit.
    """
    return _clip_of(video, list(targets), [], len(targets), width, height, estimator, group)


def _clip_of(
    video: PosedVideo,
    targets: list[int],
    memory: list[int],
    frames: int,
    width: int,
    height: int,
    estimator: DepthEstimator,
    group: str,
) -> LadderClip:
    loaded = video.load([*targets, *memory], width, height)
    sky = torch.zeros_like(loaded.depth, dtype=torch.bool)
    depth, source = loaded.depth, "stored"
    if not video.has_depth:
        source = f"{estimator.name}, corrected between the frames"
        large = video.load([*targets, *memory], _FINER * width, _FINER * height)
        found, is_sky = estimate_posed_depth(large.frames.float() / 255, large.cameras, estimator)
        depth, sky = found[:, ::_FINER, ::_FINER], is_sky[:, ::_FINER, ::_FINER]
    track = tuple(_there_and_back(len(targets), frames))
    world = ClipWorld(video.name, loaded.frames, depth, sky, loaded.cameras, (track,))
    rest = range(len(targets), len(targets) + len(memory))
    earlier = tuple(tuple(rest[start::2]) for start in range(min(2, len(rest))))
    return LadderClip(world, track, earlier, group, source)


def split_capture(cameras: Cameras, frames: int) -> tuple[list[int], list[int]]:
    """Numbers of a video's frames that make up the clip, and of those that make up its memory.

    Raises:
        InputError: fewer than four frames.
    """
    count = len(cameras)
    if count < _FEWEST_FRAMES:
        raise InputError(f"a capture of {count} frames is too short for a clip with a memory; it needs four")
    if 2 * count < 3 * frames:
        targets = [k for k in range(count) if k % 3 < 2][:frames]
        around = range(count)
    else:
        targets = _run(cameras, frames)
        around = range(max(0, targets[0] - _REMEMBERED), min(count, targets[-1] + 1 + _REMEMBERED))
    rest = [k for k in around if k not in targets]
    chosen = np.linspace(0, len(rest) - 1, min(_REMEMBERED, len(rest))).round().astype(int)
    return targets, [rest[k] for k in chosen]


def _run(cameras: Cameras, frames: int) -> list[int]:
    """The run with the widest step that keeps looking roughly where its first frame looks; the earliest of equals.

    If every run turns away, the one that turns least.
    """
    count, runs = len(cameras), []
    for step in range(min(_WIDEST_STEP, (count - 1) // (frames - 1)), 0, -1):
        for start in range(count - step * (frames - 1)):
            run = list(range(start, start + step * (frames - 1) + 1, step))
            cosine = cameras.forward[run] @ cameras.forward[start]
            turn = round(float(torch.rad2deg(cosine.clamp(-1, 1).acos().max())), 1)
            if turn <= _LARGEST_TURN:
                return run
            runs.append((turn, run))
    return min(runs)[1]


def find_captures(data: Path) -> dict[str, Path]:
    """Folders with `cameras.json` in `data` and in its subfolders, by their paths in it.

    Raises:
        InputError: there are none.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give one that holds posed captures, or leave --data out")
    files = [*data.glob("*/cameras.json"), *data.glob("*/*/cameras.json")]
    found = {file.parent.relative_to(data).as_posix(): file.parent for file in sorted(files)}
    if not found:
        raise InputError(f"{data}: holds no posed captures (folders with cameras.json); give another folder")
    return found


def _there_and_back(count: int, frames: int) -> Iterator[int]:
    """0 to count − 1, back to 0, and so on."""
    period: Sequence[int] = [*range(count), *range(count - 2, 0, -1)]
    for k in range(frames):
        yield period[k % len(period)]
