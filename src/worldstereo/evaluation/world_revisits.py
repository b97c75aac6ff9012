"""What a finished world shows twice: frames that see again what earlier ones saw, compared through its own geometry."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import radians

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.evaluation.reprojection import View, sample, seen_in
from worldstereo.image_metrics import psnr
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.world_folder import World

_COARSE = 4  # the best earlier frame is found in pictures this many times smaller
_SAME_PLACE = 1e-3  # of the scene's radius
_SAME_DIRECTION = radians(0.1)
_FEWEST_PIXELS = 100
_HIGHEST_PSNR = 100.0


@dataclass(frozen=True, eq=False)
class WorldFrames:
    """The frames of a world's finished clips, in the order in which they were made.

    Attributes:
        frames: RGB in [0, 1].
        cameras: theirs.
        clips: which clip each belongs to.
        memory: the cloud after the last clip.
        start: the cloud of the input alone.
        radius: of the scene, in world units.
    """

    frames: Float[Tensor, "n 3 h w"]
    cameras: Cameras
    clips: tuple[int, ...]
    memory: GlobalGeometricMemory
    start: GlobalGeometricMemory
    radius: float

    @classmethod
    def of(cls, world: World) -> "WorldFrames":
        """Read them.

        Raises:
            InputError: a file of the world is missing or damaged.
        """
        clips = [clip for clip in world.clips if clip.is_done]
        return cls(
            frames=torch.cat([clip.frames for clip in clips]),
            cameras=Cameras.cat([clip.cameras for clip in clips]),
            clips=tuple(number for number, clip in enumerate(clips) for _ in range(len(clip.cameras))),
            memory=world.memory,
            start=GlobalGeometricMemory.load(World.memory_path(world.folder, -1)),
            radius=world.manifest.radius,
        )

    def pairs(self, *, same_clip: bool) -> list[tuple[int, int]]:
        """(frame, earlier frame): of each frame the one that shows most of it, of earlier clips or of the first half of
        its own. The first frame of a clip, which is given, has none.
        """
        small = self.cameras.resized(max(8, self.cameras.width // _COARSE), max(8, self.cameras.height // _COARSE))
        views = _views(self.memory, small)
        found = []
        for number in range(len(self.frames)):
            candidates = list(self._before(number, same_clip))
            shares = [int(seen_in(views[number], views[other])[1].sum()) for other in candidates]
            if shares and max(shares) > 0:
                found.append((number, candidates[shares.index(max(shares))]))
        return found

    def _before(self, number: int, same_clip: bool) -> Iterable[int]:
        own = self.clips.index(self.clips[number])
        if number == own:
            return ()
        if not same_clip:
            return range(own)
        length = self.clips.count(self.clips[number])
        return range(own + 1, own + length // 2) if number >= own + (length + 1) // 2 else ()

    def meetings(self) -> list[tuple[int, int]]:
        """(frame, earlier frame) of equal cameras, wherever in the world; given first frames are left out."""
        rotation, k = self.cameras.cam_from_world[:, :3, :3].flatten(1), self.cameras.intrinsics.flatten(1)
        near = torch.cdist(self.cameras.centers, self.cameras.centers) <= _SAME_PLACE * self.radius
        near &= (rotation[:, None] - rotation).norm(dim=2) <= _SAME_DIRECTION * 2**0.5
        near &= (k[:, None] - k).abs().amax(dim=2) <= _SAME_PLACE * self.cameras.width
        given = [self.clips.index(clip) for clip in set(self.clips)]
        near[given], near[:, given] = False, False
        return [(number, other) for number, other in near.tril(-1).nonzero().tolist()]

    def invented(self, numbers: Sequence[int]) -> Bool[Tensor, "k h w"]:
        """What of these frames the input did not show."""
        return self.start.render_sharp(self.cameras[list(numbers)]).hole_mask


def world_revisit_figures(world: WorldFrames) -> dict[str, float | None]:
    """PSNR in dB, at most 100, over all pixels of all pairs together; none for fewer than 100 pixels.

    `revisit`: frames against those of earlier clips, moved into them through the world's own cloud, where both show the
    same surface of it. `loop`: the second half of a clip against its first. `closure`: frames of equal cameras, pixel
    by pixel, no geometry. `..._invented` counts only what the input did not show; `shared` is the share of the pixels
    behind `revisit` in percent.
    """
    figures: dict[str, float | None] = {}
    for name, same_clip in (("revisit", False), ("loop", True)):
        figures |= _through_geometry(world, name, world.pairs(same_clip=same_clip))
    meetings = world.meetings()
    everywhere = torch.ones(len(meetings), *world.frames.shape[2:], dtype=torch.bool)
    ours, theirs = (world.frames[[pair[k] for pair in meetings]] for k in (0, 1))
    figures["closure"] = _psnr(ours, theirs, everywhere)
    unseen = world.invented([number for number, _ in meetings]) if meetings else everywhere
    figures["closure_invented"] = _psnr(ours, theirs, unseen)
    return figures


def _through_geometry(world: WorldFrames, name: str, pairs: Sequence[tuple[int, int]]) -> dict[str, float | None]:
    moved, ours, masks = [], [], []
    for number, other in pairs:
        view, earlier = _views(world.memory, world.cameras[[number, other]])
        pixels, shared = seen_in(view, earlier)
        moved.append(sample(world.frames[other], pixels))
        ours.append(world.frames[number])
        masks.append(shared)
    if not pairs:
        return {name: None, f"{name}_invented": None}
    pictures, theirs, mask = torch.stack(ours), torch.stack(moved), torch.stack(masks)
    unseen = mask & world.invented([number for number, _ in pairs])
    shares = {"shared": 100 * float(mask.float().mean())} if name == "revisit" else {}
    return {name: _psnr(pictures, theirs, mask), f"{name}_invented": _psnr(pictures, theirs, unseen), **shares}


def _views(memory: GlobalGeometricMemory, cameras: Cameras) -> list[View]:
    """What cameras see of a memory."""
    render = memory.render_sharp(cameras)
    sky = ~render.hole_mask & (render.depth <= 0)
    return list(map(View, cameras, render.depth, sky))


def _psnr(ours: Tensor, theirs: Tensor, mask: Bool[Tensor, "k h w"]) -> float | None:
    if int(mask.sum()) < _FEWEST_PIXELS:
        return None
    return min(psnr(ours, theirs, mask), _HIGHEST_PSNR)
