"""What the batch tests share, and what their worker processes import by name."""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from worldstereo.pipelines.batch import Ending, Outcome, Scene


class Actor:
    """Does with a scene what its name says."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._made = 0

    def __call__(self, scene: Scene) -> Outcome:
        first = not (self._folder / scene.name).exists()
        (self._folder / scene.name).touch()
        if scene.name == "killer" or (scene.name == "stumbler" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if scene.name == "leaver":
            os._exit(7)
        if scene.name == "odd":
            return Outcome(scene, Ending.CRASHED, "odd: an unforeseen error", "Traceback")
        if scene.name == "sleeper":
            (self._folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        self._made += 1
        return Outcome(scene, Ending.MADE, notice=f"{os.environ['OMP_NUM_THREADS']} {self._made}")


class NoStarter:
    """Cannot be made."""

    def __init__(self, device: str) -> None:
        os._exit(3)


def content(world: Path) -> dict[str, str]:
    """The hash of every file but those with seconds in them, by its path."""
    files = [path for path in world.rglob("*") if path.is_file() and path.name not in ("update.json", "report.html")]
    return {str(path.relative_to(world)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(is_so: Callable[[], object], seconds: float) -> None:
    """Look every few milliseconds."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)
