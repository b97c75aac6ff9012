"""Trajectories against closed forms: signs, exact amounts, sequences, text, and keeping clear of the geometry."""

import json
import re
import time
from math import atan, cos, degrees, pi, radians, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import read_cameras, write_official
from worldstereo.cameras.rotations import look_at, matrix_from_quaternion
from worldstereo.cameras.trajectories import (
    MOVE_KINDS,
    PRESETS,
    Ellipse,
    Length,
    Obstacles,
    Orbit,
    SceneScale,
    Slide,
    Spiral,
    Spline,
    Trajectory,
    Turn,
    Zoom,
    parse_trajectory,
    preset,
    shorten_to_clear,
)
from worldstereo.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "shared" / "data" / "official_examples" / "reconstruction"
R = 2.5
SCALE = SceneScale(R, metric=True)
ALL_NAMES = [name for kind in MOVE_KINDS for name in kind.names]

amounts = st.floats(0.01, 3.0)
lengths = st.builds(Length, amounts, st.sampled_from(["r", "m"]))
moves = st.one_of(
    st.builds(Orbit, st.sampled_from(["orbit-left", "orbit-right"]), st.floats(0.01, 360)),
    st.builds(Orbit, st.sampled_from(["orbit-up", "orbit-down"]), st.floats(0.01, 85)),
    st.builds(Turn, st.sampled_from(["pan-left", "pan-right"]), st.floats(0.01, 360)),
    st.builds(Turn, st.sampled_from(["tilt-up", "tilt-down"]), st.floats(0.01, 90)),
    st.builds(
        Slide,
        st.sampled_from([name for name in ALL_NAMES if name.split("-")[0] in ("dolly", "truck", "pedestal")]),
        lengths,
    ),
    st.builds(Zoom, st.sampled_from(["zoom-in", "zoom-out"]), st.floats(1.01, 10)),
    st.builds(lambda a, b, unit: Ellipse(Length(a, unit), Length(b, unit)), amounts, amounts, st.sampled_from("rm")),
    st.builds(Spiral, lengths, st.floats(0.1, 10)),
)
trajectories = st.builds(lambda parts: Trajectory(tuple(parts)), st.lists(moves, min_size=1, max_size=4))


def start_camera(quaternion=(1.0, 0.0, 0.0, 0.0), eye=(0.0, 0.0, 0.0)) -> Cameras:
    rotation = matrix_from_quaternion(torch.tensor(quaternion))
    pose = torch.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ torch.tensor(eye)
    return Cameras.from_fov(60.0, 64, 48).with_poses(pose[None])


ORIGIN = start_camera()
TILTED = start_camera((0.9, 0.2, -0.3, 0.05), (1.0, -2.0, 0.5))
CENTER = torch.tensor([[0.0, 0.0, R]])


def path(text: str, start: Cameras = ORIGIN, scale: SceneScale = SCALE, frames: int = 21) -> Cameras:
    return parse_trajectory(text).cameras(start, scale, frames)


def turned(cameras: Cameras) -> np.ndarray:
    """Degrees between each camera's viewing direction and the first's."""
    cosine = (cameras.forward.double() @ cameras.forward[0].double()).clamp(-1, 1)
    return np.degrees(np.arccos(cosine.numpy()))


# --- orbits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["orbit-left", "orbit-right", "orbit-up", "orbit-down"])
@pytest.mark.parametrize("start", [ORIGIN, TILTED])
def test_orbit_keeps_distance_and_pixel_of_the_center(name, start):
    center = start.centers + R * start.forward
    cameras = path(f"{name}:40", start)
    assert_close((cameras.centers - center).norm(dim=1), torch.full((21,), R), rtol=1e-5, atol=0)
    pixels, depth = cameras.project(center)
    assert_close(pixels[:, 0], torch.tensor([[32.0, 24.0]]).expand(21, 2), atol=2e-3, rtol=0)
    assert_close(depth[:, 0], torch.full((21,), R), rtol=1e-5, atol=0)


def test_orbit_right_goes_right_on_the_circle_and_turns_left():
    cameras = path("orbit-right:60")
    angle = torch.arange(21) / 20 * radians(60)
    expected = torch.stack([R * angle.sin(), torch.zeros(21), R - R * angle.cos()], dim=1)
    assert_close(cameras.centers, expected, atol=1e-5, rtol=0)
    assert cameras.forward[-1, 0] == pytest.approx(-sin(radians(60)), abs=1e-6)


def test_orbit_left_mirrors_orbit_right():
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    assert_close(path("orbit-left:75").centers, path("orbit-right:75").centers * mirror, atol=1e-6, rtol=0)


def test_orbit_up_rises_and_looks_down():
    cameras = path("orbit-up:45")
    assert_close(cameras.centers[-1], torch.tensor([0.0, -R * sin(pi / 4), R - R * cos(pi / 4)]), atol=1e-5, rtol=0)
    assert cameras.forward[-1, 1] > 0.7
    assert path("orbit-down:45").centers[-1, 1] == pytest.approx(R * sin(pi / 4), abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "orbit-right:140",
        "orbit-left:33",
        "orbit-up:45",
        "orbit-down:20",
        "pan-left:120",
        "pan-right:77",
        "tilt-up:60",
        "tilt-down:10",
    ],
)
def test_total_angle_is_exact_and_steps_are_equal(text):
    wanted = float(text.split(":")[1])
    assert_close(turned(path(text)), np.linspace(0, wanted, 21), atol=0.03, rtol=0)


def test_a_full_orbit_comes_back():
    for start in (ORIGIN, TILTED):
        cameras = path("orbit-right:360", start, frames=9)
        assert_close(cameras.cam_from_world[-1], cameras.cam_from_world[0], atol=1e-5, rtol=0)
    assert_close(path("orbit-right:360", frames=9).centers[4], torch.tensor([0.0, 0.0, 2 * R]), atol=1e-5, rtol=0)


def test_azimuth_is_about_gravity_when_the_photo_is_pitched():
    pitch = radians(20)  # looks 20° down; the world's up stays -y
    start = start_camera((cos(pitch / 2), sin(pitch / 2), 0.0, 0.0))
    assert start.forward[0, 1] == pytest.approx(sin(pitch), abs=1e-6)
    for text in ("orbit-right:90", "pan-left:90"):
        cameras = path(text, start)
        assert_close(cameras.centers[:, 1], torch.zeros(21), atol=1e-5, rtol=0)
        assert_close(cameras.forward[:, 1], torch.full((21,), sin(pitch)), atol=1e-5, rtol=0)
        assert_close(cameras.cam_from_world[:, 0, 1], torch.zeros(21), atol=1e-5, rtol=0)  # the horizon stays level


def test_azimuth_follows_a_given_up():
    cameras = path("orbit-right:50", scale=SceneScale(R, up=torch.tensor([0.6, -0.8, 0.0])))
    heights = cameras.centers @ torch.tensor([0.6, -0.8, 0.0])
    assert_close(heights, torch.zeros(21), atol=1e-5, rtol=0)
    assert cameras.centers[-1, 0] > 0.5


@pytest.mark.parametrize(("name", "sign"), [("orbit-up", 1), ("orbit-down", -1)])
def test_elevation_stops_below_the_pole(name, sign):
    pitch = radians(30)
    start = start_camera((cos(pitch / 2), sin(pitch / 2), 0.0, 0.0))  # stands 30° above its centre
    elevation = torch.rad2deg(torch.asin(path(f"{name}:85", start).forward[:, 1]))
    assert elevation[-1] == pytest.approx(85 if sign > 0 else -55, abs=0.05)
    assert bool((sign * (elevation[1:] - elevation[:-1]) > 0).all())


def test_looking_straight_down_still_orbits_sideways():
    start = start_camera((cos(pi / 4), sin(pi / 4), 0.0, 0.0))
    assert_close(start.forward[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert turned(path("orbit-right:40", start))[-1] == pytest.approx(40, abs=0.03)


# --- turns, slides, zoom --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "axis", "sign"),
    [("pan-left:30", 0, -1), ("pan-right:30", 0, 1), ("tilt-up:30", 1, -1), ("tilt-down:30", 1, 1)],
)
def test_turns_look_where_the_name_says_and_stay_put(text, axis, sign):
    cameras = path(text, start_camera(eye=(1.0, 2.0, 3.0)))
    assert_close(cameras.centers, torch.tensor([[1.0, 2.0, 3.0]]).expand(21, 3), atol=1e-5, rtol=0)
    assert cameras.forward[-1, axis] == pytest.approx(sign * 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("dolly-in", (0, 0, 1)),
        ("dolly-out", (0, 0, -1)),
        ("truck-left", (-1, 0, 0)),
        ("truck-right", (1, 0, 0)),
        ("pedestal-up", (0, -1, 0)),
        ("pedestal-down", (0, 1, 0)),
    ],
)
def test_slides_translate_alone(name, direction):
    cameras = path(f"{name}:0.4")
    steps = torch.linspace(0, 0.4 * R, 21)[:, None] * torch.tensor(direction, dtype=torch.float32)
    assert_close(cameras.centers, steps, atol=1e-6, rtol=0)
    assert_close(cameras.cam_from_world[:, :3, :3], torch.eye(3).expand(21, 3, 3), atol=0, rtol=0)


def test_slides_follow_the_camera_and_pedestals_gravity():
    rotation = TILTED.cam_from_world[0, :3, :3]
    for name, direction in {
        "dolly-in": rotation[2],
        "truck-right": rotation[0],
        "pedestal-up": torch.tensor([0.0, -1.0, 0.0]),
    }.items():
        moved = path(f"{name}:1m", TILTED)
        assert_close(moved.centers[-1] - moved.centers[0], direction, atol=1e-5, rtol=0)
        assert_close(moved.cam_from_world[:, :3, :3], rotation.expand(21, 3, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("text", "factor"), [("zoom-in:2", 2.0), ("zoom-out:2", 0.5)])
def test_zoom_changes_the_focal_length_geometrically_and_nothing_else(text, factor):
    cameras = path(text)
    expected = ORIGIN.intrinsics[0, 0, 0] * factor ** torch.linspace(0, 1, 21)
    assert_close(cameras.intrinsics[:, 0, 0], expected)
    assert_close(cameras.intrinsics[:, 1, 1], expected)
    assert_close(cameras.intrinsics[:, :2, 2], ORIGIN.intrinsics[:, :2, 2].expand(21, 2), atol=0, rtol=0)
    assert torch.equal(cameras.cam_from_world, ORIGIN.cam_from_world.expand(21, 4, 4))


def test_metres_need_a_metric_scene():
    assert path("dolly-in:1.5m").centers[-1, 2] == pytest.approx(1.5)
    for text in ("dolly-in:1.5m", "ellipse:1x1m", "spiral:1m", "pan-left:10+truck-left:1m"):
        with pytest.raises(InputError, match=r"metres but the scene's depth is not metric"):
            path(text, scale=SceneScale(R, metric=False))


# --- curves ---------------------------------------------------------------------------------------------------------


def test_ellipse_is_the_published_one():
    cameras = path("ellipse:0.3x0.4", frames=201)
    x, y, z = (cameras.centers / R).unbind(dim=1)
    assert_close((x / 0.3) ** 2 + ((y + 0.4) / 0.4) ** 2, torch.ones(201), atol=1e-5, rtol=0)
    assert_close(z, torch.zeros(201), atol=1e-6, rtol=0)
    assert (float(x.max()), float(x.min())) == pytest.approx((0.3, -0.3), abs=1e-5)
    assert (float(y.max()), float(y.min())) == pytest.approx((0.0, -0.8), abs=1e-5)
    assert x[1] > 0  # to the right first
    assert_close(cameras.cam_from_world[-1], cameras.cam_from_world[0], atol=1e-6, rtol=0)
    pixels, _ = cameras.project(CENTER)
    assert_close(pixels[:, 0], torch.tensor([[32.0, 24.0]]).expand(201, 2), atol=1e-3, rtol=0)
    assert turned(cameras).max() == pytest.approx(degrees(atan(0.8)), abs=0.03)  # published: 38.7°


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the official examples are not here")
@pytest.mark.parametrize(("scene", "radius"), [("Caterpillar", 6.2537), ("kitchen", 0.9053)])
def test_official_example_paths(scene, radius):
    """The published eloop, right and left paths from cameras that look 15° and 20° down, world up -y."""
    for folder, text in {"eloop": "ellipse:0.3x0.4", "right": "orbit-right:180", "left": "orbit-left:180"}.items():
        file = EXAMPLES / scene / "renders" / f"traj_{folder}" / "camera.json"
        official = read_cameras(file, width=900, height=500).cameras
        ours = parse_trajectory(text).cameras(official[0], SceneScale(radius), len(official))
        assert_close(ours.centers, official.centers, atol=1e-4 * radius, rtol=0)
        assert_close(ours.cam_from_world[:, :3, :3], official.cam_from_world[:, :3, :3], atol=1e-5, rtol=0)


def test_spiral_grows_to_its_radius_at_constant_speed():
    cameras = path("spiral:0.3x3", frames=301)
    x, y, z = cameras.centers.double().unbind(dim=1)
    distance = torch.hypot(x, y)
    angle = torch.from_numpy(np.unwrap(np.arctan2(x[1:], -y[1:])))
    assert_close(distance[1:] / angle, torch.full((300,), 0.3 * R / (6 * pi), dtype=torch.float64), rtol=1e-3, atol=0)
    assert distance[-1] == pytest.approx(0.3 * R, rel=1e-5)
    assert_close(z, torch.zeros_like(z), atol=1e-6, rtol=0)
    speed = (cameras.centers[1:] - cameras.centers[:-1]).norm(dim=1)
    assert speed.max() / speed.min() < 1.06  # the first chords cut the tightest bend
    assert speed[20:].max() / speed[20:].min() < 1.002
    length = Spiral(Length(0.3), 3.0).effort(SCALE) * R
    assert float(speed.sum()) == pytest.approx(length, rel=1e-3)


def wavy_cameras(n: int) -> Cameras:
    t = torch.linspace(0, 1, n)
    eyes = torch.stack([(4 * t).sin(), 0.3 * (7 * t).cos(), -2 + t], dim=1)
    poses = look_at(eyes, torch.tensor([[0.3, 0.1, 4.0]]).expand(n, 3), torch.tensor([0.1, 1.0, 0.0]))
    base = Cameras.from_fov(70.0, 100, 80).with_poses(poses)
    k = base.intrinsics.clone()
    k[:, :2, :2] *= (1 + t)[:, None, None]
    return Cameras(poses, k, 100, 80)


def test_spline_passes_through_its_poses():
    knots = wavy_cameras(6)
    trajectory = Trajectory((Spline.through(knots, "wave"),))
    cameras = trajectory.cameras(knots[0], SCALE, frames=21)
    assert_close(cameras.cam_from_world[::4], knots.cam_from_world, atol=2e-6, rtol=0)
    assert_close(cameras.intrinsics[::4], knots.intrinsics, rtol=1e-5, atol=0)


def test_spline_has_continuous_velocity_at_its_poses():
    knots = wavy_cameras(6)
    trajectory = Trajectory((Spline.through(knots, "wave"),))
    move, view = next(iter(trajectory.views(knots[0], SCALE)))
    step = 1e-4

    def velocity(at: float) -> torch.Tensor:
        two = move.poses(view, SCALE, torch.tensor([at - step, at + step], dtype=torch.float64))
        return (two[1] - two[0]) / (2 * step)

    for knot in (1, 2, 3, 4):
        before, after = velocity(knot / 5 - 2 * step), velocity(knot / 5 + 2 * step)
        assert_close(before, after, atol=0.02, rtol=0)  # a corner would differ by about the speed, 1 to 5
        assert before[:3, 3].norm() > 0.5


def test_spline_is_laid_on_the_start_and_measured_in_its_unit():
    knots = wavy_cameras(5)
    relative = knots.cam_from_world @ torch.linalg.inv(knots.cam_from_world[0])
    for unit, size in ((None, 1.0), (Length(0.5), 0.5 * R), (Length(2.0, "m"), 2.0)):
        cameras = Trajectory((Spline.through(knots, "wave", unit),)).cameras(TILTED, SCALE, frames=5)
        local = cameras.cam_from_world @ torch.linalg.inv(TILTED.cam_from_world[0])
        assert_close(local[:, :3, 3], size * relative[:, :3, 3], atol=1e-5, rtol=0)
        assert_close(local[:, :3, :3], relative[:, :3, :3], atol=1e-5, rtol=0)


def test_a_path_of_21_poses_is_its_own_21_frames_and_a_part_of_it_is_cut():
    knots = wavy_cameras(21)
    whole = Spline.through(knots, "wave")
    assert_close(Trajectory((whole,)).cameras(knots[0], SCALE).cam_from_world, knots.cam_from_world, atol=2e-6, rtol=0)
    half = Trajectory((whole.scaled(0.5),)).cameras(knots[0], SCALE, frames=11)
    assert_close(half.cam_from_world, knots.cam_from_world[:11], atol=2e-6, rtol=0)
    with pytest.raises(InputError, match="at least 2"):
        Spline.through(knots[0], "wave")


# --- sequences and what holds for all -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(trajectories, st.integers(2, 30))
def test_any_trajectory_starts_at_the_start_exactly_and_ends_at_its_full_amount(trajectory, frames):
    cameras = trajectory.cameras(TILTED, SCALE, frames)
    assert len(cameras) == frames
    assert torch.equal(cameras.cam_from_world[0], TILTED.cam_from_world[0])
    assert torch.equal(cameras.intrinsics[0], TILTED.intrinsics[0])
    *_, (move, view) = trajectory.views(TILTED, SCALE)
    end = torch.linalg.inv(move.end(view, SCALE).world_from_cam).float()
    assert_close(cameras.cam_from_world[-1], end, atol=2e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(trajectories)
def test_text_and_trajectory_are_the_same_thing(trajectory):
    assert parse_trajectory(str(trajectory)) == trajectory
    assert 0 < len(trajectory.name) <= 80
    assert not set(trajectory.name) & set('/\\:*?"<>|+ ')


@settings(max_examples=40, deadline=None)
@given(st.lists(moves, min_size=1, max_size=3), st.floats(0.2, 50))
def test_a_larger_scene_scales_translations_alone(parts, factor):
    trajectory = parse_trajectory(re.sub(r"(?<=\d)m", "r", "+".join(str(move) for move in parts)))
    small = trajectory.cameras(ORIGIN, SceneScale(1.0))
    large = trajectory.cameras(ORIGIN, SceneScale(factor))
    assert_close(large.cam_from_world[:, :3, :3], small.cam_from_world[:, :3, :3], atol=1e-4, rtol=0)
    assert_close(large.cam_from_world[:, :3, 3], factor * small.cam_from_world[:, :3, 3], atol=1e-4 * factor, rtol=1e-4)
    assert torch.equal(large.intrinsics, small.intrinsics)


@settings(max_examples=40, deadline=None)
@given(moves, st.floats(0, 1))
def test_scaling_by_two_fractions_is_scaling_by_their_product(move, fraction):
    once, twice = move.scaled(fraction * 0.5), move.scaled(fraction).scaled(0.5)
    assert once.effort(SCALE) == pytest.approx(twice.effort(SCALE), rel=1e-6, abs=1e-9)
    assert once.effort(SCALE) <= move.effort(SCALE)


def test_a_sequence_begins_each_move_where_the_last_one_ended():
    cameras = path("dolly-in:0.3+pan-left:90+dolly-in:0.2+tilt-up:20")
    assert_close(cameras.centers[-1], torch.tensor([-0.2 * R, 0.0, 0.3 * R]), atol=1e-5, rtol=0)
    assert_close(cameras.forward[-1], torch.tensor([-cos(radians(20)), -sin(radians(20)), 0.0]), atol=1e-5, rtol=0)
    both = path("zoom-in:2+truck-left:0.1+zoom-in:1.5")
    assert both.intrinsics[-1, 0, 0] == pytest.approx(3 * float(ORIGIN.intrinsics[0, 0, 0]), rel=1e-5)
    assert bool((both.intrinsics[1:, 0, 0] >= both.intrinsics[:-1, 0, 0] - 1e-4).all())


def test_frames_are_shared_out_by_effort():
    cameras = path("orbit-right:60+orbit-up:30", frames=31)  # 2 : 1, so that frame 20 is the corner
    assert_close(cameras[20].centers, path("orbit-right:60").centers[-1:], atol=1e-5, rtol=0)
    assert_close(cameras.centers[:21, 1], torch.zeros(21), atol=1e-6, rtol=0)


def test_an_orbit_after_a_dolly_keeps_the_center():
    cameras = path("dolly-in:0.4+orbit-right:60")
    assert cameras.centers[-1].sub(CENTER[0]).norm() == pytest.approx(0.6 * R, rel=1e-5)
    back = path("dolly-out:1+orbit-right:60")
    assert back.centers[-1].sub(CENTER[0]).norm() == pytest.approx(2 * R, rel=1e-5)
    through = path("dolly-in:0.95+orbit-right:60")  # the centre is passed: the next one is r ahead
    ahead = CENTER[0] * (1 + 0.95)
    assert through.centers[-1].sub(ahead).norm() == pytest.approx(R, rel=1e-5)


def test_the_result_stays_on_the_start_camera_s_terms():
    one = path("orbit-right:10", frames=1)
    assert torch.equal(one.cam_from_world, ORIGIN.cam_from_world)
    with pytest.raises(InputError, match="at least 1"):
        path("orbit-right:10", frames=0)
    with pytest.raises(InputError, match="one camera, but 2"):
        path("orbit-right:10", Cameras.cat([ORIGIN, ORIGIN]))


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("orbit-right:60", Orbit("orbit-right", 60.0)),
        (" Orbit_Right : 60° ", Orbit("orbit-right", 60.0)),
        ("dolly-in:0.5", Slide("dolly-in", Length(0.5, "r"))),
        ("dolly-in:1.5m", Slide("dolly-in", Length(1.5, "m"))),
        ("truck-left:.2r", Slide("truck-left", Length(0.2, "r"))),
        ("pan-left:30deg", Turn("pan-left", 30.0)),
        ("zoom-in:1.5x", Zoom("zoom-in", 1.5)),
        ("ellipse:0.3x0.4", Ellipse(Length(0.3), Length(0.4))),
        ("ellipse:1×2m", Ellipse(Length(1.0, "m"), Length(2.0, "m"))),
        ("spiral:0.2", Spiral(Length(0.2), 2.0)),
        ("spiral:0.2mx3", Spiral(Length(0.2, "m"), 3.0)),
    ],
)
def test_parsing(text, move):
    assert parse_trajectory(text) == Trajectory((move,))


def test_names_are_short_and_plain():
    assert parse_trajectory("orbit-right:60").name == "orbit-right-60"
    assert parse_trajectory("dolly-in:0.3333333333333333+pan-left:40").name == "dolly-in-0.333r_pan-left-40"
    assert str(parse_trajectory("ellipse:0.30x0.40")) == "ellipse:0.3x0.4r"
    assert Trajectory((Spline.through(wavy_cameras(3), "my folder/my path: é.json"),)).name == "my-path-é"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "left",
            r"unknown move 'left'; did you mean orbit-left, truck-left or pan-left\?; known moves are orbit-left,",
        ),
        ("orbit-lft:3", r"did you mean orbit-left"),
        ("swoosh:3", r"unknown move 'swoosh'; known moves are"),
        ("paper", r"'paper', which is a preset: use --preset paper"),
        ("orbit-left", r"lacks the amount of orbit-left; orbit-left takes degrees, up to 360, as in orbit-left:60"),
        ("dolly-in:50cm", r"no positive amount '50cm' for dolly-in; dolly-in takes a length in r"),
        ("dolly-in:-1", r"no positive amount '-1'"),
        ("dolly-in:nan", r"no positive amount 'nan'"),
        ("orbit-left:0.5r", r"no positive amount '0.5r' for orbit-left; orbit-left takes degrees"),
        ("orbit-up:120", r"orbit-up takes from 0 to 85 degrees, not 120"),
        ("dolly-in:1e7", r"number from 0 to 10000"),
        ("pan-left:0", r"does not move"),
        ("zoom-in:0.5", r"factor from 1 to 10, not 0.5"),
        ("zoom-in:1", r"does not move"),
        ("ellipse:0.3", r"ellipse takes horizontal x vertical half axis"),
        ("dolly-in:1++pan-left:2", r"unknown move ''"),
        ("", r"unknown move ''"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_trajectory(text)
    assert "\n" not in str(caught.value)


def test_every_kind_of_move_has_an_example_that_parses():
    for kind in MOVE_KINDS:
        for name in kind.names:
            assert parse_trajectory(f"{name}:{kind.example}").moves[0].effort(SCALE) > 0


def test_the_documentation_names_every_move_and_preset_and_its_examples_parse():
    text = (Path(__file__).parents[1] / "docs" / "trajectories.md").read_text(encoding="utf-8")
    for word in [*ALL_NAMES, *PRESETS]:
        assert f"`{word}`" in text
    examples = [t for t in re.findall(r"--trajectory ([^\s`]+)", text) if ".json" not in t]
    assert len(examples) >= 4
    for example in examples:
        parse_trajectory(example)
    for name, texts in PRESETS.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert re.findall(r"`([^`]+)`", row)[1:] == list(texts)


def test_presets():
    for name in PRESETS:
        assert len(preset(name)) == len(PRESETS[name])
    assert [t.name.rsplit("-", 1)[0] for t in preset("default")] == ["ellipse", "orbit-up", "orbit-right", "orbit-left"]
    assert preset("Paper") == tuple(
        parse_trajectory(text) for text in ("ellipse:0.3x0.4", "orbit-up:45", "orbit-right:140", "orbit-left:140")
    )
    with pytest.raises(InputError, match=r"'papr' is not known; did you mean paper.*known presets are default, paper"):
        preset("papr")


def test_the_panorama_looks_around_before_it_leaves():
    still = [bool((t.cameras(ORIGIN, SCALE).centers.norm(dim=1) < 1e-6).all()) for t in preset("panorama")]
    assert still == sorted(still, reverse=True)
    assert 0 < sum(still) < len(still)
    seen = torch.cat([t.cameras(ORIGIN, SCALE).forward for t in preset("panorama")[: sum(still)]])
    azimuth = torch.rad2deg(torch.atan2(seen[:, 0], seen[:, 2]))
    assert azimuth.min() < -115
    assert azimuth.max() > 115


def test_a_camera_file_is_a_path(tmp_path):
    knots = wavy_cameras(5)
    file = tmp_path / "my+path.json"
    write_official(file, knots)
    whole = parse_trajectory(str(file))
    assert whole.name == "my-path"
    assert_close(whole.cameras(knots[0], SCALE, 5).cam_from_world, knots.cam_from_world, atol=1e-5, rtol=0)
    assert_close(whole.cameras(knots[0], SCALE, 5).intrinsics, knots.intrinsics, atol=1e-3, rtol=0)
    for text in (str(file), f"{file}:0.5r", f"{file}:60%", f"{file}:2m:12.5%"):
        assert str(parse_trajectory(text)) == text
        part = Trajectory((parse_trajectory(text).moves[0].scaled(0.3),))
        assert parse_trajectory(str(part)) == part != whole
    doubled = parse_trajectory(f"{file}:2m").cameras(knots[0], SCALE, 5)
    offset = knots.centers - knots.centers[0]
    assert_close(doubled.centers - doubled.centers[0], 2 * offset, atol=1e-5, rtol=0)


def test_a_camera_file_may_lack_what_a_path_does_not_need(tmp_path):
    knots = wavy_cameras(5)
    file = tmp_path / "path.json"
    intrinsic = knots.intrinsics.tolist()
    file.write_text(json.dumps({"extrinsic": knots.cam_from_world.tolist(), "intrinsic": intrinsic}))
    text = f"{file}+dolly-in:0.1"
    cameras = parse_trajectory(text).cameras(knots[0], SCALE, 9)
    assert str(parse_trajectory(text)) == f"{text}r"
    assert_close(cameras.intrinsics[-1], knots.intrinsics[-1], rtol=1e-4, atol=0)
    with pytest.raises(InputError, match=r"nothing\.json"):
        parse_trajectory(str(tmp_path / "nothing.json"))
    with pytest.raises(InputError, match=r"'0\.5' after a camera file, where its unit may stand, as in path\.json"):
        parse_trajectory(f"pan-left:20+{file}:0.5")


# --- clearance ------------------------------------------------------------------------------------------------------


def wall(z: float, spacing: float, half: float = 4.0, hole: float = 0.0) -> torch.Tensor:
    """A wall across the optical axis, without the points nearer to the axis than `hole`."""
    line = torch.arange(-half, half + spacing / 2, spacing) + 0.37 * spacing
    x, y = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.full((x.numel(),), z)], dim=1)
    return points[points[:, :2].norm(dim=1) >= hole]


def nearest(trajectory: Trajectory, points: torch.Tensor, start: Cameras = ORIGIN) -> float:
    eyes = trajectory.cameras(start, SCALE, frames=500).centers
    return float(torch.cdist(eyes, points).min())


def test_a_dolly_stops_before_the_wall():
    points = wall(1.5, 0.05)
    shortened, fraction = shorten_to_clear(parse_trajectory("dolly-in:1"), ORIGIN, SCALE, Obstacles(points))
    assert fraction == pytest.approx((1.5 - 0.1 * R) / R, abs=1.5 / 256)
    assert nearest(shortened, points) >= 0.1 * R - 1e-5
    assert shortened.cameras(ORIGIN, SCALE).centers[-1, 2] == pytest.approx(fraction * R, rel=1e-5)
    assert parse_trajectory(str(shortened)) == shortened


def test_a_free_path_is_left_as_it_is():
    for text in ("dolly-in:0.4", "orbit-right:40", "ellipse:0.1x0.1", "spiral:0.1x2"):
        trajectory = parse_trajectory(text)
        assert shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(wall(2.4, 0.05))) == (trajectory, 1.0)
        assert shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(torch.zeros(0, 3))) == (trajectory, 1.0)


@pytest.mark.parametrize("spacing", [0.8, 1.0, 1.6])
@pytest.mark.parametrize("text", ["dolly-in:1.5", "dolly-in:0.2+dolly-in:1.2", "truck-right:0.13+dolly-in:1.5"])
def test_a_wall_sampled_wider_than_the_clearance_is_not_flown_through(spacing, text):
    points = wall(1.5, spacing)
    eyes = path(text, frames=400).centers
    assert torch.cdist(eyes, points).min() > 0.1 * R + 0.01  # the distance to the points alone would let it through
    shortened, fraction = shorten_to_clear(parse_trajectory(text), ORIGIN, SCALE, Obstacles(points))
    assert 0.3 < fraction < 0.9
    assert shortened.cameras(ORIGIN, SCALE).centers[:, 2].max() < 1.5


def test_a_tilted_rough_sparse_wall_is_not_flown_through():
    generator = torch.Generator().manual_seed(3)
    points = wall(0.0, 0.7)
    points = points + 0.04 * torch.randn(points.shape, generator=generator)
    points = points @ matrix_from_quaternion(torch.tensor([0.9, 0.15, 0.3, 0.1])).T + torch.tensor([0.0, 0.0, 1.5])
    _, fraction = shorten_to_clear(parse_trajectory("dolly-in:1.5"), ORIGIN, SCALE, Obstacles(points))
    assert 0.2 < fraction < 0.5


@pytest.mark.parametrize("spacing", [0.05, 0.2])
def test_a_doorway_is_flown_through(spacing):
    trajectory = parse_trajectory("dolly-in:1.5")
    points = wall(1.5, spacing, hole=0.75)
    assert shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(points)) == (trajectory, 1.0)


def test_rotations_alone_are_never_touched():
    close = torch.tensor([[0.01, 0.0, 0.02], [0.0, 0.01, 0.03], [0.02, 0.02, 0.0]])
    for text in ("pan-left:120", "tilt-up:40+pan-right:20", "zoom-in:2"):
        trajectory = parse_trajectory(text)
        assert shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(close)) == (trajectory, 1.0)


def test_an_ellipse_shrinks_and_stays_closed():
    points = wall(0.0, 0.05) @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]) + torch.tensor([0.0, -1.2, 0.0])
    assert_close(points[:, 1], torch.full_like(points[:, 1], -1.2))  # a ceiling
    shortened, fraction = shorten_to_clear(parse_trajectory("ellipse:0.3x0.4"), ORIGIN, SCALE, Obstacles(points))
    assert fraction == pytest.approx((1.2 - 0.1 * R) / (0.8 * R), abs=1 / 128)
    cameras = shortened.cameras(ORIGIN, SCALE)
    assert_close(cameras.cam_from_world[-1], cameras.cam_from_world[0], atol=1e-6, rtol=0)
    (ellipse,) = shortened.moves
    assert isinstance(ellipse, Ellipse)
    assert ellipse.horizontal.value / ellipse.vertical.value == pytest.approx(0.75)


def test_a_sequence_is_shortened_move_by_move():
    shortened, fraction = shorten_to_clear(
        parse_trajectory("pan-left:30+pan-right:30+dolly-in:1+pan-left:50"), ORIGIN, SCALE, Obstacles(wall(1.5, 0.05))
    )
    first, second, third, last = shortened.moves
    assert (first, second, last) == (Turn("pan-left", 30.0), Turn("pan-right", 30.0), Turn("pan-left", 50.0))
    assert isinstance(third, Slide)
    assert third.length.value == pytest.approx((1.5 - 0.1 * R) / R, abs=1 / 200)
    assert 0.5 < fraction < 1


@pytest.mark.parametrize("text", ["orbit-right:140", "orbit-up:80", "truck-left:2", "dolly-out:2", "spiral:1x2"])
def test_other_moves_keep_clear_too(text):
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(20000, 3, generator=generator), dim=1) * 1.6 * R
    points = points * torch.tensor([1.0, 0.5, 0.7])  # an egg-shaped room around the camera
    shortened, fraction = shorten_to_clear(parse_trajectory(text), ORIGIN, SCALE, Obstacles(points))
    assert 0 < fraction < 1
    assert nearest(shortened, points) >= 0.1 * R * 0.99
    assert nearest(parse_trajectory(text), points) < 0.1 * R


def test_a_spline_is_cut_before_the_wall():
    straight = start_camera().with_poses(torch.eye(4).repeat(11, 1, 1))
    poses = straight.cam_from_world.clone()
    poses[:, 2, 3] = -torch.linspace(0, 3, 11)
    trajectory = Trajectory((Spline.through(straight.with_poses(poses), "straight"),))
    shortened, fraction = shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(wall(1.5, 0.05)))
    assert fraction == pytest.approx((1.5 - 0.1 * R) / 3, abs=1 / 128)
    assert shortened.cameras(ORIGIN, SCALE).centers[-1, 2] == pytest.approx(3 * fraction, rel=1e-3)


def test_a_start_within_the_clearance_may_leave_but_not_come_nearer():
    floor = wall(0.0, 0.02) @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]) + torch.tensor([0.0, 0.1, 0.0])
    for text in ("pedestal-up:0.3", "dolly-in:0.5"):
        trajectory = parse_trajectory(text)
        assert shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(floor)) == (trajectory, 1.0)
    lowered, fraction = shorten_to_clear(parse_trajectory("pedestal-down:0.3"), ORIGIN, SCALE, Obstacles(floor))
    assert fraction < 0.05
    assert nearest(lowered, floor) >= 0.09 - 1e-4


def test_a_path_that_cannot_move_is_reported_as_nothing():
    shortened, fraction = shorten_to_clear(
        parse_trajectory("dolly-in:2"), ORIGIN, SCALE, Obstacles(wall(0.05, 0.004, half=0.5))
    )
    assert fraction < 0.01
    assert shortened.cameras(ORIGIN, SCALE).centers.norm(dim=1).max() < 0.006


def test_shortening_is_the_same_in_a_scene_of_another_size():
    points = wall(1.5, 0.05)
    trajectory = parse_trajectory("orbit-right:20+dolly-in:1")
    small = shorten_to_clear(trajectory, ORIGIN, SCALE, Obstacles(points))
    large = shorten_to_clear(trajectory, ORIGIN, SceneScale(64.0 * R), Obstacles(64 * points))
    assert large == small
    assert small[1] < 1


def test_shortening_among_400_000_points_is_quick():
    generator = torch.Generator().manual_seed(0)
    directions = torch.cat([torch.rand(400_000, 2, generator=generator) - 0.5, torch.ones(400_000, 1)], dim=1)
    obstacles = Obstacles(directions * (1.5 + torch.sin(9 * directions[:, :1])))
    obstacles.distance(torch.zeros(1, 3, dtype=torch.float64))
    seconds = []
    for text in ("dolly-in:1", "orbit-right:140", "ellipse:0.3x0.4", "spiral:0.5x3"):
        begin = time.perf_counter()
        shorten_to_clear(parse_trajectory(text), ORIGIN, SCALE, obstacles)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.2
