"""A camera trajectory: moves in sequence, independent of any scene."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.trajectories.curves import Spline
from worldstereo.cameras.trajectories.moves import Move, View
from worldstereo.cameras.trajectories.units import SceneScale
from worldstereo.errors import InputError

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Trajectory:
    """Moves one after the other. `str(trajectory)` is what `parse_trajectory` reads back as an equal trajectory."""

    moves: tuple[Move, ...]

    def __post_init__(self) -> None:
        if not self.moves:
            raise InputError("a trajectory needs at least one move, such as orbit-right:30")

    def __str__(self) -> str:
        return "+".join(str(move) for move in self.moves)

    @property
    def name(self) -> str:
        """A name fit for a file: `orbit-right-60`, `dolly-in-0.3r_pan-left-40`, or a camera file's own name."""
        parts = [_file_name(move) for move in self.moves]
        return "_".join(parts)[:_LONGEST_NAME].strip("._-") or "path"

    def views(self, start: Cameras, scale: SceneScale) -> Iterator[tuple[Move, View]]:
        """The moves, each with the view where it begins.

        Args:
            start: one camera.
            scale: the scene's size.
        """
        view = start_view(start, scale)
        for move in self.moves:
            yield move, view
            view = move.end(view, scale)

    def cameras(self, start: Cameras, scale: SceneScale, frames: int = 21) -> Cameras:
        """The cameras of a clip.

        Frames are shared out among the moves in proportion to their `effort`, so that the picture changes about evenly,
        and are evenly spaced in the progress of each move. The last frame has the full amounts.

        Args:
            start: one camera; it is the first frame, bit for bit.
            scale: the scene's size.
            frames: number of cameras, at least 1.

        Raises:
            InputError: not one start camera, no frames, or metres in a scene that is not metric.
        """
        if frames < 1:
            raise InputError(f"the number of frames is {frames} but must be at least 1")
        efforts = torch.tensor([move.effort(scale) for move in self.moves], dtype=torch.float64)
        borders = efforts.cumsum(0)
        distance = torch.linspace(0, 1, frames, dtype=torch.float64)[1:] * borders[-1]
        at_move = torch.searchsorted(borders, distance)
        poses = start_view(start, scale).world_from_cam.repeat(frames, 1, 1)
        zooms = torch.ones(frames, dtype=torch.float64)
        zoom_so_far = torch.ones(1, dtype=torch.float64)
        for index, (move, view) in enumerate(self.views(start, scale)):
            mine = at_move == index
            if efforts[index] > 0 and bool(mine.any()):
                progress = 1 - (borders[index] - distance[mine]) / efforts[index]
                poses[1:][mine] = move.poses(view, scale, progress)
                zooms[1:][mine] = zoom_so_far * move.zoom(progress)
            zoom_so_far = zoom_so_far * move.zoom(torch.ones(1, dtype=torch.float64))
        return _cameras(start, poses, zooms)


def start_view(start: Cameras, scale: SceneScale) -> View:
    """The view where a trajectory begins: the centre lies at distance r on the optical axis.

    Raises:
        InputError: `start` is not one camera.
    """
    if len(start) != 1:
        raise InputError(f"a trajectory starts from one camera, but {len(start)} were given")
    return View(torch.linalg.inv(start.cam_from_world[0].cpu().double()), scale.radius)


def _cameras(start: Cameras, poses: Float[Tensor, "n 4 4"], zooms: Float[Tensor, " n"]) -> Cameras:
    """Cameras of float64 `world_from_cam` with the start's intrinsics zoomed; the first is the start itself."""
    cam_from_world = torch.zeros_like(poses)
    cam_from_world[:, :3, :3] = poses[:, :3, :3].transpose(1, 2)
    cam_from_world[:, :3, 3:] = -cam_from_world[:, :3, :3] @ poses[:, :3, 3:]
    cam_from_world[:, 3, 3] = 1
    cam_from_world = cam_from_world.to(start.cam_from_world)
    cam_from_world[0] = start.cam_from_world[0]
    intrinsics = start.intrinsics.repeat(len(poses), 1, 1)
    intrinsics[:, :2, :2] *= zooms.to(intrinsics)[:, None, None]
    return Cameras(cam_from_world, intrinsics, start.width, start.height)


def _file_name(move: Move) -> str:
    if isinstance(move, Spline):
        stem = re.split(r"[/\\]", move.source)[-1].rsplit(".", 1)[0]
        return re.sub(r"[^\w.-]+", "-", stem)
    text = re.sub(r"\d+\.\d+(e-?\d+)?", lambda match: f"{float(match[0]):.3g}", str(move))
    return text.replace(":", "-")
