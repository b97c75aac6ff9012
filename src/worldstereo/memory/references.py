"""What the spatial-stereo memory gives to a generator."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthEstimator
from worldstereo.geometry import PointCloud
from worldstereo.geometry.inpainting import continued_depth
from worldstereo.geometry.rendering import PointRender
from worldstereo.geometry.sharp_rendering import render_points_sharp
from worldstereo.images import resize_picture
from worldstereo.memory.clip_alignment import align_clip
from worldstereo.memory.lifting import depth_edges
from worldstereo.memory.pointmaps import SceneBox, render_pointmaps

_GREY = 0.5


@dataclass(frozen=True)
class References:
    """Frames of the spatial-stereo memory chosen for one clip.

    Attributes:
        frames: the distinct reference frames, RGB in [0, 1].
        cameras: their cameras.
        names: theirs in the bank.
        for_target: per frame of the clip the index of its reference, -1 where none is useful.
        coverage: per frame of the clip how much of what it sees its reference sees, in [0, 1].
        cloud: what the coverage was measured with.
        depth: z-depth of the frames, 0 = unknown; none for what the cloud knows, continued smoothly.
    """

    frames: Float[Tensor, "r 3 h w"]
    cameras: Cameras
    names: tuple[str, ...]
    for_target: Int[Tensor, " f"]
    coverage: Float[Tensor, " f"]
    cloud: PointCloud
    depth: Float[Tensor, "r h w"] | None = None

    def pointmaps(self, targets: Cameras) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "r 3 h w"]]:
        """Where the cloud lies that each target and each reference sees, in one normalisation (`render_pointmaps`).

        Rendered when asked for: a generator without a stereo branch has no use for them.
        """
        box = SceneBox.of(self.cloud)
        return render_pointmaps(self.cloud, targets, box), render_pointmaps(self.cloud, self.cameras, box)

    def with_depth(self, estimator: DepthEstimator) -> "References":
        """The same with depth: the cloud's where it knows the frame, elsewhere the estimator's, aligned to the cloud.

        Where a frame cannot be aligned (`align_clip`), the cloud's depth is continued smoothly.
        """
        known = self._cloud_depth()
        depth = self._continued(known)
        for index, (frame, cloud_depth) in enumerate(zip(self.frames, known, strict=True)):
            prediction = estimator.estimate(frame, self.cameras.intrinsics[index], hint=cloud_depth)
            (aligned,) = align_clip([prediction], cloud_depth[None])
            if aligned.status != "rejected":
                depth[index] = aligned.depth
        return self.completed(depth)

    def completed(self, depth: Float[Tensor, "r h w"]) -> "References":
        """The same with depth: the cloud's where it knows the frame, elsewhere the given one."""
        known = self._cloud_depth()
        return replace(self, depth=torch.where(known > 0, known, depth))

    def seen_by(self, targets: Cameras) -> PointRender:
        """What each target's reference shows of what the target sees: its pixels, lifted by their depth.

        Pixels of unknown depth and on depth edges are left out. Targets without a reference are one hole.
        """
        shape = (len(targets), targets.height, targets.width)
        rgb = torch.full((shape[0], 3, *shape[1:]), _GREY, device=self.frames.device)
        holes, depth = torch.ones(shape, dtype=torch.bool, device=rgb.device), torch.zeros(shape, device=rgb.device)
        used = sorted({index for index in self.for_target.tolist() if index >= 0})
        maps = self._continued(self._cloud_depth()) if self.depth is None else self.depth
        for index in used:
            pictures = (self.for_target == index).nonzero()[:, 0]
            render = seen_from(self.frames[index], maps[index], self.cameras[index], targets[pictures])
            rgb[pictures], holes[pictures], depth[pictures] = render.rgb, render.hole_mask, render.depth
        return PointRender(rgb, holes, depth)

    def _cloud_depth(self) -> Float[Tensor, "r h w"]:
        return render_points_sharp(self.cloud, self.cameras).depth

    def _continued(self, depth: Float[Tensor, "r h w"]) -> Float[Tensor, "r h w"]:
        """Where a frame's depth is unknown, it goes on from around (`continued_depth`)."""
        return torch.stack([continued_depth(own, own > 0) for own in depth]) if len(depth) else depth

    def resized(self, width: int, height: int) -> "References":
        """The same with frames, depth (the nearest pixel's: never a mixture) and cameras of another size."""
        frames = self.frames.new_empty(len(self.frames), 3, height, width)
        for index, frame in enumerate(self.frames):
            frames[index] = resize_picture(frame, width, height)
        depth = self.depth
        if depth is not None:
            rows = (torch.arange(height) + 0.5) * depth.shape[1] / height
            columns = (torch.arange(width) + 0.5) * depth.shape[2] / width
            depth = depth[:, rows.long()][:, :, columns.long()]
        return replace(self, frames=frames, cameras=self.cameras.resized(width, height), depth=depth)


def seen_from(
    picture: Float[Tensor, "3 h w"], depth: Float[Tensor, "h w"], camera: Cameras, targets: Cameras
) -> PointRender:
    """What other cameras see of a picture's pixels, lifted by their depth.

    Pixels of unknown depth (0) and on depth edges are left out.
    """
    keep = (depth > 0) & ~depth_edges(depth, torch.zeros_like(depth > 0))
    points = camera.unproject(depth[None])[0][keep]
    return render_points_sharp(PointCloud(points, picture.permute(1, 2, 0)[keep]), targets)
