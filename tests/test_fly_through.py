"""The flight along the clips: smooth, along what was seen, and its video."""

from pathlib import Path

import pytest
import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale, parse_trajectory
from worldstereo.errors import InputError
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.reconstruction.fly_through import fly_through_cameras, write_fly_through
from worldstereo.video import read_video

START = Cameras.from_fov(70.0, 32, 24)


def clip(text: str, frames: int = 9) -> Cameras:
    return parse_trajectory(text).cameras(START, SceneScale(2.0), frames)


def test_flies_out_and_back_between_clips_that_start_together():
    right, left = clip("truck-right:0.5"), clip("truck-left:0.5")
    flight = fly_through_cameras([right, left], frames=61)
    x = flight.centers[:, 0]
    assert len(flight) == 61
    torch.testing.assert_close(flight.cam_from_world[0], START.cam_from_world[0])
    torch.testing.assert_close(flight.centers[[20, 40, 60], 0], torch.tensor([1.0, 0.0, -1.0]), atol=1e-5, rtol=0)
    assert float(flight.centers[:, 1:].abs().max()) < 1e-5
    assert float(x.max()) <= 1 + 1e-5


def test_starts_and_stops_softly_and_has_no_jumps():
    flight = fly_through_cameras([clip("orbit-right:30"), clip("ellipse:0.2x0.2"), clip("dolly-in:0.4")], frames=200)
    speed = flight.centers.diff(dim=0).norm(dim=1)
    acceleration = flight.centers.diff(n=2, dim=0).norm(dim=1)
    assert float(speed[0]) < 0.1 * float(speed.max())
    assert float(acceleration.max()) < 0.3 * float(speed.max())
    turns = flight.forward[1:].mul(flight.forward[:-1]).sum(dim=1).clamp(max=1).acos()
    assert float(turns.max()) < 0.05


def test_a_clip_that_goes_on_where_the_last_ended_is_not_flown_back():
    first = clip("truck-right:0.5")
    second = parse_trajectory("truck-right:0.5").cameras(first[8], SceneScale(2.0), 9)
    x = fly_through_cameras([first, second], frames=50).centers[:, 0]
    assert bool((x.diff() > -1e-6).all())
    assert float(x[-1]) == pytest.approx(2.0, abs=1e-5)


def test_a_shaky_path_becomes_smooth():
    cameras = clip("truck-right:1", 121)
    generator = torch.Generator().manual_seed(0)
    poses = cameras.cam_from_world.clone()
    poses[:, :3, 3] += 0.01 * torch.randn(121, 3, generator=generator)
    flight = fly_through_cameras([cameras.with_poses(poses)], frames=121)
    shake = cameras.with_poses(poses).centers.diff(n=2, dim=0).norm(dim=1).mean()
    assert float(flight.centers.diff(n=2, dim=0).norm(dim=1).mean()) < 0.1 * float(shake)


def test_focal_lengths_are_flown_too():
    flight = fly_through_cameras([clip("zoom-in:2")], frames=11)
    focal = flight.intrinsics[:, 0, 0] / START.intrinsics[0, 0, 0]
    assert float(focal[-1]) == pytest.approx(2, rel=1e-4)
    assert bool((focal.diff() > 0).all())


def test_the_video_shows_the_splats(tmp_path: Path):
    red = GaussianSplats(
        torch.tensor([[0.0, 0.0, 2.0]]),
        torch.full((1, 3), 0.2),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([0.95]),
        torch.tensor([[1.0, 0.0, 0.0]]),
    )
    flight = fly_through_cameras([clip("truck-right:0.4")], frames=20)
    write_fly_through(tmp_path / "flight.mp4", red, flight, background=torch.tensor([0.0, 0.0, 1.0]))
    video = read_video(tmp_path / "flight.mp4")
    assert video.shape == (20, 3, 24, 32)
    columns = (video[:, 0] * (torch.arange(32) + 0.5)).sum(dim=(1, 2)) / video[:, 0].sum(dim=(1, 2))
    torch.testing.assert_close(columns, flight.project(red.means)[0][:, 0, 0], atol=1.0, rtol=0)


def test_what_cannot_be_flown_is_named():
    for still in ([], [START], [START, Cameras.cat([START, START])]):
        with pytest.raises(InputError, match="whose camera moves"):
            fly_through_cameras(still)
    with pytest.raises(InputError, match="of 3 legs needs more than 3 frames"):
        fly_through_cameras([clip("truck-right:0.5"), clip("truck-left:0.5")], frames=3)
