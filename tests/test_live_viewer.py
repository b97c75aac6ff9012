"""The viewer without a browser: conversions, parts, paths, jobs, and who may talk to its server."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch

from test_world import SMALL, FlatDepth
from viewer_scene import camera, truck, wall
from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import look_at, matrix_from_quaternion
from worldstereo.cameras.trajectories import Obstacles, SceneScale, parse_trajectory
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import WorldPipeline
from worldstereo.pipelines.world_folder import World
from worldstereo.viewer.live import server as server_module
from worldstereo.viewer.live.compare import plane_of_picture
from worldstereo.viewer.live.guard import admits, is_inside, is_loopback, own_names, start_server, stop_server
from worldstereo.viewer.live.jobs import JobRunner, JobState
from worldstereo.viewer.live.levels import FIRST_PART, cut_into_parts
from worldstereo.viewer.live.path_draft import PathDraft
from worldstereo.viewer.live.player import Player, next_frame
from worldstereo.viewer.live.scene_layers import SceneContent, covariances
from worldstereo.viewer.live.server import Actions, LiveViewer
from worldstereo.viewer.live.standing import Standing
from worldstereo.viewer.live.view_space import ViewPose, ViewSpace, flight, picture_fov, window_fov

SCALE = SceneScale(4.0)


def poses() -> Cameras:
    """Cameras on a curve that look at a point, with an off-centre principal point."""
    angle = torch.linspace(0, 1.2, 4)
    eye = torch.stack([angle.sin(), -0.3 * angle, 1 - angle.cos()], dim=1)
    return camera().with_poses(
        look_at(eye, torch.tensor([[0.2, 0.1, 4.0]]).expand(4, 3), torch.tensor([0.0, 1.0, 0.0]))
    )


def test_a_pose_comes_back_from_viser_and_means_the_same_there():
    space = ViewSpace.of_radius(0.37)
    for pose in poses().cam_from_world:
        shown = space.pose(pose)
        torch.testing.assert_close(space.cam_from_world(shown), pose, atol=2e-6, rtol=0)
        point = torch.tensor([0.3, -0.2, 3.0])
        in_view = matrix_from_quaternion(torch.from_numpy(shown.wxyz)).T @ torch.from_numpy(
            space.points(point[None])[0] - shown.position
        )
        torch.testing.assert_close(
            in_view / space.scale, (pose[:3, :3] @ point + pose[:3, 3]).double(), atol=1e-5, rtol=0
        )


def test_a_standing_view_shows_the_whole_picture_and_no_more_than_it_must():
    one = camera()
    corners = torch.tensor([[0.0, 0, 1], [64, 0, 1], [0, 48, 1], [64, 48, 1]]) @ torch.linalg.inv(one.intrinsics[0]).T
    for aspect in (0.5, 1.0, 2.5):
        half = np.tan(window_fov(one, aspect) / 2)
        inside = corners[:, :2].abs().numpy() / [half * aspect, half]
        assert inside.max() == pytest.approx(1, abs=1e-6)
    fov, aspect = picture_fov(Cameras.from_fov(60.0, 400, 300))
    assert (2 * np.arctan(np.tan(fov / 2) * aspect), aspect) == pytest.approx((pi / 3, 4 / 3))


def test_a_flight_passes_through_its_cameras():
    path = poses()
    for frame in range(len(path)):
        torch.testing.assert_close(
            flight(path, float(frame)).cam_from_world[0], path.cam_from_world[frame], atol=1e-5, rtol=0
        )
    half = flight(path, 0.5)
    torch.testing.assert_close(half.centers[0], path.centers[:2].mean(dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_compared_picture_lies_on_its_own_pixels(share):
    one = truck(0.4)[3]
    columns, size, middle = plane_of_picture(one, share)
    assert columns == round(share * one.width)
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = np.concatenate([middle[:2] + signs * size / 2, np.ones((4, 1))], axis=1)
    world = torch.from_numpy(corners).float() @ one.cam_from_world[0, :3, :3] + one.centers[0]
    expected = [[0, 0], [columns, 0], [columns, one.height], [0, one.height]]
    torch.testing.assert_close(one.project(world)[0][0], torch.tensor(expected).float(), atol=1e-3, rtol=0)


def test_parts_hold_every_point_once_coarse_first():
    cloud = wall(FIRST_PART + 200_000)
    parts = cut_into_parts(cloud, np.zeros(3), 10**6)
    assert sum(len(part.points) for part in parts) == len(cloud)
    joined = np.concatenate([np.concatenate([part.points, part.colors / np.float32(255)], axis=1) for part in parts])
    given = torch.cat([cloud.points, cloud.colors], dim=1).numpy()
    joined, given = (rows[np.lexsort(rows[:, :3].T)] for rows in (joined, given))
    np.testing.assert_allclose(joined, given, atol=0.5 / 255 + 1e-6)
    first = np.concatenate([part.points for part in parts if part.shown_before == 0])
    assert len(first) == FIRST_PART
    left, low = (first[:, 0] < -1).mean(), (first[:, 1] > 1).mean()
    assert (left, low) == pytest.approx((1 / 3, 1 / 4), abs=0.02), "the first picture is the whole scene"
    assert [part.shown_before for part in parts] == sorted(part.shown_before for part in parts)
    assert parts[-1].shown_with == 1
    near, far = parts[0], parts[2]
    assert near.spacing < far.spacing
    assert near.point_size(0.25) == pytest.approx(2 * near.point_size(1.0)), "a quarter of the points, twice as large"


def test_a_cloud_past_the_limit_is_thinned_and_none_is_no_part():
    assert sum(len(part.points) for part in cut_into_parts(wall(9000), np.zeros(3), 1000)) == 1000
    assert cut_into_parts(PointCloud.empty(), np.zeros(3), 1000) == []


def test_covariances_have_the_squared_scales_along_the_axes():
    turn = torch.tensor([[0.8, 0.6, 0.0, 0.0]])
    splats = GaussianSplats(torch.zeros(1, 3), torch.tensor([[0.1, 0.2, 0.3]]), turn, torch.ones(1), torch.ones(1, 3))
    axes = matrix_from_quaternion(turn)[0].numpy()
    np.testing.assert_allclose(axes.T @ covariances(splats)[0] @ axes, np.diag([0.01, 0.04, 0.09]), atol=1e-7)


@pytest.mark.parametrize(
    ("at", "step", "repeat", "expected"), [(3.0, 0.5, False, 3.5), (3.9, 0.5, False, 4.0), (4.5, 1.0, True, 0.5)]
)
def test_the_next_frame(at, step, repeat, expected):
    assert next_frame(at, step, 4.0, repeat) == pytest.approx(expected)


def test_a_player_keeps_time_and_ends_once():
    seen, ended = [], threading.Event()
    player = Player(seen.append, ended.set)
    began = time.monotonic()
    player.play(5, 0.0, lambda: 20.0, repeat=False)
    assert ended.wait(5)
    assert time.monotonic() - began == pytest.approx(0.2, abs=0.15)
    assert (seen[0], seen[-1]) == (0.0, 4.0)
    assert seen == sorted(seen)
    player.play(5, 0.0, lambda: 1.0, repeat=True)
    assert player.is_playing
    player.stop()
    assert not player.is_playing


def test_one_job_at_a_time_that_can_be_stopped():
    states: list[JobState] = []
    jobs, go = JobRunner(states.append), threading.Event()

    def work(report):
        report("waiting", 0.5)
        go.wait(5)
        report("never said", 0.6)
        return "done"

    jobs.start("long", work)
    with pytest.raises(InputError, match="'long' is still running"):
        jobs.start("other", lambda report: "")
    jobs.stop()
    go.set()
    jobs.wait(5.0)
    assert [state.what for state in states] == ["starting", "waiting", "stopped"]
    assert states[-1].failed
    jobs.start("next", lambda report: "made it")
    jobs.wait(5.0)
    assert (jobs.state.what, jobs.state.failed, jobs.state.running) == ("made it", False, False)


def test_a_failed_job_says_why():
    jobs = JobRunner(lambda state: None)

    def work(report):
        raise InputError("world/: another process is working on this world; wait until it ends")

    jobs.start("extend", work)
    jobs.wait(5.0)
    assert jobs.state.failed
    assert "another process" in jobs.state.what


def draft() -> PathDraft:
    return PathDraft("input", camera(), tuple(poses().cam_from_world[1:]))


def test_keyframes_are_added_replaced_and_removed():
    one, two = torch.eye(4), poses().cam_from_world[2]
    edited = PathDraft("input", camera()).added(one).added(two).replaced(0, two).removed(1)
    assert len(edited.keyframes) == 1
    assert torch.equal(edited.keyframes[0], two)


def test_a_drawn_path_starts_at_the_start_ends_at_the_last_keyframe_and_is_even():
    sampled = draft().sampled(SCALE, 21)
    assert torch.equal(sampled.cam_from_world[0], camera().cam_from_world[0])
    torch.testing.assert_close(sampled.cam_from_world[-1], poses().cam_from_world[-1], atol=1e-5, rtol=0)
    nearest = torch.cdist(poses().centers, sampled.centers).min(dim=1).values
    assert nearest.max() < 0.05, "it passes the keyframes"
    close = PathDraft("input", camera(), (truck(0.1).cam_from_world[4], truck(2.0).cam_from_world[4]))
    steps = close.sampled(SCALE, 41)
    turned = steps.cam_from_world[:-1, :3, :3] @ steps.cam_from_world[1:, :3, :3].transpose(1, 2)
    angle = torch.linalg.matrix_norm(turned - torch.eye(3)) / 2**0.5
    effort = steps.centers.diff(dim=0).norm(dim=1) / SCALE.radius + angle
    assert effort.max() / effort.min() < 1.05, "however unevenly the keyframes are spaced"


def test_a_written_path_is_flown_as_it_was_drawn(tmp_path):
    path = draft().write(tmp_path / "paths", "über the <roof>", SCALE, 21)
    assert path.name == "über-the-roof.json"
    flown = parse_trajectory(str(path)).cameras(camera(), SCALE, 21)
    torch.testing.assert_close(flown.cam_from_world, draft().sampled(SCALE, 21).cam_from_world, atol=1e-5, rtol=0)
    torch.testing.assert_close(flown.intrinsics, camera().intrinsics.expand(21, 3, 3))
    assert draft().write(tmp_path / "paths", "über the <roof>", SCALE, 21).name == "über-the-roof-2.json"


def test_a_path_into_a_wall_is_shortened_and_one_that_goes_nowhere_is_refused():
    through = torch.eye(4)
    through[2, 3] = -6.0  # two units behind the wall
    drawn, flown, share = PathDraft("input", camera(), (through,)).planned(SCALE, 9, Obstacles(wall().points))
    assert 0.3 < share < 0.65
    assert float(drawn.centers[-1, 2]) == pytest.approx(6)
    assert float(flown.centers[-1, 2]) < 4
    with pytest.raises(InputError, match="no keyframe"):
        PathDraft("input", camera()).sampled(SCALE, 9)
    with pytest.raises(InputError, match="goes nowhere"):
        PathDraft("input", camera(), (torch.eye(4),)).sampled(SCALE, 9)


class FakeView:
    """As much of a browser as standing needs."""

    def __init__(self) -> None:
        self.client_id, self.camera, self.aspect = 7, self, 1.5
        self.position = self.look_at = self.wxyz = self.fov = None

    def atomic(self):
        return threading.Lock()

    def flush(self) -> None:
        pass


def test_standing_is_exact_and_leaving_is_noticed_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("worldstereo.viewer.live.standing.time.monotonic", lambda: clock[0])
    space, view = ViewSpace.of_radius(2.0), FakeView()
    standing = Standing(space)
    one = poses()[2]
    standing.stand(view, one)
    torch.testing.assert_close(
        space.cam_from_world(ViewPose(view.wxyz, view.position)), one.cam_from_world[0], atol=1e-5, rtol=0
    )
    clock[0] += 2
    assert not standing.has_left(view)
    view.position = view.position + 0.5
    assert standing.has_left(view)
    assert not standing.has_left(view)


LOCAL = own_names("127.0.0.1")


@pytest.mark.parametrize(
    ("asked", "origin", "is_websocket", "admitted"),
    [
        ("localhost:8080", "http://localhost:8080", True, True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True, True),
        ("[::1]:8080", "http://[::1]:8080", True, True),
        ("localhost:9000", "http://localhost:9000", True, True),  # through a tunnel
        ("localhost:8080", "http://evil.example", True, False),
        ("localhost:8080", "http://localhost:3000", True, False),  # another program of this machine
        ("localhost:8080", "http://localhost:8080.evil.example", True, False),
        ("localhost:8080", "null", True, False),
        ("localhost:8080", None, True, False),
        ("evil.example:8080", "http://evil.example:8080", True, False),  # a name that was pointed at this machine
        ("evil.example:8080", None, False, False),
        ("localhost:8080", None, False, True),
        ("[broken", None, False, False),
        (None, None, False, False),
    ],
)
def test_only_our_own_page_is_admitted(asked, origin, is_websocket, admitted):
    assert admits(asked, origin, is_websocket, LOCAL) == admitted


def test_beyond_loopback_the_machines_own_name_is_admitted_too():
    name = socket.gethostname().lower()
    assert not is_loopback("0.0.0.0")
    assert name in own_names("0.0.0.0")
    assert admits(f"{name}:8080", f"http://{name}:8080", True, own_names("0.0.0.0"))
    assert not admits("evil.example", "http://evil.example", True, own_names("0.0.0.0"))


@pytest.mark.parametrize(
    ("target", "inside"),
    [
        ("/", True),
        ("/assets/index-1.js?v=1:2", True),
        ("/C:/Windows/win.ini", False),
        ("/c%3a/Windows/win.ini", False),
        ("/index.html::$DATA", False),
    ],
)
def test_a_drive_is_not_inside_the_page(target, inside):
    """On Windows, joining any folder and 'C:/Windows' gives 'C:/Windows'."""
    assert is_inside(target) == inside


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("viser")
    running = start_server("127.0.0.1", None, "test")
    yield running
    stop_server(running)


def answer(port: int, request: str) -> str:
    """The first bytes that the server answers to a raw request."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        return connection.recv(4096).decode("latin-1")


def handshake(port: int, host: str, origin: str | None) -> str:
    import viser

    lines = [
        "GET / HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: viser-v{viser.__version__}",
    ]
    if origin is not None:
        lines.append(f"Origin: {origin}")
    return answer(port, "\n".join(lines) + "\n\n").split("\r\n", 1)[0]


def test_a_foreign_page_gets_no_websocket(server):
    port = server.get_port()
    assert "101" in handshake(port, f"127.0.0.1:{port}", f"http://127.0.0.1:{port}")
    assert "101" in handshake(port, f"localhost:{port}", f"http://localhost:{port}")
    for host, origin in (
        (f"127.0.0.1:{port}", "https://evil.example"),
        (f"127.0.0.1:{port}", None),
        (f"evil.example:{port}", f"http://evil.example:{port}"),
    ):
        assert "403" in handshake(port, host, origin), (host, origin)


@pytest.mark.parametrize(
    "path", ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/..%5c..%5cetc/passwd", "//etc/passwd"]
)
def test_nothing_but_the_page_is_served(server, path):
    port = server.get_port()
    said = answer(port, f"GET {path} HTTP/1.1\nHost: localhost:{port}\n\n")
    assert said.startswith("HTTP/1.1 404")
    assert "root:" not in said
    assert answer(port, f"GET / HTTP/1.1\nHost: localhost:{port}\n\n").startswith("HTTP/1.1 200")
    assert answer(port, "GET / HTTP/1.1\nHost: evil.example\n\n").startswith("HTTP/1.1 403")
    assert answer(port, f"GET /C:/x HTTP/1.1\nHost: localhost:{port}\n\n").startswith("HTTP/1.1 403")


def test_the_page_cannot_put_the_world_on_the_internet(server):
    assert server.request_share_url() is None


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", "taken", "--port"),
        ("203.0.113.7", None, "--host 203.0.113.7"),
        ("127.0.0.1", 70000, "--port 70000"),
    ],
)
def test_an_address_that_cannot_be_served_is_one_sentence(server, host, port, said):
    with pytest.raises(InputError, match=said):
        start_server(host, server.get_port() if port == "taken" else port, "test")


def test_without_viser_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    with pytest.raises(MissingExtraError, match=r"worldstereo\[viewer\]"):
        start_server("127.0.0.1", None, "test")


def read(world: World) -> SceneContent:
    memory = world.memory
    return SceneContent(memory.cloud, memory.sky)


def nothing(*given: object) -> None:
    """What a viewer does that is only looked at."""


def test_the_world_is_extended_along_a_drawn_path_and_exported(room_photo: Path, tmp_path: Path):
    pytest.importorskip("viser")
    pipeline = WorldPipeline(WarpGenerator(), FlatDepth())
    world = pipeline(room_photo, tmp_path / "w", SMALL)

    def extend(opened, path, start, on_progress):
        pipeline.extend(opened, [str(path)], start, on_progress)

    def export(opened, form, out):
        out.write_text(form)

    viewer = LiveViewer(world, Actions(read, extend, export, {"ply": ".ply"}), "127.0.0.1", None)
    try:
        aside = world.clips[0].cameras[3].cam_from_world[0].clone()
        aside[0, 3] -= 0.05
        path = PathDraft("0:3", world.clips[0].cameras[3]).added(aside)
        viewer._extend(path, "aside")
        viewer._jobs.wait(60.0)
        assert viewer._jobs.state == JobState("Extend", False, "the world has 3 clips now", 1.0, False)
        clip = World(world.folder).clips[-1]
        assert (clip.name, clip.plan.start, clip.is_done) == ("002-aside", "0:3", True)
        scale = SceneScale(world.manifest.radius)
        expected = path.sampled(scale, 4).cam_from_world
        torch.testing.assert_close(clip.cameras.cam_from_world, expected, atol=1e-5, rtol=0)
        assert viewer._clips.chosen == (3, 0), "the new clip is shown"
        for name in ("ply.ply", "ply-2.ply"):
            viewer._export("ply", None)
            viewer._jobs.wait(10.0)
            assert (world.folder / "exports" / name).read_text() == "ply"
    finally:
        viewer.close()


def test_who_closes_the_page_at_a_camera_leaves_it(room_photo: Path, tmp_path: Path):
    pytest.importorskip("viser")
    world = WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path / "w", SMALL)
    viewer = LiveViewer(world, Actions(read, nothing, nothing, {"ply": ".ply"}), "127.0.0.1", None)
    try:
        gone, other = FakeView(), FakeView()
        other.client_id = 8
        viewer._clips.stand(1, 0, gone)
        viewer._forget(other)
        assert viewer._clips.has_visitor(gone)
        assert not viewer._cameras.visible
        viewer._forget(gone)
        assert not viewer._clips.has_visitor(gone)
        assert viewer._cameras.visible, "the other browsers see the cameras again"
    finally:
        viewer.close()


def test_a_damaged_frame_is_named_and_leaves_no_server(room_photo: Path, tmp_path: Path, capfd, monkeypatch):
    pytest.importorskip("viser")
    world = WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path / "w", SMALL)
    (world.clips[0].folder / "frames" / "000.png").write_bytes(b"no picture")
    started = []
    start = server_module.start_server
    monkeypatch.setattr(server_module, "start_server", lambda *where: started.append(start(*where)) or started[-1])
    with pytest.raises(InputError, match=r"000\.png: is no picture; restore it"):
        LiveViewer(world, Actions(read, nothing, nothing, {"ply": ".ply"}), "127.0.0.1", None)
    with pytest.raises(ConnectionRefusedError):
        answer(started[0].get_port(), "")
    assert capfd.readouterr().out == ""


def test_an_address_with_colons_stands_in_brackets():
    class Server:
        def get_host(self):
            return "::1"

        def get_port(self):
            return 8080

    viewer = object.__new__(LiveViewer)
    viewer._server = Server()
    assert viewer.address == "http://[::1]:8080"


def test_the_verb_serves_until_it_is_interrupted_and_refuses_what_is_no_world(room_photo: Path, tmp_path: Path):
    pytest.importorskip("viser")
    WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path / "w", SMALL)
    command = [sys.executable, "-m", "worldstereo.cli", "view"]
    quiet = [*command, str(tmp_path / "w"), "--no-browser", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    warning, where = process.stdout.readline(), process.stdout.readline()
    assert "anyone" in warning
    port = int(re.search(r"http://localhost:(\d+)", where)[1])
    assert answer(port, f"GET / HTTP/1.1\nHost: localhost:{port}\n\n").startswith("HTTP/1.1 200")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in rest
    refused = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "not a world folder" in refused.stderr
