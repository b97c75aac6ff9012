"""Many scenes: the list, the order, workers that break down, two batches on one folder, and the real command."""

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from batch_parts import Actor, NoStarter, content, wait_for
from conftest import run_command
from test_world import frame_hashes
from tiny_networks import write_paper_model
from worldstereo.data.procedural import ProceduralScene
from worldstereo.errors import InputError
from worldstereo.exporters.world import finish_once
from worldstereo.images import save_png
from worldstereo.pipelines import loading, prompts
from worldstereo.pipelines.batch import Board, Ending, Failure, Figures, Models, Outcome, Scene, run_batch
from worldstereo.pipelines.failures import FailureLog
from worldstereo.pipelines.generator_options import GeneratorOptions
from worldstereo.pipelines.scene_list import read_scenes
from worldstereo.pipelines.scene_maker import SceneMaker
from worldstereo.pipelines.workers import LocalWorkers
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World, exclusive

WARP = Models("warp")
TINY = {"model": "warp", "short-side": 64, "frames": 3, "trajectory": "orbit-right:4"}


def scene(name: str, **models) -> Scene:
    return Scene(name, Path(f"{name}.png"), models=Models(**models))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three rooms, 96×64."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(3):
        room = ProceduralScene.sample(3 + index, kind="room")
        save_png(folder / f"room-{index}.png", room.render(room.sample_cameras(1, 0, 96, 64, (65, 66))).rgb[0])
    return sorted(folder.iterdir())


def write_list(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# The list


def test_a_line_means_what_the_options_of_generate_mean(tmp_path):
    path = write_list(
        tmp_path / "list.jsonl",
        {"picture": "a/temple.jpg"},
        {
            "picture": "hall.png",
            "out": "hall-2",
            "trajectory": ["orbit-right:30", "dolly-in:0.2"],
            "short-side": 64,
            "fov": 70,
            "seed": 3,
            "depth": "depth.npy",
            "depth_scale": 0.5,
            "camera": None,
        },
        {"picture": "c.png", "guidance": 3},
    )
    plain, full, guided = read_scenes(path)
    assert str(guided.models.options.guidance) == "3.0"  # as the command line has it, for it stands in world.json
    assert plain == Scene("temple", Path("a/temple.jpg"), Settings(), Models())
    settings = Settings(trajectories=("orbit-right:30", "dolly-in:0.2"), short_side=64, default_fov=70.0, seed=3)
    assert full == Scene("hall-2", Path("hall.png"), settings, Models(depth="depth.npy", depth_scale=0.5))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"seed": 1}', "'picture' is missing"),
        ('{"picture": 3}', "'picture' is 3"),
        ('{"picture": "a.png", "frames": "9"}', "'frames' is \"9\" but must be a whole number"),
        ('{"picture": "a.png", "frames": true}', "'frames' is true"),
        ('{"picture": "a.png", "frames": 1}', "--frames 1"),
        ('{"picture": "a.png", "fov": NaN}', "--fov nan"),
        ('{"picture": "a.png", "fov": 1' + 400 * "0" + "}", "'fov' is 10*.* but must be a number"),
        ('{"picture": "a.png", "frmaes": 9}', "'frmaes' is unknown"),
        ('{"picture": "a.png", "short-side": 64, "short_side": 96}', "twice"),
        ('{"picture": "a.png", "device": "cuda:0"}', "use --devices"),
        ('{"picture": "a.png", "trajectory": ["orbit-rihgt:3"]}', "'trajectory'.*orbit-right"),
        ('{"picture": "a.png", "trajectory": []}', "'trajectory' is \\[\\]"),
        ('{"picture": "a.png", "preset": "papre"}', "'preset'.*paper"),
        ('{"picture": "a.png", "preset": "paper", "trajectory": "orbit-right:3"}', "one of them"),
        ('{"picture": "a.png", "projection": "flat"}', "'projection'.*equirectangular"),
        ('{"picture": "a.png", "model": "sora"}', "sora"),
        ('{"picture": "a.png", "model": "warp", "prompt": "a hall"}', "takes no prompt"),
        ('{"picture": "a.png", "out": "../a"}', "cannot be called"),
        ('{"picture": "a.png", "out": "Failures.jsonl"}', "cannot be called"),
        ('{"picture": "a\\ud800.png"}', "'picture' is .* but must be a text"),
        ('{"picture": "a.png", "out": "\\udfff"}', "'out' is .* but must be a text"),
        ('{"picture": "b/good.jpg"}', "like that of line 1.*'out'"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_field(tmp_path, line, said):
    path = tmp_path / "list.jsonl"
    path.write_text('{"picture": "good.png"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=rf"list\.jsonl, line 3: .*{said}"):
        read_scenes(path)


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"picture": "a\u2028b.png", "prompt": "a\u0085b"}\r\n{"picture": "c.png"}\n', encoding="utf-8", newline=""
    )
    assert [scene.name for scene in read_scenes(path)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), (b"\n", "no scene"), (b"\xff\xfe", "UTF-8")])
def test_a_list_that_is_none_is_named(tmp_path, content, said):
    path = tmp_path / "list.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"list\.jsonl.*{said}"):
        read_scenes(path)


# The states


def test_scenes_of_one_generator_come_one_after_the_other():
    board = Board([scene("a", model="x/y"), scene("b"), scene("c", model="x/y")])
    assert [board.take().name for _ in range(3)] == ["a", "c", "b"]
    assert board.take() is None
    assert not board.is_over


def test_a_crash_is_tried_again_after_the_others_and_a_refusal_is_not():
    board = Board([scene("a"), scene("b")], attempts=2)
    first = board.take()
    assert board.record(Outcome(first, Ending.CRASHED, "broke")) is None
    second = board.take()
    assert second.name == "b"
    assert board.record(Outcome(second, Ending.FAILED, "bad")) == Failure(second, "bad", 1)
    assert board.take() is first
    assert board.record(Outcome(first, Ending.CRASHED, "broke", "trace")) == Failure(first, "broke", 2, "trace")
    assert board.is_over
    assert board.figures(60.0).failed == 2


def test_a_scene_of_another_process_is_looked_at_twice():
    board = Board([scene("a"), scene("b")])
    board.record(Outcome(board.take(), Ending.BUSY))
    board.record(Outcome(board.take(), Ending.MADE))
    board.record(Outcome(board.take(), Ending.BUSY))
    assert board.is_over
    assert board.figures(30.0) == Figures(made=1, found=0, failed=0, elsewhere=1, left=0, seconds=30.0)


def test_a_full_disk_stops_the_batch():
    board = Board([scene("a"), scene("b"), scene("c")])
    running, other = board.take(), board.take()
    board.record(Outcome(running, Ending.STOPPED, "the disk is full"))
    assert board.take() is None
    assert not board.is_over
    board.record(Outcome(other, Ending.CRASHED, "broke"))
    assert board.is_over
    assert board.stopped == "the disk is full"


def test_throughput_counts_what_was_made_and_the_time_left_follows():
    figures = Figures(made=6, found=100, failed=1, elsewhere=0, left=9, seconds=120.0)
    assert figures.per_minute == 3
    assert figures.seconds_left == 180
    assert str(figures) == "106 done, 1 failed, 9 left; 3 scenes a minute, 3 min to go"
    assert Figures(0, 5, 0, 0, 2, 10.0).seconds_left is None


def test_failures_are_the_scenes_that_failed_last_whoever_wrote_them(tmp_path):
    ours, theirs = FailureLog(tmp_path), FailureLog(tmp_path)
    ours.add(Failure(scene("a"), "bad", 1))
    theirs.add(Failure(scene("b"), "worse", 2, "Traceback"))
    theirs.add(Failure(scene("b"), "worst", 3))
    lines = [json.loads(line) for line in ours.path.read_text().splitlines()]
    assert lines == [
        {"scene": "a", "picture": "a.png", "error": "bad", "attempts": 1},
        {"scene": "b", "picture": "b.png", "error": "worst", "attempts": 3},
    ]
    FailureLog(tmp_path).forget("b")
    strange = "a\u2028\u0085b"
    ours.add(Failure(scene(strange), "bad\u2029", 1))
    FailureLog(tmp_path).forget(strange)
    ours.forget("a")
    assert not ours.path.exists()
    ours.path.write_text("{")
    with pytest.raises(InputError, match=r"failures\.jsonl: is damaged; delete it"):
        FailureLog(tmp_path)


# Workers


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_worker_that_breaks_down_harms_its_own_scene_alone(tmp_path):
    names = ["killer", "good-1", "stumbler", "leaver", "good-2", "odd", "good-3"]
    board = Board(map(scene, names), attempts=2)
    made: list[Outcome] = []
    workers = LocalWorkers(partial(Actor, tmp_path), ["cpu", "cpu"], threads=3)
    run_batch(board, workers, lambda outcome, failure: made.append(outcome))
    assert {out.scene.name for out in made if out.ending is Ending.MADE} == {"good-1", "good-2", "good-3", "stumbler"}
    assert all(out.notice.startswith("3 ") for out in made if out.ending is Ending.MADE)  # threads as asked for
    errors = {failure.scene.name: (failure.attempts, failure.error) for failure in board.failures}
    assert errors["killer"][0] == errors["leaver"][0] == errors["odd"][0] == 2
    assert "killer.png: its worker was ended by SIGKILL" in errors["killer"][1]
    assert "ended with code 7" in errors["leaver"][1]
    assert len(errors) == 3


def test_workers_that_never_start_are_one_sentence():
    workers = LocalWorkers(NoStarter, ["cpu"], threads=1)
    with pytest.raises(InputError, match="ended with code 3 before it could begin, 3 times"):
        run_batch(Board([scene("a"), scene("b")], attempts=5), workers, lambda outcome, failure: None)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from functools import partial
from pathlib import Path
from batch_parts import Actor
from worldstereo.pipelines.batch import Board, Scene, run_batch
from worldstereo.pipelines.workers import LocalWorkers
if __name__ == "__main__":
    workers = LocalWorkers(partial(Actor, Path({folder!r})), ["cpu"], 1)
    run_batch(Board([Scene("sleeper", Path("sleeper.png"))]), workers, lambda outcome, failure: None)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_workers_end_with_a_batch_that_is_killed(tmp_path):
    script = tmp_path / "batch.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, script]) as batch:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 120)
        batch.kill()
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(pid), 20)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# Scenes


def maker(out: Path, *scenes: Scene) -> SceneMaker:
    return SceneMaker(out, finish_once, "none", True, Board(scenes).expected, "cpu")


def tiny(picture: Path) -> Scene:
    return Scene(picture.stem, picture, Settings(trajectories=("orbit-right:4",), short_side=64, frames=3), WARP)


def test_a_scene_is_made_once_and_models_stay_loaded(pictures, tmp_path, monkeypatch):
    make = maker(tmp_path)
    assert make(tiny(pictures[0])).ending is Ending.MADE
    report = tmp_path / "room-0" / "report.html"
    written = report.stat().st_mtime_ns
    monkeypatch.setattr("worldstereo.pipelines.scene_maker.create_depth_estimator", None)
    assert make(tiny(pictures[0])).ending is Ending.FOUND
    assert report.stat().st_mtime_ns == written
    report.unlink()  # as if the run had been killed before it was written
    assert make(tiny(pictures[0])).ending is Ending.FOUND
    assert report.exists()
    other = Scene(
        "room-0", pictures[0], Settings(trajectories=("orbit-right:4",), short_side=64, frames=3, seed=1), WARP
    )
    refused = make(other)
    assert refused.ending is Ending.FAILED
    assert "another seed" in refused.error


@pytest.mark.parametrize(
    ("kind", "wishes"),
    [("published", ["a bright room", "the street"]), ("paper", ["", "ugly"])],
)
def test_a_prompt_for_each_scene_loads_the_networks_once(kind, wishes, pictures, tmp_path, monkeypatch):
    """So does the text encoder, where there is one; and the worlds are those of single runs, videos included."""
    published = f"{Path(__file__).parent}/data/parity/hub:worldstereo-camera"
    model = published if kind == "published" else str(write_paper_model(tmp_path / "model"))
    settings = Settings(trajectories=("orbit-right:4",))
    scenes = [
        Scene(picture.stem, picture, settings, Models(model, GeneratorOptions(prompt=prompt, steps=2, guidance=50.0)))
        for picture, prompt in zip(pictures[:2], wishes, strict=True)
    ]

    def alone(scene: Scene, picture: Path, folder: str) -> World:
        pipeline = WorldPipeline.from_pretrained(model, options=scene.models.options)
        world = pipeline(picture, tmp_path / folder / scene.name, settings)
        finish_once(world)
        return world

    singles = [alone(scene, scene.picture, "alone") for scene in scenes]
    loaded: list[str] = []

    def count(module, name: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: loaded.append(name) or original(*a, **k))

    count(loading.LoadedModel, "_load")
    count(prompts, "encode_batches")
    make = maker(tmp_path / "worlds", *scenes)
    for scene in scenes:
        outcome = make(scene)
        assert outcome.ending is Ending.MADE, outcome
    assert loaded == (["_load", "encode_batches"] if kind == "published" else ["_load"])
    for scene, single in zip(scenes, singles, strict=True):
        assert content(tmp_path / "worlds" / scene.name) == content(single.folder)
    other = alone(scenes[1], scenes[0].picture, "other")
    assert not torch.equal(other.clips[0].frames, singles[0].clips[0].frames), "the prompt has a say"


def test_the_number_of_threads_changes_no_byte(pictures, tmp_path):
    pipeline = WorldPipeline.from_pretrained("warp")
    before, made = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(pipeline(pictures[0], tmp_path / str(threads), tiny(pictures[0]).settings))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert frame_hashes(made[0].folder) == frame_hashes(made[1].folder)
    assert torch.equal(made[0].point_cloud.points, made[1].point_cloud.points)


def test_a_scene_that_another_process_makes_is_left_alone(pictures, tmp_path):
    with exclusive(tmp_path / "room-0"):
        assert maker(tmp_path)(tiny(pictures[0])).ending is Ending.BUSY
        assert [path.name for path in (tmp_path / "room-0").iterdir()] == [".lock"]


def test_a_bad_picture_leaves_no_folder(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    outcome = maker(tmp_path / "worlds")(tiny(tmp_path / "bad.png"))
    assert outcome.ending is Ending.FAILED
    assert "bad.png" in outcome.error
    assert not (tmp_path / "worlds").exists()


def test_what_nobody_foresaw_has_a_sentence_and_a_traceback(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(WorldPipeline, "start", lambda *_: 1 / 0)
    outcome = maker(tmp_path)(tiny(pictures[0]))
    assert outcome.ending is Ending.CRASHED
    assert "room-0.png: an unforeseen error ended the work (ZeroDivisionError" in outcome.error
    assert "Traceback" in outcome.details
    assert not (tmp_path / "room-0").exists()


def test_a_full_disk_is_told_from_a_bad_scene(pictures, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    outcome = maker(tmp_path)(tiny(pictures[0]))
    assert outcome.ending is Ending.STOPPED
    assert "the disk is full" in outcome.error


# The command


def test_a_batch_equals_single_runs_reports_the_bad_scene_and_goes_on(pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    path = write_list(tmp_path / "list.jsonl", *({"picture": str(p)} | TINY for p in [pictures[0], bad, *pictures[1:]]))
    out = tmp_path / "worlds"
    done = run_command("batch", path, "--out", out, "--workers", 2)
    assert done.returncode == 1, done.stderr
    assert "worldstereo: 1 of 4 scenes failed;" in done.stderr
    assert "3 done, 1 failed, 0 left;" in done.stdout
    assert "Traceback" not in done.stderr
    (line,) = (out / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["scene"] == "bad"
    assert "bad.png" in json.loads(line)["error"]
    assert sorted(entry.name for entry in out.iterdir() if entry.is_dir()) == ["room-0", "room-1", "room-2"]
    single = WorldPipeline.from_pretrained("warp")
    for picture in pictures:
        alone = single(picture, tmp_path / "alone" / picture.stem, tiny(picture).settings)
        assert frame_hashes(out / picture.stem) == frame_hashes(alone.folder)
        assert (out / picture.stem / "report.html").exists()

    before = {file: file.stat().st_mtime_ns for file in out.glob("room-*/**/*") if file.is_file()}
    bad.write_bytes(pictures[0].read_bytes())
    again = run_command("batch", path, "--out", out, "--quiet")
    assert again.returncode == 0, again.stderr
    assert "1 worlds made, 3 were finished before" in again.stdout
    assert not (out / "failures.jsonl").exists()
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_bad_list_or_option_is_one_sentence_before_any_work(pictures, tmp_path):
    good = {"picture": str(pictures[0])} | TINY
    bad = write_list(tmp_path / "bad.jsonl", good, good | {"frames": 0})
    refused = run_command("batch", bad, "--out", tmp_path / "worlds")
    assert refused.returncode == 2
    assert "bad.jsonl, line 2: --frames 0" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    path = write_list(tmp_path / "list.jsonl", good)
    refused = run_command("batch", path, "--out", tmp_path / "worlds", "--devices", "cpu,cuda:99")
    assert refused.returncode == 2
    assert "--device cuda:99" in refused.stderr
    assert not (tmp_path / "worlds").exists()


def test_a_batch_on_ray_makes_the_same(pictures, tmp_path):
    pytest.importorskip("ray")
    path = write_list(tmp_path / "list.jsonl", {"picture": str(pictures[0])} | TINY)
    done = run_command("batch", path, "--out", tmp_path / "worlds", "--ray", "local", "--workers", 1)
    assert done.returncode == 0, done.stderr
    alone = WorldPipeline.from_pretrained("warp")(pictures[0], tmp_path / "alone", tiny(pictures[0]).settings)
    assert frame_hashes(tmp_path / "worlds" / "room-0") == frame_hashes(alone.folder)
    assert World(tmp_path / "worlds" / "room-0").is_done


def test_ray_is_named_where_it_is_missing(pictures, tmp_path, monkeypatch):
    from worldstereo.pipelines.ray_workers import RayWorkers

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"'ray'.*worldstereo\[ray\]"):
        RayWorkers(maker, "auto", "cpu", None, 1)
