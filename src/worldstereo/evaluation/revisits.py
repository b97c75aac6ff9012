"""Two clips whose paths meet, made one after the other: does the second show again what the first invented?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.base import DepthPrediction
from worldstereo.evaluation.reprojection import View, sample, seen_in
from worldstereo.evaluation.rungs import Rung
from worldstereo.image_metrics import psnr
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture
from worldstereo.memory.references import References
from worldstereo.memory.spatial_stereo import SpatialStereoMemory, update_indices
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator

_DETOUR = 0.15  # of the first view's median depth
_CLEARANCE = 0.2  # metres
_SHRINK = 0.7
_SMALLEST_DETOUR = 0.02
_FEWEST_PIXELS = 100
_HIGHEST_PSNR = 100.0


@dataclass(frozen=True)
class Match:
    """What a frame of the second clip shares with the frame of the first one that shows most of it.

    Attributes:
        frame: of the second clip.
        earlier: of the first clip.
        pixels: where in it.
        shared: pixels of which both show the same surface.
        invented: those of them that are holes of the first picture's cloud.
    """

    frame: int
    earlier: int
    pixels: Float[Tensor, "h w 2"]
    shared: Bool[Tensor, "h w"]
    invented: Bool[Tensor, "h w"]


@dataclass(frozen=True, eq=False)
class Crossing:
    """Two paths from one view, and the truth along them.

    Attributes:
        frames: the truth of both clips; they begin with the same picture.
        views: cameras and exact depth of both clips.
    """

    frames: tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "f 3 h w"]]
    views: tuple[tuple[View, ...], tuple[View, ...]]

    @classmethod
    def of(cls, scene: ProceduralScene, path: Cameras) -> "Crossing":
        """A path, and the detour that leads from its first view to its last."""
        frames, views = [], []
        for cameras in (path, detour(scene, path)):
            truth = scene.render(cameras.to(scene.walks.device))
            frames.append((truth.rgb.clamp(0, 1) * 255).round().cpu() / 255)
            depth, sky = truth.depth.cpu(), truth.sky.cpu()
            views.append(tuple(map(View, cameras, depth, sky)))
        return cls((frames[0], frames[1]), (views[0], views[1]))

    @cached_property
    def first_cloud(self) -> GlobalGeometricMemory:
        """The points of the picture that both clips begin with."""
        view = self.views[0][0]
        lifted = lift_picture(self.frames[0][0], _exact(view), view.camera)
        return GlobalGeometricMemory(lifted.cloud, lifted.sky)

    @cached_property
    def matches(self) -> tuple[Match, ...]:
        """One for every frame of the second clip after the first that shares something."""
        found = []
        cameras = Cameras.cat([view.camera for view in self.views[1]])
        holes = self.first_cloud.render_sharp(cameras).hole_mask
        for index in range(1, len(cameras)):
            shown = [seen_in(self.views[1][index], other) for other in self.views[0]]
            best = max(range(len(shown)), key=lambda k: int(shown[k][1].sum()))
            pixels, shared = shown[best]
            found.append(Match(index, best, pixels, shared, shared & holes[index]))
        return tuple(match for match in found if bool(match.shared.any()))


def detour(scene: ProceduralScene, path: Cameras) -> Cameras:
    """The path lifted in between, by at most 0.15 median depths of its first view and as far as there is room.

    Orientations are the path's, its first and last views are kept: there the two meet.
    """
    first = scene.render(path[0].to(scene.walks.device)).depth
    height = _DETOUR * float(first[first > 0].median()) if bool((first > 0).any()) else 0.0
    shape = torch.sin(torch.linspace(0, torch.pi, len(path)))[:, None]
    up = -path.cam_from_world[:1, 1, :3]
    while height > _SMALLEST_DETOUR:
        centers = path.centers + height * shape * up
        if float(scene.distance(centers[1:-1].to(scene.walks.device)).min()) > _CLEARANCE:
            poses = path.cam_from_world.clone()
            poses[1:-1, :3, 3] = -(poses[1:-1, :3, :3] @ centers[1:-1, :, None])[..., 0]
            return Cameras(poses, path.intrinsics, path.width, path.height)
        height *= _SHRINK
    return path


def fly(
    generator: VideoGenerator, rung: Rung, crossing: Crossing, seed: int, on_progress: Callable[[int, int], None]
) -> list[Float[Tensor, "f 3 h w"]]:
    """Both clips through the steps of the loop: render, retrieve, generate, update both memories.

    `on_progress` is called as (steps done, steps of both clips).

    The depth of generated frames is the true one of their cameras, so that what differs is the generator's work alone.
    The first clip starts from the noise of `seed`, the second from that of `seed` + 1.
    """
    picture, start = crossing.frames[0][0], crossing.views[0][0]
    memory = GlobalGeometricMemory(crossing.first_cloud.cloud, crossing.first_cloud.sky)
    bank = SpatialStereoMemory(picture[None], start.camera, ["input"])
    depths = {"input": start.depth}
    made = []
    for index, views in enumerate(crossing.views):
        cameras = Cameras.cat([view.camera for view in views])
        known = memory if rung.grown else crossing.first_cloud
        found = bank.retrieve(cameras, memory.cloud)
        conditions = ClipConditions(
            cameras=cameras,
            image=picture,
            guidance=generator.render_guidance(known, cameras),
            references=rung.given(_with_depth(found, depths)),
            seed=seed + index,
        )

        def report(done: int, steps: int, index: int = index) -> None:
            on_progress(index * steps + done, 2 * steps)

        made.append(generator.generate(conditions, report))
        kept = list(update_indices(len(cameras)))
        frames = (made[-1].clamp(0, 1) * 255).round() / 255
        memory.update(frames[kept], cameras[kept], [_exact(views[k]) for k in kept])
        bank.add_clip(frames, cameras, str(index))
        depths |= {f"{index}/{k:04d}": views[k].depth for k in kept}
    return made


def revisit_figures(
    first: Float[Tensor, "f 3 h w"], second: Float[Tensor, "f 3 h w"], crossing: Crossing
) -> dict[str, float | None]:
    """PSNR between the second clip and the first one moved into it by true depth, of all that both show and of
    what neither took from the picture; none for fewer than 100 pixels.

    The truth's own figures are finite, too: moving a picture resamples it.
    """
    figures: dict[str, float | None] = {}
    matches = crossing.matches
    for name, kind in (("revisit", "shared"), ("revisit_invented", "invented")):
        masks = [getattr(match, kind) for match in matches]
        if sum(int(mask.sum()) for mask in masks) < _FEWEST_PIXELS:
            figures[name] = None
            continue
        ours = torch.cat([second[match.frame][:, mask] for match, mask in zip(matches, masks, strict=True)], dim=1)
        moved = (sample(first[match.earlier], match.pixels) for match in matches)
        theirs = torch.cat([each[:, mask] for each, mask in zip(moved, masks, strict=True)], dim=1)
        figures[name] = min(psnr(ours[None, :, None], theirs[None, :, None]), _HIGHEST_PSNR)
    return figures


def _with_depth(references: References, depths: dict[str, Tensor]) -> References:
    if not references.names:
        return references
    return references.completed(torch.stack([depths[name] for name in references.names]))


def _exact(view: View) -> DepthPrediction:
    return DepthPrediction(view.depth, view.sky, None, metric=True, source="exact")
