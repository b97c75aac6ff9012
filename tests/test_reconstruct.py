"""The whole reconstruction: from a world and from a folder, resume after a kill, bad input, the real command."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from box_room import look, predicted, see_room
from conftest import run_command
from textured_wall import textured_wall
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_official, write_transforms
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.exporters.ply import read_ply
from worldstereo.exporters.reconstruction import finish_reconstruction
from worldstereo.exporters.splat_ply import read_splat_ply
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.images import save_png
from worldstereo.memory.lifting import lift_picture
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct, reconstruct_frames

SMALL = Settings(trajectories=("orbit-right:8", "orbit-up:5"), short_side=96, frames=4)
QUICK = ReconstructionSettings(refine=False, mesh=False)


class WarpedTruth:
    """The box room's depth, each frame in a scale and shift of disparity of its own; counts how often it is asked."""

    name = "warped truth"

    def __init__(self, images, depths, spread=0.1):
        self.spread = spread
        self.known = [(image, depth) for image, depth in zip(images, depths, strict=True)]
        self.asked = 0

    def estimate(self, image, intrinsics=None, hint=None):
        self.asked += 1
        for number, (known, depth) in enumerate(self.known):
            if torch.allclose(image, known, atol=0.01):
                disparity = (0.7 + self.spread * number) / depth + 0.02
                return predicted(1 / disparity)
        raise AssertionError("asked for a picture that is not known")


class FlatDepth:
    """A wall at three units, or the hint where there is one."""

    name = "flat"

    def estimate(self, image, intrinsics=None, hint=None):
        depth = torch.full(image.shape[1:], 3.0)
        if hint is not None:
            depth = torch.where(hint > 0, hint, depth)
        return predicted(depth)


class SkyOnly:
    """Nothing but sky."""

    name = "sky"

    def estimate(self, image, intrinsics=None, hint=None):
        nothing = torch.zeros(image.shape[1:])
        return DepthPrediction(nothing, torch.ones(image.shape[1:], dtype=torch.bool), None, False, "sky")


class NotANumber:
    """Every second answer has a depth that is not finite."""

    name = "broken"

    def __init__(self):
        self.asked = 0

    def estimate(self, image, intrinsics=None, hint=None):
        self.asked += 1
        if self.asked % 2:
            return predicted(torch.full(image.shape[1:], torch.nan))
        return FlatDepth().estimate(image, intrinsics, hint)


def room_frames(places=(0.0, -0.2, 0.2, -0.4, 0.4), with_cloud: bool = True) -> tuple[PosedFrames, WarpedTruth]:
    """Frames of the box room; the first one's points are known."""
    cameras = Cameras.cat([look(x, 0.0) for x in places])
    images, depth = see_room(cameras)
    levels = (images * 255).round().to(torch.uint8)
    cloud = PointCloud.empty()
    if with_cloud:
        cloud = lift_picture(images[0], predicted(depth[0]), cameras[0]).cloud
    frames = PosedFrames(
        cameras=cameras,
        clips=("a",) * len(places),
        names=tuple(f"f{n}" for n in range(len(places))),
        cloud=cloud,
        sky=PointCloud.empty(),
        read=lambda index: levels[index],
    )
    return frames, WarpedTruth(images, depth)


@pytest.fixture
def world(room_photo, tmp_path) -> World:
    return WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path / "w", SMALL)


def room_error(points: torch.Tensor) -> torch.Tensor:
    """Distance from points to the room's walls and box, along the axes (small distances only)."""
    low, high = torch.tensor([-3.0, -1.5, -2.0]), torch.tensor([3.0, 1.5, 5.0])
    walls = torch.minimum((points - low).abs(), (points - high).abs()).amin(dim=1)
    box = (points - torch.tensor([-0.05, 0.85, 2.5])).abs() - torch.tensor([0.55, 0.65, 0.5])
    return torch.minimum(walls, box.amax(dim=1).abs())


def test_the_room_comes_back_from_depth_of_unknown_scale(tmp_path):
    frames, estimator = room_frames()
    result = reconstruct_frames(frames, tmp_path / "r", estimator)
    cloud = result.cloud
    assert len(cloud) > 5000
    assert float(room_error(cloud.points).quantile(0.95)) < 0.03
    depth, confidence, sky = result.depth("f1")
    truth = see_room(frames.cameras[1])[1][0]
    known = depth > 0
    assert float(known.float().mean()) > 0.9
    assert float((depth / truth - 1).abs()[known].median()) < 0.005
    assert float(confidence[known].median()) > 0.7
    assert not bool(sky.any())
    assert float(room_error(result.mesh.vertices).quantile(0.9)) < 0.1
    record = result.record
    assert record["steps"]["align"]["figures"]["frames"] == {"aligned": 5}
    assert all(step["done"] for step in record["steps"].values())
    assert not (tmp_path / "r" / "working").exists()


def test_a_world_is_reconstructed_in_its_own_folder_and_a_second_run_does_nothing(world):
    result = reconstruct(world, FlatDepth(), QUICK)
    assert result.folder == world.folder / "reconstruction"
    assert len(result.cloud) > 1000
    assert result.names[0] == "input"
    assert len(result.names) == 1 + 2 * 3  # the first frame of each clip is the input again
    before = {path: path.stat().st_mtime_ns for path in result.folder.rglob("*.safetensors")}
    reconstruct(world, FlatDepth(), QUICK)
    assert {path: path.stat().st_mtime_ns for path in result.folder.rglob("*.safetensors")} == before


def test_other_options_redo_what_depends_on_them_alone(tmp_path):
    frames, estimator = room_frames()
    reconstruct_frames(frames, tmp_path / "r", estimator, QUICK)
    asked = estimator.asked
    depth = (tmp_path / "r" / "depth" / "f0.safetensors").stat().st_mtime_ns
    sure = reconstruct_frames(frames, tmp_path / "r", estimator, replace(QUICK, least_confidence=0.8))
    assert estimator.asked == asked
    assert (tmp_path / "r" / "depth" / "f0.safetensors").stat().st_mtime_ns == depth
    assert float(sure.cloud.confidence.min()) >= 0.79
    reconstruct_frames(frames, tmp_path / "r", estimator, replace(QUICK, neighbours=2))
    assert estimator.asked == asked + 5
    assert (tmp_path / "r" / "depth" / "f0.safetensors").stat().st_mtime_ns > depth


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("when", [3, 7, 12])
def test_a_stopped_run_goes_on_and_ends_with_the_same(when, tmp_path):
    frames, estimator = room_frames()
    settings = ReconstructionSettings(mesh=False)
    whole = reconstruct_frames(frames, tmp_path / "whole", estimator, settings)
    calls = 0

    def stop(what: str, share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            raise Killed

    with pytest.raises(Killed):
        reconstruct_frames(frames, tmp_path / "r", estimator, settings, stop)
    resumed = reconstruct_frames(frames, tmp_path / "r", estimator, settings)
    for name in ("points", "colors", "normals", "confidence"):
        assert torch.equal(getattr(resumed.cloud, name), getattr(whole.cloud, name))


def test_progress_only_goes_up(tmp_path):
    frames, estimator = room_frames()
    shares = []
    reconstruct_frames(frames, tmp_path / "r", estimator, on_progress=lambda what, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_without_a_cloud_the_scale_comes_from_the_cameras(tmp_path):
    images, depth, cameras = textured_wall(3.0, 0.3)
    levels = (images * 255).round().to(torch.uint8)
    frames, _ = room_frames(places=(0.0, 0.1, 0.2, 0.3), with_cloud=False)
    frames = replace(frames, cameras=cameras, read=lambda index: levels[index])
    result = reconstruct_frames(frames, tmp_path / "r", WarpedTruth(images, depth), replace(QUICK, refine=True))
    assert "triangulated" in result.record["notes"][0]
    found, _, _ = result.depth("f1")
    inner = (slice(10, -10), slice(24, -24))
    assert float((found / depth[1] - 1).abs()[inner].median()) < 0.01


def test_one_frame_gives_what_one_frame_can(tmp_path):
    frames, estimator = room_frames(places=(0.0,), with_cloud=False)
    result = reconstruct_frames(frames, tmp_path / "r", estimator, ReconstructionSettings(mesh=False))
    assert "one frame only" in result.record["notes"][0]
    assert len(result.cloud) > 5000
    assert float(result.cloud.confidence.max()) <= 0.503  # nobody confirms it


def test_cameras_that_only_turn_are_told_and_still_give_a_cloud(tmp_path):
    cameras = Cameras.cat([look(0.0, yaw) for yaw in (0.0, 8.0, 16.0)])
    images, depth = see_room(cameras)
    frames, _ = room_frames(places=(0.0, 0.1, 0.2), with_cloud=False)
    levels = (images * 255).round().to(torch.uint8)
    frames = replace(frames, cameras=cameras, read=lambda index: levels[index])
    result = reconstruct_frames(frames, tmp_path / "r", WarpedTruth(images, depth), ReconstructionSettings(mesh=False))
    assert "only turn" in result.record["notes"][0]
    assert result.record["steps"]["depth"]["figures"]["alone"] == 3
    assert len(result.cloud) > 5000
    assert float(result.cloud.points[:, 0].max()) > 2.5  # the right wall, that the first frame hardly shows


def test_only_sky_is_refused_in_one_sentence(tmp_path):
    frames, _ = room_frames(with_cloud=False)
    with pytest.raises(InputError, match="only sky"):
        reconstruct_frames(frames, tmp_path / "r", SkyOnly(), QUICK)
    frames, _ = room_frames()
    with pytest.raises(InputError, match="no frame has a depth"):
        reconstruct_frames(frames, tmp_path / "r", SkyOnly(), QUICK)


def test_depth_that_is_not_finite_costs_its_frames_only(tmp_path):
    frames, _ = room_frames()
    result = reconstruct_frames(frames, tmp_path / "r", NotANumber(), QUICK)
    figures = result.record["steps"]["align"]["figures"]
    assert figures["frames"]["failed"] == 3
    assert "finite" in figures["reasons"]["f0"]
    assert len(result.cloud) > 1000


def test_frames_without_overlap_are_named_and_the_rest_is_kept(tmp_path):
    cameras = Cameras.cat([look(0.0, 0.0), look(0.2, 0.0), look(0.0, 180.0)])
    images, depth = see_room(cameras)
    frames, _ = room_frames(places=(0.0, 0.2, 0.4))
    levels = (images * 255).round().to(torch.uint8)
    frames = replace(frames, cameras=cameras, read=lambda index: levels[index])
    result = reconstruct_frames(frames, tmp_path / "r", WarpedTruth(images, depth, spread=0.0), QUICK)
    figures = result.record["steps"]["align"]["figures"]
    assert figures["frames"]["aligned"] == 2
    assert "f2" in figures["reasons"]
    assert len(result.cloud) > 5000


def test_unfinished_and_damaged_clips_are_left_out_with_a_note(world):
    (world.clips[1].folder / "done").unlink()
    frames = PosedFrames.of_world(world)
    assert frames.notes == ("clips that are not finished are left out: 001-orbit-up-5",)
    assert len(frames) == 1 + 3
    picture = world.clips[0].folder / "frames" / "003.png"
    picture.write_bytes(picture.read_bytes()[:200])
    frames = PosedFrames.of_world(world)
    assert "003.png: the picture is damaged" in frames.notes[1]
    assert frames.names == ("input",)
    picture.unlink()
    frames = PosedFrames.of_world(world)
    assert "it has 3 frames but 4 cameras" in frames.notes[1]
    assert frames.names == ("input",)
    (world.clips[0].folder / "cameras.json").unlink()
    assert "cameras.json: no such file" in PosedFrames.of_world(world).notes[1]


def posed_folder(folder: Path) -> Path:
    """Three pictures of the room with their cameras."""
    frames, _ = room_frames(places=(0.0, 0.2, 0.4))
    names = [f"images/{index}.png" for index in range(3)]
    for index, name in enumerate(names):
        save_png(folder / name, frames.frame(index))
    write_transforms(folder / "transforms.json", frames.cameras, names)
    return folder


def test_a_damaged_picture_of_a_folder_is_left_out_with_a_note(tmp_path):
    folder = posed_folder(tmp_path / "input")
    damaged = folder / "images" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    frames = PosedFrames.of_folder(folder)
    assert frames.names == ("0000-0", "0002-2")
    assert frames.clips == ("input", "input")
    assert "1.png" in frames.notes[0]
    assert frames.frame(1).shape[0] == 3
    for index in (0, 2):
        (folder / "images" / f"{index}.png").write_bytes(damaged.read_bytes())
    with pytest.raises(InputError, match="no picture can be used"):
        PosedFrames.of_folder(folder)


@pytest.mark.parametrize("gone", ["depth/f1.safetensors", "cloud.safetensors", "mesh.safetensors"])
def test_a_result_that_is_gone_or_cut_short_is_made_again_with_what_follows(gone, tmp_path):
    frames, estimator = room_frames()
    settings = replace(QUICK, mesh=True)
    made = reconstruct_frames(frames, tmp_path / "r", estimator, settings)
    whole = (made.folder / gone).read_bytes()
    (made.folder / "splats.ply").write_bytes(b"of the old cloud")
    for harm in (Path.unlink, lambda path: path.write_bytes(whole[:100])):
        harm(made.folder / gone)
        again = reconstruct_frames(frames, tmp_path / "r", estimator, settings)
        assert (made.folder / gone).read_bytes() == whole
        assert len(again.mesh.faces) > 100
        assert all(step["done"] for step in again.record["steps"].values())


def test_a_record_that_does_not_name_its_files_is_believed(tmp_path):
    frames, estimator = room_frames()
    made = reconstruct_frames(frames, tmp_path / "r", estimator, QUICK)
    path = made.folder / "reconstruction.json"
    record = json.loads(path.read_text())
    for step in record["steps"].values():
        del step["files"]
    path.write_text(json.dumps(record))
    asked = estimator.asked
    reconstruct_frames(frames, tmp_path / "r", estimator, QUICK)
    assert estimator.asked == asked


@pytest.mark.parametrize(
    ("steps", "field"), [([], "steps"), ({"cloud": 1}, "steps.cloud"), ({"cloud": {"done": True}}, "steps.cloud.key")]
)
def test_a_record_of_another_shape_is_refused_by_its_field(steps, field, tmp_path):
    folder = ReconstructionFolder(tmp_path)
    folder.begin(("input",), ())
    path = tmp_path / "reconstruction.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": steps}))
    with pytest.raises(InputError, match=f"its field '{field}'"):
        _ = folder.has_cloud


def test_steps_do_not_depend_on_those_that_merely_came_before_them(tmp_path):
    folder = ReconstructionFolder(tmp_path)
    folder.begin(("input",), ())
    for step in ("align", "depth", "cloud", "splats", "mesh"):
        folder.prepare(step, {"key": 1})
        if step in ("splats", "mesh"):
            (tmp_path / f"{step}.safetensors").write_bytes(b"made")
        folder.finish(step, {})
    (tmp_path / "splats.ply").write_bytes(b"made")
    assert folder.prepare("splats", {"key": 2})
    assert (tmp_path / "mesh.safetensors").exists()
    assert not (tmp_path / "splats.safetensors").exists()
    assert not (tmp_path / "splats.ply").exists()
    assert folder.prepare("cloud", {"key": 2})
    assert not (tmp_path / "mesh.safetensors").exists()
    assert set(folder.record["steps"]) == {"align", "depth", "cloud"}


def test_a_mesh_without_triangles_is_no_file_and_no_error(tmp_path, monkeypatch):
    nothing = TriangleMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    monkeypatch.setattr("worldstereo.reconstruction.reconstruct.build_mesh", lambda field, cloud: nothing)
    frames, estimator = room_frames()
    made = reconstruct_frames(frames, tmp_path / "r", estimator, replace(QUICK, mesh=True))
    assert made.record["steps"]["mesh"]["figures"]["triangles"] == 0
    assert not made.has_mesh
    finish_reconstruction(made)
    assert (made.folder / "point_cloud.ply").exists()


def test_clips_of_another_size_are_resized_with_their_cameras(world):
    clip = world.clips[0]
    write_official(clip.folder / "cameras.json", clip.cameras.resized(72, 48))
    for path in sorted((clip.folder / "frames").glob("*.png")):
        save_png(path, torch.zeros(3, 48, 72))
    frames = PosedFrames.of_world(world)
    assert "resized from 72×48" in frames.notes[0]
    assert frames.frame(1).shape == (3, 96, 144)
    assert (frames.cameras.width, frames.cameras.height) == (144, 96)


def test_a_folder_with_other_things_is_refused_untouched(tmp_path):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "mine.txt").write_text("mine")
    frames, estimator = room_frames()
    with pytest.raises(InputError, match="not empty and holds no reconstruction"):
        reconstruct_frames(frames, tmp_path, estimator, QUICK)
    assert (tmp_path / "depth" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("field", "value", "option"), [("neighbours", 0, "neighbours"), ("least_confidence", 1.0, "confidence")]
)
def test_settings_out_of_range_are_named(field, value, option):
    with pytest.raises(InputError, match=f"--{option}"):
        replace(ReconstructionSettings(), **{field: value})


def test_damaged_files_are_named(tmp_path):
    frames, estimator = room_frames()
    result = reconstruct_frames(frames, tmp_path / "r", estimator, QUICK)
    (result.folder / "cloud.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"cloud\.safetensors: is damaged"):
        _ = ReconstructionFolder(result.folder).cloud
    with pytest.raises(InputError, match="no such file"):
        result.depth("nothing")


def test_the_command_reconstructs_a_world_and_survives_a_kill(world):
    arguments = (world.folder, "--quiet", "--depth", "nano", "--splats", "0")
    process = subprocess.Popen([sys.executable, "-m", "worldstereo.cli", "reconstruct", *map(str, arguments)])
    working = world.folder / "reconstruction" / "working" / "aligned"
    deadline = time.monotonic() + 240
    while not list(working.glob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run_command("reconstruct", *arguments)
    assert done.returncode == 0, done.stderr
    assert "7 frames" in done.stdout
    folder = world.folder / "reconstruction"
    record = json.loads((folder / "reconstruction.json").read_text())
    assert record["conventions"]["axes"].startswith("OpenCV")
    assert len(read_ply(folder / "point_cloud.ply")) == record["steps"]["cloud"]["figures"]["points"]
    assert (folder / "mesh.glb").stat().st_size > 1000
    assert "cloud: points" in (world.folder / "report.html").read_text()
    assert not list(Path(folder).rglob(".writing-*"))


def test_the_command_reconstructs_a_folder_and_refuses_what_is_neither(tmp_path, monkeypatch):
    folder = posed_folder(tmp_path / "photos")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    refused = run_command("reconstruct", folder, "--quiet", "--out", foreign)
    assert refused.returncode == 2
    assert "holds no reconstruction" in refused.stderr
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    monkeypatch.chdir(folder)
    done = run_command("reconstruct", ".", "--quiet", "--no-mesh")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "photos.reconstruction"
    assert (made / "point_cloud.ply").is_file()
    record = json.loads((made / "reconstruction.json").read_text())
    assert len(read_splat_ply(made / "splats.ply").splats) == record["steps"]["splats"]["figures"]["splats"]
    assert "mesh" not in record["steps"]
    refused = run_command("reconstruct", tmp_path / "nothing", "--quiet")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
