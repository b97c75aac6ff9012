"""What the batch tests' worker processes need; they import it by name."""

import os
import signal
import time
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
