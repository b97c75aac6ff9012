"""Novel views, outputs of others, camera control and revisits: closed forms, and the commands on tiny inputs."""

import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from box_room import look, see_room
from conftest import run_command
from test_ladder import write_capture
from tiny_networks import FRAMES, write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale, parse_trajectory
from worldstereo.data.captures import find_captures
from worldstereo.data.posed_video import read_posed_video
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.nano import NanoDepth
from worldstereo.errors import InputError
from worldstereo.evaluation import structure_from_motion
from worldstereo.evaluation.camera_control import CameraControlConfig, control_figures, evaluate_camera_control
from worldstereo.evaluation.ladder_clips import clip_of_frames
from worldstereo.evaluation.learned_measures import LearnedMeasures
from worldstereo.evaluation.methods import CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH, find_methods
from worldstereo.evaluation.novel_views import NovelViewsConfig, evaluate_novel_views, view_figures
from worldstereo.evaluation.outputs import OutputsConfig, evaluate_outputs, matching
from worldstereo.evaluation.protocol import file_names
from worldstereo.evaluation.revisit_protocol import RevisitsConfig, evaluate_revisits
from worldstereo.evaluation.surfaces import read_points
from worldstereo.evaluation.world_revisits import WorldFrames, world_revisit_figures
from worldstereo.exporters.ply import write_ply
from worldstereo.files import read_json, write_json
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.images import save_depth_png16, save_png
from worldstereo.memory.global_geometric import GlobalGeometricMemory

BASELINES = [CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH]


def rows_of(out: Path, name: str, group: int = 0) -> dict[str, dict[str, float]]:
    """The means of a report."""
    rows = json.loads((out / f"{name}.json").read_text())["sets"][group]["rows"]
    return {row: {key: mean["mean"] for key, mean in value["figures"].items()} for row, value in rows.items()}


# Camera control


def path(count: int = 9, step: float = 0.25, yaw: float = 2.0) -> Cameras:
    """Straight to the right while turning."""
    return Cameras.cat([look(step * k, yaw * k) for k in range(count)])


def test_the_commanded_cameras_are_right_whatever_their_world():
    commanded = path()
    turn, shift = look(0.0, 33.0).cam_from_world[0, :3, :3], torch.tensor([3.0, -1.0, 2.0])
    found = list(commanded.transformed(turn, shift, scale=0.2).cam_from_world)
    figures, reason = control_figures(found, commanded)
    assert reason == ""
    assert figures["right"] == 100
    assert figures["rotation_error"] == pytest.approx(0, abs=0.05)
    assert figures["translation_error"] == pytest.approx(0, abs=0.01)
    assert (figures["lost"], figures["failed"]) == (0, 0)


def test_a_path_that_turns_half_as_much_again():
    """Camera k turns 2.9k° instead of 2k°: 0.9k degrees too much, mean 4.05; five of eight are within 5°."""
    figures, _ = control_figures(list(path(yaw=2.9).cam_from_world), path(), metric=True)
    assert figures["rotation_error"] == pytest.approx(4.05, abs=0.01)
    assert figures["right"] == pytest.approx(100 * 5 / 8)
    assert figures["translation_error"] == pytest.approx(0, abs=0.01)


def test_a_path_that_drifts_aside_metrically():
    """Camera k of 8 stands 0.9k % of the path's length too far on: mean 4.05 %; five of eight are within 5 %."""
    drifted = Cameras.cat([look(0.25 * k + 0.018 * k, 0.0) for k in range(9)])
    figures, _ = control_figures(list(drifted.cam_from_world), path(yaw=0.0), metric=True)
    assert figures["translation_error"] == pytest.approx(4.05, abs=0.01)
    assert figures["right"] == pytest.approx(100 * 5 / 8)
    assert figures["rotation_error"] == pytest.approx(0, abs=0.01)
    scaled, _ = control_figures(list(drifted.cam_from_world), path(yaw=0.0))
    assert scaled["translation_error"] == pytest.approx(0, abs=0.01)  # a similarity takes all of it


def test_failures_are_counted_not_dropped():
    commanded = path()
    found = [pose if k % 2 == 0 else None for k, pose in enumerate(commanded.cam_from_world)]
    figures, reason = control_figures(found, commanded)
    assert reason == ""
    assert (figures["lost"], figures["right"], figures["failed"]) == (50, 50, 0)
    failed, reason = control_figures([commanded.cam_from_world[0], *[None] * 8], commanded)
    assert (failed["lost"], failed["right"], failed["failed"]) == (100, 0, 100)
    assert failed["rotation_error"] is None
    assert "1 of 9" in reason
    still, reason = control_figures([commanded.cam_from_world[0]] * 9, commanded)
    assert still["failed"] == 100
    assert "do not move" in reason


@pytest.mark.skipif(not structure_from_motion.is_available(), reason="pycolmap is not installed")
def test_structure_from_motion_finds_the_cameras_of_true_frames():
    scene = ProceduralScene.sample(3, kind="room")
    start = scene.sample_cameras(1, 0, 320, 192, (65, 66))
    depth = scene.render(start).depth
    path = parse_trajectory("truck-right:0.2+orbit-left:10")
    commanded = path.cameras(start, SceneScale(float(depth[depth > 0].median())), 6)
    found = structure_from_motion.recover_cameras(scene.render(commanded).rgb.clamp(0, 1), commanded)
    figures, reason = control_figures(found, commanded)
    assert reason == ""
    assert figures["lost"] == 0
    assert figures["rotation_error"] < 1
    assert figures["translation_error"] < 3
    assert "pycolmap" not in sys.modules  # it would spoil this process's zlib


@pytest.mark.skipif(not structure_from_motion.is_available(), reason="pycolmap is not installed")
def test_frames_that_show_nothing_are_lost():
    commanded = Cameras.cat([look(0.15 * k, 0.0) for k in range(3)])
    assert structure_from_motion.recover_cameras(torch.full((3, 3, 80, 128), 0.5), commanded) == [None] * 3


def test_without_pycolmap_the_reason_and_the_way_out_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(structure_from_motion, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"worldstereo\[sfm\].*--estimator photometric"):
        CameraControlConfig(out=tmp_path / "out")
    with pytest.raises(InputError, match="needs the truth from everywhere"):
        CameraControlConfig(out=tmp_path / "out", estimator="photometric")


def test_camera_control_of_the_baselines(tmp_path):
    config = CameraControlConfig(
        out=tmp_path / "out",
        scenes=1,
        depth="exact",
        estimator="photometric",
        trajectories=("truck-right:0.2",),
        short_side=96,
        frames=3,
    )
    text = evaluate_camera_control(config).read_text()
    rows = rows_of(tmp_path / "out", "camera-control")
    assert list(rows) == ["truth", *BASELINES]
    assert rows["truth"]["right"] == 100
    assert rows["truth"]["translation_error"] < 1
    assert rows[PULL_PUSH]["translation_error"] < 0.5 * rows[NEAREST_FRAME]["translation_error"]
    assert rows[PULL_PUSH]["translation_error"] < 0.5 * rows[CONSTANT_DEPTH]["translation_error"]
    assert rows[NEAREST_FRAME]["right"] == 0  # it shows the first frame for ever
    for words in ("direct alignment of the true surfaces", "frames lost", "truck-right:0.2", "Depth: exact"):
        assert words in text


@pytest.mark.skipif(not structure_from_motion.is_available(), reason="pycolmap is not installed")
def test_the_camera_control_command_on_a_photo(room_photo, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(room_photo, tmp_path / "photos" / "room.png")
    options = ["--scenes", 0, "-t", "truck-right:0.1", "--short-side", 96, "--frames", 4, "--quiet"]
    done = run_command("evaluate", "camera-control", "--data", tmp_path / "photos", *options, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "COLMAP (pycolmap)" in done.stdout
    (one,) = json.loads((tmp_path / "out" / "camera-control.json").read_text())["sets"]
    assert one["set"] == "photos"
    figures = one["rows"][NEAREST_FRAME]["figures"]
    assert (figures["failed"]["mean"], figures["lost"]["mean"], figures["right"]["mean"]) == (100, 100, 0)


# Novel views


def test_the_truth_has_perfect_figures(tmp_path):
    video = read_posed_video(write_capture(tmp_path / "room", 4))
    clip = clip_of_frames(video, [0, 1, 2, 3], 128, 80, NanoDepth.load(), "captures")
    figures = view_figures(clip.frames, clip, LearnedMeasures())
    assert figures["psnr"] == figures["psnr_known"] == 100
    assert figures["ssim"] == pytest.approx(1)
    assert figures["rotation_error"] == pytest.approx(0, abs=0.02)
    assert figures["translation_error"] == pytest.approx(0, abs=0.2)
    darker = clip.frames - 0.1
    assert view_figures(darker, clip, LearnedMeasures())["psnr"] == pytest.approx(20, abs=1e-4)


def test_novel_views_of_a_capture(tmp_path):
    write_capture(tmp_path / "data" / "room", 6)
    write_capture(tmp_path / "data" / "short", 3)
    config = NovelViewsConfig(out=tmp_path / "out", data=tmp_path / "data", scenes=0, short_side=80, frames=4)
    text = evaluate_novel_views(config).read_text()
    rows = rows_of(tmp_path / "out", "novel-views")
    assert list(rows) == BASELINES
    assert rows[PULL_PUSH]["psnr_known"] > rows[NEAREST_FRAME]["psnr_known"] + 3
    assert rows[PULL_PUSH]["psnr"] > rows[CONSTANT_DEPTH]["psnr"]
    for words in ("short: a capture of 3 frames", "LPIPS: its weights", "Depth: stored", "PSNR_m"):
        assert words in text
    assert (tmp_path / "out" / "sheets" / "room.png").is_file()
    result = tmp_path / "out" / "clips" / "room.json"
    before = result.stat().st_mtime_ns
    evaluate_novel_views(config)
    assert result.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="novel-views with seed 0, not 1"):
        evaluate_novel_views(NovelViewsConfig(**{**vars(config), "seed": 1}))


def test_a_model_stands_beside_baselines_of_its_own_size(tmp_path):
    write_capture(tmp_path / "room", 7)
    model = str(write_paper_model(tmp_path / "tiny", latent_cond_mode="filled_render"))
    config = NovelViewsConfig(out=tmp_path / "out", models=(model,), data=tmp_path / "room", scenes=0, short_side=64)
    text = evaluate_novel_views(config).read_text()
    rows = rows_of(tmp_path / "out", "novel-views")
    assert list(rows) == [*BASELINES, model]
    assert f"--model {model}" in text
    assert "Differences from pull-push" in text
    (one,) = json.loads((tmp_path / "out" / "novel-views.json").read_text())["sets"]
    difference = one["rows"][model]["differences"][PULL_PUSH]["psnr"]["mean"]
    assert difference == pytest.approx(rows[model]["psnr"] - rows[PULL_PUSH]["psnr"])
    frames = {method.name: method.create().frames for method in find_methods((model,))}
    assert frames == dict.fromkeys([*BASELINES, model], FRAMES)


# Outputs of others


def write_outputs(folder: Path, truth: Path, *, scale: float, darker: float) -> Path:
    """The truth's own frames in another world and unit, darker, with a cloud."""
    video = read_posed_video(truth)
    turn = look(0.0, 50.0).cam_from_world[0, :3, :3]
    moved = video.cameras.transformed(turn, torch.tensor([1.0, 2.0, 3.0]), scale)
    pictures, depth = see_room(video.cameras)
    frames = []
    for k, picture in enumerate(video.pictures):
        save_png(folder / "frames" / picture.name, pictures[k] - darker)
        pose = {"K": moved.intrinsics[k].tolist(), "w2c": moved.cam_from_world[k].tolist()}
        frames.append({"image": f"frames/{picture.name}", "width": 128, "height": 80, **pose})
    write_json(folder / "cameras.json", {"convention": "opencv-w2c", "frames": frames})
    points = moved.unproject(depth * scale).view(-1, 3)[::3]
    write_ply(folder / "point_cloud.ply", PointCloud(points, torch.full_like(points, 0.5)))
    return folder


def curved_capture(folder: Path, count: int = 4) -> Path:
    """A capture whose cameras do not stand on a line."""
    write_capture(folder, count)
    value = read_json(folder / "cameras.json")
    lifted = Cameras.cat([look(0.1 * k, 2.0 * k) for k in range(count)])
    poses = lifted.cam_from_world.clone()
    for k in range(count):
        poses[k, 1, 3] = 0.05 * k * k
    cameras = Cameras(poses, lifted.intrinsics, 128, 80)
    pictures, depth = see_room(cameras)
    for k in range(count):
        save_png(folder / f"{k}.png", pictures[k])
        save_depth_png16(folder / f"{k}_depth.png", depth[k])
        value["frames"][k]["w2c"] = cameras.cam_from_world[k].tolist()
    write_json(folder / "cameras.json", value)
    return folder


def test_outputs_of_others_enter_the_table(tmp_path):
    truth = curved_capture(tmp_path / "truth")
    mine = write_outputs(tmp_path / "mine", truth, scale=3.0, darker=0.0)
    dark = write_outputs(tmp_path / "dark", truth, scale=0.5, darker=0.1)
    (tmp_path / "broken").mkdir()
    outputs = tuple(f"{folder.name}={folder}" for folder in (mine, dark, tmp_path / "broken"))
    text = evaluate_outputs(OutputsConfig(out=tmp_path / "out", data=truth, outputs=outputs, short_side=80)).read_text()
    rows = rows_of(tmp_path / "out", "outputs")
    assert list(rows) == [*BASELINES, "mine", "dark", "broken"]
    assert rows["mine"]["psnr"] > 45  # 8 bits
    assert rows["dark"]["psnr"] == pytest.approx(20, abs=0.3)
    for row in ("mine", "dark"):
        assert rows[row]["stated_rotation"] == pytest.approx(0, abs=0.05)
        assert rows[row]["stated_translation"] == pytest.approx(0, abs=0.1)
        assert rows[row]["f1_0.01"] > 0.95
    assert rows["mine"]["psnr"] > rows[PULL_PUSH]["psnr"]
    assert rows[PULL_PUSH]["precision"] > 0.9
    assert rows["broken"] == {"failed": 100}
    assert "- truth, broken: " in text


def test_clouds_along_a_straight_path_are_aligned_too(tmp_path):
    truth = write_capture(tmp_path / "truth", 4)
    for k, scale in enumerate((3.0, 0.37, 1.0)):
        write_outputs(tmp_path / f"mine{k}", truth, scale=scale, darker=0.0)
    outputs = tuple(f"mine{k}={tmp_path / f'mine{k}'}" for k in range(3))
    evaluate_outputs(OutputsConfig(out=tmp_path / "out", data=truth, outputs=outputs, short_side=80))
    rows = rows_of(tmp_path / "out", "outputs")
    for k in range(3):
        assert rows[f"mine{k}"]["f1_0.01"] > 0.95
        assert rows[f"mine{k}"]["failed"] == 0


def test_outputs_whose_cloud_cannot_be_aligned_keep_their_other_figures(tmp_path):
    truth = write_capture(tmp_path / "truth", 4)
    still = write_outputs(tmp_path / "still", truth, scale=1.0, darker=0.0)
    value = read_json(still / "cameras.json")
    for frame in value["frames"]:
        frame["w2c"] = value["frames"][0]["w2c"]
    write_json(still / "cameras.json", value)
    config = OutputsConfig(out=tmp_path / "out", data=truth, outputs=(f"still={still}",), short_side=80)
    text = evaluate_outputs(config).read_text()
    row = rows_of(tmp_path / "out", "outputs")["still"]
    assert row["psnr"] > 45
    assert row["failed"] == 0
    assert "f1_0.01" not in row
    assert "no figures of the cloud: " in text
    assert "do not move" in text


def test_results_of_other_data_are_not_taken_over(tmp_path):
    truth = write_capture(tmp_path / "truth", 4)
    mine = write_outputs(tmp_path / "mine", truth, scale=1.0, darker=0.0)
    config = OutputsConfig(out=tmp_path / "out", data=truth, outputs=(f"mine={mine}",), short_side=80)
    evaluate_outputs(config)
    evaluate_outputs(config)  # nothing has changed
    save_png(truth / "0.png", 1 - see_room(look(0.0, 0.0))[0][0])
    with pytest.raises(
        InputError, match=r"truth\.json: was measured from other data; choose another folder with --out"
    ):
        evaluate_outputs(config)


def test_no_two_rows_or_items_share_a_name(tmp_path):
    truth = write_capture(tmp_path / "truth", 4)
    mine = write_outputs(tmp_path / "mine", truth, scale=1.0, darker=0.0)
    twice = OutputsConfig(out=tmp_path / "out", data=truth, outputs=(f"mine={mine}", f"mine={truth}"), short_side=80)
    with pytest.raises(InputError, match="--output mine: the table has a row of that name already"):
        evaluate_outputs(twice)
    assert file_names(["a/b", "a-b", "A-B", "a-b-2", "c"]) == ["a-b", "a-b-2", "A-B-3", "a-b-2-2", "c"]


def test_a_capture_named_as_here_has_its_folder_s_name(tmp_path, monkeypatch):
    write_capture(tmp_path / "truth", 4)
    monkeypatch.chdir(tmp_path / "truth")
    assert list(find_captures(".")) == ["truth"]


def test_the_command_in_a_report_can_be_run(tmp_path):
    truth = write_capture(tmp_path / "truth", 4)
    mine = write_outputs(tmp_path / "mine", truth, scale=1.0, darker=0.0)
    config = OutputsConfig(out=tmp_path / "out", data=truth, outputs=(f"mine={mine}",), short_side=80)
    words = shlex.split(str(config.facts("outputs")["command"]))
    assert words[:3] == ["worldstereo", "evaluate", "outputs"]
    again = run_command(*words[1:], "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr


def test_frames_find_the_pictures_that_they_show(tmp_path):
    truth = read_posed_video(write_capture(tmp_path / "truth", 4))
    folder = write_outputs(tmp_path / "some", tmp_path / "truth", scale=1.0, darker=0.0)
    value = read_json(folder / "cameras.json")
    write_json(folder / "cameras.json", value | {"frames": [value["frames"][k] for k in (3, 1)]})
    assert matching(read_posed_video(folder), truth) == [3, 1]
    for name in ("3", "1"):
        (folder / "frames" / f"{name}.png").rename(folder / "frames" / f"other-{name}.png")
    write_json(
        folder / "cameras.json",
        value | {"frames": [value["frames"][k] | {"image": f"frames/other-{k}.png"} for k in (3, 1)]},
    )
    with pytest.raises(InputError, match=r"its 2 frames are neither named .* nor as many \(4\)"):
        matching(read_posed_video(folder), truth)


def test_the_outputs_command_says_what_is_wrong(tmp_path):
    done = run_command("evaluate", "outputs", "--data", tmp_path, "--output", "mine", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "--output mine: must be NAME=FOLDER" in done.stderr
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="array 'xyz'"):
        read_points(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", xyz=np.zeros((3, 2), np.float32))
    with pytest.raises(InputError, match="three a point"):
        read_points(tmp_path / "b.npz")


# Revisits


def looping_world(*, forgets: bool) -> WorldFrames:
    """Two clips to the right and back along one path, of the true room; or the second clip of a darker one."""
    there = [look(0.2 * min(k, 4 - k), 0.0) for k in range(5)]
    cameras = Cameras.cat([*there, *there])
    frames, depth = see_room(cameras)
    if forgets:
        frames = torch.cat([frames[:5], frames[5:] - 0.1])
    everything, first = (
        PointCloud(cameras[k].unproject(depth[k][None])[0].flatten(0, 1), frames[k].permute(1, 2, 0).flatten(0, 1))
        for k in (2, 0)
    )
    both = PointCloud.cat([first, everything])
    memories = [GlobalGeometricMemory(cloud, PointCloud.empty()) for cloud in (both, first)]
    return WorldFrames(frames, cameras, (0,) * 5 + (1,) * 5, *memories, radius=4.0)


def test_a_world_that_shows_the_same_again():
    figures = world_revisit_figures(looping_world(forgets=False))
    assert figures["closure"] == figures["closure_invented"] == 100
    assert figures["revisit"] > 30
    assert figures["loop"] > 30
    assert figures["shared"] > 50


def test_a_world_that_forgets_by_a_tenth():
    world = looping_world(forgets=True)
    meetings = world.meetings()
    assert (3, 1) in meetings  # within a clip
    assert (6, 1) in meetings  # and across
    assert not any(number in (0, 5) or other in (0, 5) for number, other in meetings)
    across = sum((number < 5) != (other < 5) for number, other in meetings)
    figures = world_revisit_figures(world)
    assert figures["closure"] == pytest.approx(20 - 10 * math.log10(across / len(meetings)), abs=0.01)
    assert figures["revisit"] == pytest.approx(20, abs=0.5)
    assert figures["loop"] > 30  # each clip agrees with itself


def test_revisits_of_the_baselines(tmp_path):
    config = RevisitsConfig(
        out=tmp_path / "out",
        scenes=1,
        depth="exact",
        short_side=64,
        frames=5,
        trajectories=("orbit-right:12+orbit-left:12", "orbit-right:12"),
    )
    text = evaluate_revisits(config).read_text()
    worlds, crossing = (rows_of(tmp_path / "out", "revisits", group) for group in (0, 1))
    assert list(worlds) == BASELINES
    assert list(crossing) == ["truth", *BASELINES]
    assert worlds[CONSTANT_DEPTH]["closure"] > 90  # consistent by construction, and wrong
    assert all(row["failed"] == 0 for row in worlds.values())
    assert "Consistency is not truth" in text
    assert (tmp_path / "out" / "worlds" / "procedural-900000000" / "pull-push" / "world.json").is_file()
