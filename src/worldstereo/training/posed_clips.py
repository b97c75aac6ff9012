"""Clips of posed videos: a part of the video is the truth, the rest of it gives references and further views."""

from dataclasses import dataclass, field

import numpy as np
import torch

from worldstereo.data.posed_video import PosedVideo
from worldstereo.depth.base import DepthEstimator
from worldstereo.depth.multiview.posed_depth import estimate_posed_depth
from worldstereo.errors import InputError
from worldstereo.training.clip_recipe import ClipRecipe, ClipWorld, make_clip
from worldstereo.training.config_file import require_whole
from worldstereo.training.training_clip import TrainingClip


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
        depth: the back-end for videos without depth; its depth is brought to the unit of the cameras and corrected by
            `estimate_posed_depth`.
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
        require_whole(self, 1, "width", "height")
        require_whole(self, 2, "frames")
        require_whole(self, 0, "further")
        match self.strides:
            case (int() as least, int() as most) if 1 <= least <= most:
                pass
            case _:
                raise InputError(f"strides is {self.strides!r} but must be two whole numbers from 1 in order")
        if not self.videos:
            raise InputError("posed clips need a video")
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
            depth, sky = estimate_posed_depth(loaded.frames.float() / 255, loaded.cameras, self.depth)
        track = tuple(range(self.frames))
        return ClipWorld(
            name=f"{video.name}/{start}+{stride}",
            frames=loaded.frames,
            depth=depth,
            sky=sky,
            cameras=loaded.cameras,
            tracks=(track, track[::-1]),
        )
