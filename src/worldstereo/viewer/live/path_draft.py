"""A path through keyframe cameras: edited as a value, sampled evenly, shortened and written as `extend` will fly it."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files import write_official
from worldstereo.cameras.trajectories import Obstacles, SceneScale, Spline, Trajectory, shorten_to_clear
from worldstereo.cameras.trajectories.trajectory import start_view
from worldstereo.errors import InputError

_STEPS_PER_KEYFRAME = 64


@dataclass(frozen=True, eq=False)
class PathDraft:
    """A path that leaves from a known frame and goes through keyframes.

    Attributes:
        start: "input" or "CLIP:FRAME", as `World.frame_camera` takes it: clips leave from a picture that exists.
        start_camera: the one camera of that frame; its intrinsics are the clip's.
        keyframes: `cam_from_world` of the further cameras, in order.
    """

    start: str
    start_camera: Cameras
    keyframes: tuple[Float[Tensor, "4 4"], ...] = ()

    def added(self, keyframe: Float[Tensor, "4 4"]) -> "PathDraft":
        """With one more keyframe at the end."""
        return replace(self, keyframes=(*self.keyframes, keyframe))

    def replaced(self, index: int, keyframe: Float[Tensor, "4 4"]) -> "PathDraft":
        """With another pose for a keyframe."""
        return replace(self, keyframes=(*self.keyframes[:index], keyframe, *self.keyframes[index + 1 :]))

    def removed(self, index: int) -> "PathDraft":
        """Without a keyframe."""
        return replace(self, keyframes=self.keyframes[:index] + self.keyframes[index + 1 :])

    @property
    def cameras(self) -> Cameras:
        """The start and the keyframes."""
        return self.start_camera.with_poses(torch.stack([self.start_camera.cam_from_world[0], *self.keyframes]))

    def sampled(self, scale: SceneScale, frames: int) -> Cameras:
        """The cameras of a clip, evenly spaced in effort (path length in r plus turns in radians).

        The curve is the spline of `worldstereo.cameras.trajectories.Spline`; the first camera is the start bit for bit,
        the last one the last keyframe.

        Raises:
            InputError: there is no keyframe yet, or the path goes nowhere.
        """
        if not self.keyframes:
            raise InputError("the path has no keyframe yet; move to where it should lead and add the view")
        spline = Spline.through(self.cameras, "draft")
        begin = start_view(self.start_camera, scale)
        progress = torch.linspace(0, 1, _STEPS_PER_KEYFRAME * len(self.cameras) + 1, dtype=torch.float64)
        poses = spline.poses(begin, scale, progress)
        along = _efforts(poses, scale)
        if float(along[-1]) < 1e-4:
            raise InputError("the path goes nowhere: its keyframes are where it starts; move the view before adding it")
        even = _interpolated(along / along[-1], progress, torch.linspace(0, 1, frames, dtype=torch.float64))
        cam_from_world = torch.linalg.inv(spline.poses(begin, scale, even)).to(self.start_camera.cam_from_world)
        cam_from_world[:, 3] = cam_from_world.new_tensor([0.0, 0.0, 0.0, 1.0])
        cam_from_world[0] = self.start_camera.cam_from_world[0]
        return self.start_camera.with_poses(cam_from_world)

    def planned(self, scale: SceneScale, frames: int, obstacles: Obstacles) -> tuple[Cameras, Cameras, float]:
        """What was drawn, what will be flown so as not to run into the points, and the share of the path that is kept.

        Raises:
            InputError: as `sampled`.
        """
        drawn = self.sampled(scale, frames)
        wish = Trajectory((Spline.through(drawn, "draft"),))
        kept, share = shorten_to_clear(wish, self.start_camera, scale, obstacles)
        return drawn, kept.cameras(self.start_camera, scale, frames), share

    def write(self, folder: Path, name: str, scale: SceneScale, frames: int) -> Path:
        """Write the sampled cameras as `<name>.json` (official form) in `folder`, which `--trajectory` takes.

        A file of that name is kept; the new one gets a number. Its first pose is that of the start, so laying it there
        changes nothing.

        Raises:
            InputError: as `sampled`.
        """
        sampled = self.sampled(scale, frames)
        stem = re.sub(r"[^\w-]+", "-", name).strip("-")[:60] or "path"
        path, number = folder / f"{stem}.json", 2
        while path.exists():
            path, number = folder / f"{stem}-{number}.json", number + 1
        write_official(path, sampled)
        return path


def _efforts(poses: Float[Tensor, "n 4 4"], scale: SceneScale) -> Float[Tensor, " n"]:
    """Effort from the first to each of the `world_from_cam` poses."""
    moved = poses[:, :3, 3].diff(dim=0).norm(dim=1) / scale.radius
    between = poses[:-1, :3, :3].transpose(1, 2) @ poses[1:, :3, :3]
    cosine = (between.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    sine = (between - between.transpose(1, 2)).flatten(1).norm(dim=1) / 8**0.5
    turned = torch.atan2(sine, cosine)
    return torch.cat([moved.new_zeros(1), (moved + turned).cumsum(0)])


def _interpolated(x: Float[Tensor, " n"], y: Float[Tensor, " n"], at: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Piecewise linear y(x) of rising x."""
    high = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    low = high - 1
    share = (at - x[low]) / (x[high] - x[low]).clamp(min=1e-12)
    return torch.lerp(y[low], y[high], share.clamp(0, 1))
