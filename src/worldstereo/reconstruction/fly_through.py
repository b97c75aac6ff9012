"""A smooth flight along the clips' paths, and its video rendered from splats."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale, Spline
from worldstereo.cameras.trajectories.trajectory import start_view
from worldstereo.errors import InputError
from worldstereo.geometry.splat_rasterizer import render_splats
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.video import write_video

FRAMES_PER_SECOND = 24
_KNOTS = 12
_SAME_PLACE = 0.02
_CHUNK = 8
_UNIT = SceneScale(1.0)


def fly_through_cameras(clips: Sequence[Cameras], frames: int = 240) -> Cameras:
    """Cameras that fly along each clip in turn, without ever leaving what the clips saw by much.

    Where the next clip starts nearer to the start of this one than to its end, the flight goes back the way it came;
    what then lies between is flown straight. Each leg is a spline through at most 12 of its poses (shaky paths become
    smooth) at which the camera gets under way and comes to rest softly. Frames are shared out by the length of the
    legs in scene units, the turns and the zooms.

    Args:
        clips: cameras of one image size, in order; clips of one camera are left out.
        frames: how many cameras to make.

    Raises:
        InputError: no clip moves, or there are fewer frames than legs.
    """
    legs = [_Leg(leg) for leg in _legs([clip for clip in clips if len(clip) > 1])]
    legs = [leg for leg in legs if leg.effort > 0]
    if not legs:
        raise InputError("a fly-through needs a clip whose camera moves")
    if frames <= len(legs):
        raise InputError(f"a fly-through of {len(legs)} legs needs more than {frames} frames")
    efforts = torch.tensor([leg.effort for leg in legs], dtype=torch.float64)
    spare = frames - 1 - len(legs)
    counts = 1 + (efforts / efforts.sum() * spare).floor().long()
    counts[int(efforts.argmax())] += frames - 1 - int(counts.sum())
    parts = [leg.cameras(int(count)) for leg, count in zip(legs, counts, strict=True)]
    return Cameras.cat([legs[0].first, *parts])


def write_fly_through(
    path: str | Path, splats: GaussianSplats, cameras: Cameras, *, background: Float[Tensor, "3"] | None = None
) -> None:
    """Render splats along a path into an MP4 of 24 frames a second, a few frames at a time.

    Raises:
        InputError: the file cannot be written.
    """

    def pictures() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for first in range(0, len(cameras), _CHUNK):
            rgb = render_splats(splats, cameras[first : first + _CHUNK], background=background).rgb
            yield from (rgb * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    write_video(path, pictures(), FRAMES_PER_SECOND)


class _Leg:
    """A spline that is flown from rest to rest."""

    def __init__(self, cameras: Cameras) -> None:
        knots = torch.linspace(0, len(cameras) - 1, min(len(cameras), _KNOTS)).round().long()
        cameras = cameras[knots].to("cpu")
        self.first = cameras[0]
        self._spline = Spline.through(cameras, "fly-through")
        self.effort = self._spline.effort(_UNIT)

    def cameras(self, count: int) -> Cameras:
        """Evenly spaced in time; without the first camera, with the last."""
        time = torch.arange(1, count + 1, dtype=torch.float64) / count
        progress = time * time * (3 - 2 * time)
        poses = self._spline.poses(start_view(self.first, _UNIT), _UNIT, progress)
        intrinsics = self.first.intrinsics.repeat(count, 1, 1)
        intrinsics[:, :2, :2] *= self._spline.zoom(progress).float()[:, None, None]
        return Cameras(torch.linalg.inv(poses).float(), intrinsics, self.first.width, self.first.height)


def _legs(clips: Sequence[Cameras]) -> Iterator[Cameras]:
    """The clips, the ways back, and straight ways between."""
    for clip, following in zip_longest(clips, clips[1:]):
        yield clip
        if following is None:
            return
        at = len(clip) - 1
        if _distance(clip[0], following[0]) < _distance(clip[at], following[0]):
            yield clip[list(range(at, -1, -1))]
            at = 0
        if _distance(clip[at], following[0]) > _SAME_PLACE * max(_distance(clip[0], clip[len(clip) // 2]), 1e-9):
            yield Cameras.cat([clip[at], following[0]])


def _distance(one: Cameras, other: Cameras) -> float:
    """How far two cameras are apart and turned (in radians), added."""
    between = one.cam_from_world[0, :3, :3].double() @ other.cam_from_world[0, :3, :3].double().T
    cosine = ((between.diagonal().sum() - 1) / 2).clamp(-1, 1)
    return float((one.centers[0] - other.centers[0]).norm()) + float(torch.acos(cosine))
