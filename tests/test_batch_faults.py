"""`worldstereo batch` under `kill -9`, with real processes and real scenes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batch_parts import content, wait_for
from conftest import run_command
from worldstereo.data.procedural import ProceduralScene
from worldstereo.exporters.world import finish_once
from worldstereo.images import save_png
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World

LOCKS = Path("/proc/locks")
NAMES = ["first", "poisoned", "last"]
TRAJECTORIES = ("orbit-right:4", "dolly-in:0.1")


def holder(lock: Path) -> int | None:
    """The process that holds a lock, as Linux lists them."""
    if not lock.exists():
        return None
    inode = str(lock.stat().st_ino)
    held = [line.split() for line in LOCKS.read_text().splitlines()]
    return next((int(fields[4]) for fields in held if fields[5].rpartition(":")[2] == inode), None)


def times(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not LOCKS.exists(), reason="finds the worker of a scene in Linux' list of locks")
def test_killed_workers_and_a_killed_batch_cost_their_own_scene_alone(tmp_path):
    lines = []
    for index, name in enumerate(NAMES):
        room = ProceduralScene.sample(3 + index, kind="room")
        save_png(tmp_path / f"{name}.png", room.render(room.sample_cameras(1, 0, 96, 64, (65, 66))).rgb[0])
        wish = {"model": "warp", "short-side": 64, "frames": 3, "trajectory": TRAJECTORIES}
        lines.append(json.dumps({"picture": str(tmp_path / f"{name}.png")} | wish) + "\n")
    (tmp_path / "list.jsonl").write_text("".join(lines))
    out = tmp_path / "worlds"
    first, poisoned, last = (out / name for name in NAMES)
    arguments = ["batch", str(tmp_path / "list.jsonl"), "--out", str(out)]
    command = [sys.executable, "-m", "worldstereo.cli", *arguments]

    # The worker of one scene is killed in the middle of it, as often as it tries.
    killed = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as batch:

        def kill_the_worker() -> bool:
            worker = holder(poisoned / ".lock")
            if worker is not None and worker not in killed:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            return batch.poll() is not None

        wait_for(kill_the_worker, 120)
        said = batch.stderr.read()
    assert batch.returncode == 1, said
    assert len(killed) == 2
    assert "poisoned.png: its worker was ended by SIGKILL" in said
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert (failure["scene"], failure["attempts"]) == ("poisoned", 2)
    assert not World.exists(poisoned) or not World(poisoned).is_done
    finished = times(first, last)
    assert all((world / "report.html") in finished for world in (first, last))

    # The batch itself is killed when that scene's first clip is made.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as batch:
        wait_for(lambda: list(poisoned.glob("clips/000-*/done")), 120)
        batch.kill()
    wait_for(lambda: holder(poisoned / ".lock") is None, 20)
    assert not World(poisoned).is_done
    (mark,) = poisoned.glob("clips/*/done")
    made = times(mark.parent)
    assert json.loads((out / "failures.jsonl").read_text())["scene"] == "poisoned"

    # The same command finishes what is left, and the worlds are those of single runs.
    done = run_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 worlds made, 2 were finished before" in done.stdout
    assert not (out / "failures.jsonl").exists()
    assert times(first, last) == finished
    assert times(mark.parent) == made
    single = WorldPipeline.from_pretrained("warp")
    settings = Settings(trajectories=TRAJECTORIES, short_side=64, frames=3)
    for name in NAMES:
        alone = single(tmp_path / f"{name}.png", tmp_path / "alone" / name, settings)
        finish_once(alone)
        assert content(out / name) == content(alone.folder)
