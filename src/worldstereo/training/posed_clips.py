"""Clips of posed videos: a part of the video is the truth, the rest of it gives references and further views."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.posed_video import PosedVideo
from worldstereo.depth.base import DepthEstimator
from worldstereo.errors import InputError
from worldstereo.training.clip_recipe import ClipRecipe, ClipWorld, make_clip
from worldstereo.training.training_clip import TrainingClip

_PARALLAX = (0.002, 2.0)  # of neighbouring frames: baseline over median depth
_SCALES = 60
_FIT_WIDTH = 96
_WORST = 0.2  # of the colour difference of a pixel
_UNSEEN = 0.1  # what a pixel costs that leaves the other picture


@dataclass(frozen=True)
class PosedClips:
    """Makes clips from a seed: a run of frames of some video, there and back.

    Attributes:
        videos: each as likely as it has frames.
        recipe: of the clips.
        width, height: of the frames.
        frames: per clip.
        strides: smallest and largest step between the frames of a clip; where a video is too short for the largest,
            what it has room for.
        further: frames of elsewhere in the video that a clip may use, at most.
        depth: the back-end for videos without depth; its depth is brought to the unit of the cameras by
            `photometric_scale`.
    """

    videos: tuple[PosedVideo, ...] = field(repr=False)
    recipe: ClipRecipe = field(default_factory=ClipRecipe)
    width: int = 256
    height: int = 144
    frames: int = 13
    strides: tuple[int, int] = (1, 4)
    further: int = 24
    depth: DepthEstimator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.videos or not 1 <= self.strides[0] <= self.strides[1]:
            raise InputError("posed clips need a video, and strides of at least 1 in order")
        for video in self.videos:
            if len(video) < 1 + (self.frames - 1) * self.strides[0]:
                raise InputError(
                    f"{video.name}: has {len(video)} frames, too few for clips of {self.frames} with stride "
                    f"{self.strides[0]}; leave it out, or make shorter clips"
                )
            if not video.has_depth and self.depth is None:
                raise InputError(f"{video.name}: has no depth; name a depth back-end, such as nano")

    def __call__(self, seed: int) -> list[TrainingClip]:
        """Two clips: a run of frames and its reverse."""
        world = self.world(seed)
        rng = np.random.default_rng([seed, 1])
        return [make_clip(world, track, self.recipe, rng) for track in world.tracks]

    def world(self, seed: int) -> ClipWorld:
        """A run of frames, then frames of elsewhere in the video."""
        rng = np.random.default_rng([seed, 0])
        sizes = np.array([len(video) for video in self.videos])
        video = self.videos[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        widest = min(self.strides[1], (len(video) - 1) // (self.frames - 1))
        stride = int(rng.integers(self.strides[0], widest + 1))
        start = int(rng.integers(len(video) - stride * (self.frames - 1)))
        run = start + stride * np.arange(self.frames)
        others = np.setdiff1d(np.arange(len(video)), run)
        others = np.sort(rng.choice(others, min(self.further, len(others)), replace=False))
        loaded = video.load([*run.tolist(), *others.tolist()], self.width, self.height)
        depth, sky = loaded.depth, torch.zeros_like(loaded.depth, dtype=torch.bool)
        if not video.has_depth:
            assert self.depth is not None
            estimates = [
                self.depth.estimate(frame.float() / 255, intrinsics)
                for frame, intrinsics in zip(loaded.frames, loaded.cameras.intrinsics, strict=True)
            ]
            depth, sky = torch.stack([e.depth for e in estimates]), torch.stack([e.sky for e in estimates])
            first = slice(0, self.frames)
            depth = depth * photometric_scale(loaded.frames[first].float() / 255, loaded.cameras[first], depth[first])
        track = tuple(range(self.frames))
        return ClipWorld(
            name=f"{video.name}/{start}+{stride}",
            frames=loaded.frames,
            depth=depth,
            sky=sky,
            cameras=loaded.cameras,
            tracks=(track, track[::-1]),
        )


def photometric_scale(frames: Float[Tensor, "n 3 h w"], cameras: Cameras, depth: Float[Tensor, "n h w"]) -> float:
    """The factor that brings depth to the unit of the cameras: with it, neighbouring frames agree best in colour.

    Of each two neighbours one is sampled where the depth of the other says, for 60 factors by which the baseline is
    0.002 to 2 median depths; reduced pictures, robust differences. Where the camera hardly moves nothing is
    found out, and any factor does.

    Raises:
        InputError: fewer than two frames, cameras that stand still, or no depth.
    """
    known = depth[depth > 0]
    baseline = (cameras.centers[1:] - cameras.centers[:-1]).norm(dim=1)
    if len(frames) < 2 or float(baseline.max()) <= 0 or len(known) == 0:
        raise InputError("depth cannot be brought to the cameras' unit: too few frames, no motion, or no depth")
    height = max(8, round(_FIT_WIDTH * cameras.height / cameras.width))
    small = F.interpolate(frames, size=(height, _FIT_WIDTH), mode="area")
    near = F.interpolate(depth[:, None], size=(height, _FIT_WIDTH), mode="nearest-exact")[:, 0]
    views = cameras.resized(_FIT_WIDTH, height)
    factors = (float(baseline.median()) / float(known.median()) / np.geomspace(*_PARALLAX, _SCALES)).tolist()
    costs = [
        sum(_difference(small[[a, b]], views[[a, b]], factor * near[a]) for a, b in pairwise(range(len(frames))))
        for factor in factors
    ]
    return factors[int(np.argmin(costs))]


def _difference(pair: Float[Tensor, "2 3 h w"], views: Cameras, depth: Float[Tensor, "h w"]) -> float:
    """How much the second picture differs from the first where the first's depth says that it shows the same."""
    known = depth > 0
    pixels, z = (values[0] for values in views[1].project(views[0].unproject(depth[None])[0][known]))
    size = pixels.new_tensor([views.width, views.height])
    grid = (2 * pixels / size - 1).clamp(-2, 2)
    seen = (z > 0) & (grid.abs() <= 1).all(dim=-1)
    sampled = F.grid_sample(pair[1:], grid[None, None], mode="bilinear", align_corners=False)[0, :, 0]
    error = (sampled - pair[0][:, known]).abs().mean(dim=0).clamp(max=_WORST)
    return float(torch.where(seen, error, _UNSEEN).mean())
