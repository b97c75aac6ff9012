"""The loop and its folder: content, resume after a kill, extension, refusal to overwrite."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_networks import write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_official
from worldstereo.depth import DepthPrediction
from worldstereo.depth.file import FileDepth
from worldstereo.errors import InputError
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World, exclusive

SMALL = Settings(trajectories=("orbit-right:8", "orbit-up:5"), short_side=96, frames=4)


class FlatDepth:
    """A wall at 3 units with a box before it: quick, and known."""

    name = "flat"

    def estimate(self, image, intrinsics=None, hint=None):
        height, width = image.shape[1:]
        depth = torch.full((height, width), 3.0)
        depth[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 2.0
        if hint is not None:
            depth = torch.where(hint > 0, hint, depth)
        return DepthPrediction(depth, torch.zeros(height, width, dtype=torch.bool), None, False, "flat")


@pytest.fixture
def pipeline() -> WorldPipeline:
    return WorldPipeline(WarpGenerator(), FlatDepth())


def frame_hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("clips/*/frames/*.png")) + sorted(folder.glob("clips/*/guidance/*/*.png"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_world_holds_what_its_page_says(pipeline, room_photo, tmp_path):
    world = pipeline(room_photo, tmp_path / "w", SMALL)
    assert [clip.name for clip in world.clips] == ["000-orbit-right-8", "001-orbit-up-5"]
    assert world.is_done
    for clip in world.clips:
        assert clip.frames.shape == (4, 3, 96, 144)
        assert len(clip.cameras) == 4
        assert clip.video.stat().st_size > 0
        assert torch.equal(clip.frames[0], world.picture)
        torch.testing.assert_close(clip.cameras.cam_from_world[0], world.camera.cam_from_world[0])
    manifest = json.loads((tmp_path / "w" / "world.json").read_text())
    assert manifest["conventions"]["poses"].startswith("cam_from_world")
    assert len(world.point_cloud) > 10_000
    kept = sorted(path.name for path in (tmp_path / "w" / "memory").iterdir())
    assert kept == ["cloud-001.safetensors", "input.safetensors"]


def test_the_same_request_again_changes_nothing_and_another_one_is_refused(pipeline, room_photo, tmp_path):
    folder = tmp_path / "w"
    pipeline(room_photo, folder, SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    pipeline(room_photo, folder, SMALL)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before
    with pytest.raises(InputError, match="another seed"):
        pipeline(room_photo, folder, replace(SMALL, seed=1))
    with pytest.raises(InputError, match="another trajectories"):
        pipeline(room_photo, folder, replace(SMALL, trajectories=("pan-left:5",)))


def test_files_of_other_content_make_another_world(pipeline, room_photo, tmp_path):
    camera, depth = tmp_path / "camera.json", tmp_path / "depth.npy"
    write_official(camera, Cameras.from_fov(60.0, 144, 96))
    np.save(depth, np.full((96, 144), 2.0, np.float32))
    settings = replace(SMALL, camera=camera, trajectories=("orbit-right:4",))
    from_file = WorldPipeline(WarpGenerator(), FileDepth(depth, 0.5, others=FlatDepth))
    from_file(room_photo, tmp_path / "w", settings)
    from_file(room_photo, tmp_path / "w", settings)
    with pytest.raises(InputError, match="another depth scale"):
        WorldPipeline(WarpGenerator(), FileDepth(depth, 2.0, others=FlatDepth))(room_photo, tmp_path / "w", settings)
    np.save(depth, np.full((96, 144), 3.0, np.float32))
    changed = WorldPipeline(WarpGenerator(), FileDepth(depth, 0.5, others=FlatDepth))
    with pytest.raises(InputError, match=r"made from other contents of .*depth\.npy"):
        changed(room_photo, tmp_path / "w", settings)


def test_weights_of_other_content_make_another_world(room_photo, tmp_path):
    model = write_paper_model(tmp_path / "model")
    settings = replace(SMALL, short_side=None, frames=None, trajectories=("orbit-right:4",))
    WorldPipeline.from_pretrained(str(model), depth="nano")(room_photo, tmp_path / "w", settings)
    weights = next(path for path in sorted(model.rglob("*.safetensors")) if "control" in str(path))
    tensors = {name: value + 0.01 for name, value in load_file(weights).items()}
    save_file(tensors, weights)
    with pytest.raises(InputError, match=r"made from other contents of .*model"):
        WorldPipeline.from_pretrained(str(model), depth="nano")(room_photo, tmp_path / "w", settings)


def test_a_world_from_before_files_had_fingerprints_is_still_the_same(pipeline, room_photo, tmp_path):
    pipeline(room_photo, tmp_path / "w", SMALL)
    path = tmp_path / "w" / "world.json"
    value = json.loads(path.read_text())
    for name in ("depth_scale", "file_fingerprint"):
        del value["request"][name]
    path.write_text(json.dumps(value))
    pipeline(room_photo, tmp_path / "w", SMALL)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_a_seed_out_of_range_is_refused_before_anything_is_written(seed):
    with pytest.raises(InputError, match=f"--seed {seed}: must lie between 0 and 4294967295"):
        replace(SMALL, seed=seed)


def test_a_folder_with_other_things_is_refused_untouched(pipeline, room_photo, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty .*notes\.txt"):
        pipeline(room_photo, tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_extending_keeps_the_finished_clips_and_can_leave_from_a_generated_frame(pipeline, room_photo, tmp_path):
    world = pipeline(room_photo, tmp_path / "w", replace(SMALL, trajectories=("orbit-right:8",)))
    before = frame_hashes(tmp_path / "w")
    pipeline.extend(world, ["pan-left:5"], start="0:3")
    after = frame_hashes(tmp_path / "w")
    assert {name: after[name] for name in before} == before
    clips = World(tmp_path / "w").clips
    assert [clip.name for clip in clips] == ["000-orbit-right-8", "001-pan-left-5"]
    assert torch.equal(clips[1].frames[0], clips[0].frames[3])
    torch.testing.assert_close(clips[1].cameras.cam_from_world[0], clips[0].cameras.cam_from_world[3])
    with pytest.raises(InputError, match="--start 7:0"):
        pipeline.extend(world, ["pan-left:5"], start="7:0")


@pytest.mark.parametrize("finished", [0, 1])
def test_extending_stopped_and_asked_for_again_adds_the_clips_once(pipeline, room_photo, tmp_path, finished):
    wanted = ["pan-left:5", "pan-right:5"]
    uninterrupted = pipeline(room_photo, tmp_path / "whole", replace(SMALL, trajectories=("orbit-right:8",)))
    pipeline.extend(uninterrupted, wanted)
    world = pipeline(room_photo, tmp_path / "w", replace(SMALL, trajectories=("orbit-right:8",)))
    whole_clip = pipeline._make_clip
    made = []

    def stopped(world, index, *rest):
        if len(made) == finished:
            raise KeyboardInterrupt
        made.append(index)
        whole_clip(world, index, *rest)

    pipeline._make_clip = stopped
    with pytest.raises(KeyboardInterrupt):
        pipeline.extend(world, wanted)
    del pipeline._make_clip
    pipeline.extend(World(tmp_path / "w"), wanted)
    assert frame_hashes(tmp_path / "w") == frame_hashes(tmp_path / "whole")
    assert len(World(tmp_path / "w").clips) == 3
    pipeline.extend(World(tmp_path / "w"), ["pan-left:5"])
    assert len(World(tmp_path / "w").clips) == 4


def test_one_process_at_a_time(tmp_path):
    with exclusive(tmp_path), pytest.raises(InputError, match="another process"), exclusive(tmp_path):
        pass


def test_a_truncated_manifest_is_named(tmp_path):
    (tmp_path / "world.json").write_text('{"format": "worldstereo-world", "version": 2}')
    with pytest.raises(InputError, match=r"world\.json.*request"):
        World(tmp_path)


def test_a_folder_called_input_is_not_taken_for_a_killed_run(pipeline, room_photo, tmp_path):
    (tmp_path / "input").mkdir()
    with pytest.raises(InputError, match=r"not empty .*input"):
        pipeline(room_photo, tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


def test_what_a_run_killed_while_it_wrote_left_does_not_hinder_the_next(pipeline, room_photo, tmp_path, whole):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".lock").touch()
    (tmp_path / "w" / ".writing-01234567-world.json").write_text("{")
    pipeline(room_photo, tmp_path / "w", SMALL)
    assert frame_hashes(tmp_path / "w") == frame_hashes(whole.folder)
    assert not list((tmp_path / "w").rglob(".writing-*"))


def test_a_run_that_is_refused_leaves_no_folder(pipeline, room_photo, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        pipeline(room_photo, tmp_path / "w", replace(SMALL, camera=tmp_path / "missing.json"))
    assert not (tmp_path / "w").exists()


def test_a_world_that_comes_to_be_before_the_lock_is_held_is_not_overwritten(
    pipeline, room_photo, tmp_path, monkeypatch
):
    folder = tmp_path / "w"
    check = World.require_same_or_new
    calls = []

    def slow(out: Path, request: object) -> None:
        check(out, request)
        if not calls:
            calls.append(out)
            monkeypatch.undo()
            pipeline(room_photo, out, replace(SMALL, seed=1))

    monkeypatch.setattr(World, "require_same_or_new", staticmethod(slow))
    with pytest.raises(InputError, match="another seed"):
        pipeline(room_photo, folder, SMALL)
    assert World(folder).manifest.request.seed == 1


def test_extending_sees_what_another_process_added_meanwhile(pipeline, room_photo, tmp_path):
    stale = pipeline(room_photo, tmp_path / "w", replace(SMALL, trajectories=("orbit-right:8",)))
    pipeline.extend(World(tmp_path / "w"), ["pan-left:5"])
    pipeline.extend(stale, ["pan-right:5"])
    names = [clip.name for clip in World(tmp_path / "w").clips]
    assert names == ["000-orbit-right-8", "001-pan-left-5", "002-pan-right-5"]


def test_finished_clips_outlive_their_manifest_but_not_another_request(pipeline, room_photo, tmp_path, whole):
    folder = tmp_path / "w"
    whole.save(folder)
    (folder / "world.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("clips/*/frames/*.png")}
    pipeline(room_photo, folder, SMALL)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (folder / "world.json").unlink()
    other = replace(SMALL, trajectories=("orbit-right:8", "orbit-up:7"))
    world = pipeline(room_photo, folder, other)
    assert world.is_done
    afresh = pipeline(room_photo, tmp_path / "afresh", other)
    for clip, expected in zip(world.clips, afresh.clips, strict=True):
        assert torch.equal(clip.frames, expected.frames)
    assert torch.equal(world.point_cloud.points, afresh.point_cloud.points)


@pytest.mark.parametrize("gone", ["clips/000-orbit-right-8/done", "memory/cloud-001.safetensors"])
def test_what_is_missing_in_the_middle_is_made_again_with_all_that_follows(pipeline, room_photo, tmp_path, whole, gone):
    whole.save(tmp_path / "w")
    (tmp_path / "w" / gone).unlink()
    world = World(tmp_path / "w")
    assert not world.is_done
    pipeline(room_photo, tmp_path / "w", SMALL)
    assert world.is_done
    assert frame_hashes(tmp_path / "w") == frame_hashes(whole.folder)
    assert torch.equal(world.point_cloud.points, whole.point_cloud.points)


KILLED_RUN = """
import sys
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from test_world import SMALL, FlatDepth, WarpGenerator, WorldPipeline
WorldPipeline(WarpGenerator(), FlatDepth())({photo!r}, {out!r}, SMALL)
"""


@pytest.fixture(scope="module")
def whole(room_photo, tmp_path_factory) -> World:
    return WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path_factory.mktemp("whole") / "w", SMALL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize(
    "killed_after",
    [
        "input/picture.png",
        "clips/000-orbit-right-8/frames/002.png",
        "memory/cloud-000.safetensors",
        "clips/001-orbit-up-5/video.mp4",
    ],
)
def test_killed_anywhere_and_run_again_gives_the_same_bytes(pipeline, whole, room_photo, tmp_path, killed_after):
    out = tmp_path / "killed"
    code = KILLED_RUN.format(tests=str(Path(__file__).parent), photo=str(room_photo), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and not (out / killed_after).exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    world = pipeline(room_photo, out, SMALL)
    assert frame_hashes(out) == frame_hashes(whole.folder)
    assert torch.equal(world.point_cloud.points, whole.point_cloud.points)
    assert not list(out.rglob(".writing-*"))
