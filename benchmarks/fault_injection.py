"""Faults of `worldstereo generate` on a tiny world: python benchmarks/fault_injection.py [--kills N] [--seed S].

A world (96×64, two clips of three frames) is made undisturbed. Then N times its run is killed (SIGKILL) at a moment
drawn evenly over the undisturbed run's time, every other one twice, and finished by the same command. After each kill,
every file under its own name must be whole; what was finished must stay as it was; and at the end all bytes must be
those of the undisturbed world.

Then a full disk (a file system of 400 kB where this user may mount one, else a limit of file sizes), a truncated frame,
memory and world.json, and two processes on one world. Each must be refused with one sentence and exit code 2, change
nothing, and after what the sentence asks for the same command must give the undisturbed bytes.

Not compared are the seconds in update.json and the report that shows them. Runs are forks of a process that has the
libraries loaded.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from PIL import Image
from safetensors import safe_open

OPTIONS = (
    "--model",
    "warp",
    "--short-side",
    "64",
    "--frames",
    "3",
    "-t",
    "orbit-right:6",
    "-t",
    "dolly-in:0.1",
    "--quiet",
)
_NOT_COMPARED = {"update.json", "report.html"}
_FIRST, _SECOND = "clips/000-orbit-right-6", "clips/001-dolly-in-0.1r"


class Faults:
    """The undisturbed world, and the checks of one fault each; every check raises an AssertionError that names it.

    Args:
        folder: empty; worlds are made in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["worldstereo.cli", "worldstereo.exporters.world"])
        self._picture = _make_picture(folder / "room.png")
        self._whole = folder / "whole"
        process = self._begin(folder / "warm-up")  # compiles and loads what later runs find ready
        process.join()
        process = self._begin(self._whole)
        began = self._birth(process, self._whole)
        process.join()
        assert process.exitcode == 0, "the undisturbed run failed"
        self.seconds = time.monotonic() - began
        """From the world folder's birth to the end."""

    def kill(self, moments: list[float]) -> str:
        """Kill a run at each of these shares of the undisturbed time, then finish it; gives how far it was."""
        out = self.folder / "killed"
        for moment in moments:
            process = self._begin(out)
            end = self._birth(process, out) + moment * self.seconds
            while process.is_alive() and time.monotonic() < end:
                time.sleep(0.001)
            process.kill()
            process.join()
            if out.exists():
                _require_whole_files(out)
        state, kept = _state(out), _finished(out)
        self._finish(out)
        now = _content(out)
        lost = {name for name, digest in kept.items() if now.get(name) != digest}
        assert not lost, f"killed at {moments}: finished files changed: {sorted(lost)}"
        shutil.rmtree(out)
        return state

    def full_disk(self, mount: bool) -> str:
        """No room, then room; gives the sentence."""
        with _small_disk(self.folder / "disk", mount) as limit:
            out = self.folder / "disk" / "world"
            sentence = self._refused(out, "disk is full|limit of file sizes", limit)
            _require_whole_files(out)
            assert not list(out.rglob(".writing-*"))
            shutil.copytree(out, self.folder / "roomy")
        self._finish(self.folder / "roomy")
        return sentence

    def damage(self, name: str, said: str) -> str:
        """Truncate a file of a half made world, be refused, do what the sentence says, finish; gives the sentence."""
        out = self.folder / f"damaged-{Path(name).name}"
        self._half(out)
        os.truncate(out / name, (out / name).stat().st_size // 3)
        before = _content(out)
        sentence = self._refused(out, said)
        assert _content(out) == before, f"{name}: the refused run changed something"
        asked = re.search(r"delete (?:it|(?P<path>\S+)) and run", sentence)
        assert asked, f"{name}: the sentence does not say what to do: {sentence}"
        (Path(asked["path"]) if asked["path"] else out / name).unlink()
        mark = (out / _FIRST / "frames" / "000.png").stat().st_mtime_ns
        self._finish(out)
        if name == "world.json":
            assert (out / _FIRST / "frames" / "000.png").stat().st_mtime_ns == mark, "the finished clip was made again"
        return sentence

    def two_processes(self) -> str:
        """A second process on a world at which the first is at work; gives the second one's sentence."""
        out = self.folder / "shared"
        first = self._begin(out)
        self._until(first, out / "world.json")  # not .lock, which is there a moment before it is locked
        os.kill(first.pid, signal.SIGSTOP)
        try:
            sentence = self._refused(out, "another process is working on this world")
        finally:
            os.kill(first.pid, signal.SIGCONT)
        first.join()
        self._finish(out)
        return sentence

    def _begin(self, out: Path, file_size: int | None = None) -> BaseProcess:
        arguments = ("generate", str(self._picture), "--out", str(out), *OPTIONS)
        process = self._context.Process(target=_command, args=(arguments, self._errors(out), file_size))
        process.start()
        return process

    def _errors(self, out: Path) -> Path:
        return self.folder / f"{out.name}.stderr"

    def _finish(self, out: Path) -> None:
        """The same command again, and the undisturbed bytes."""
        process = self._begin(out)
        process.join()
        assert process.exitcode == 0, f"{out.name}: {self._errors(out).read_text()}"
        now, expected = _content(out), _content(self._whole)
        different = {name for name in now.keys() | expected.keys() if now.get(name) != expected.get(name)}
        assert not different, f"{out.name}: differs from the undisturbed world in {sorted(different)}"

    def _refused(self, out: Path, said: str, file_size: int | None = None) -> str:
        """The one sentence of a run that is refused."""
        process = self._begin(out, file_size)
        process.join()
        sentence = self._errors(out).read_text().strip()
        assert process.exitcode == 2, f"exit code {process.exitcode}, not 2: {sentence}"
        assert len(sentence.splitlines()) == 1, f"more than one sentence: {sentence}"
        assert re.search(said, sentence), f"does not say '{said}': {sentence}"
        return sentence

    def _half(self, out: Path) -> None:
        """A world whose first clip is finished and whose second is not."""
        process = self._begin(out)
        self._until(process, out / _FIRST / "done")
        process.kill()
        process.join()
        assert not (out / _SECOND / "done").exists()

    def _birth(self, process: BaseProcess, out: Path) -> float:
        """When a run's world folder is there."""
        self._until(process, out)
        return time.monotonic()

    @staticmethod
    def _until(process: BaseProcess, path: Path) -> None:
        while process.is_alive() and not path.exists():
            time.sleep(0.001)


def _command(arguments: tuple[str, ...], errors: Path, file_size: int | None) -> None:
    """The command line in this process, whose stderr goes to a file."""
    from worldstereo.cli import main

    sys.argv = ["worldstereo", *arguments]
    sys.stdout, sys.stderr = open(os.devnull, "w"), errors.open("w", buffering=1)  # noqa: SIM115 (until the end)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    main()


def _make_picture(path: Path) -> Path:
    """A room, 96×64."""
    from worldstereo.data.procedural import ProceduralScene
    from worldstereo.images import save_png

    scene = ProceduralScene.sample(3, kind="room")
    save_png(path, scene.render(scene.sample_cameras(1, 0, 96, 64, (65, 66))).rgb[0])
    return path


def _content(world: Path) -> dict[str, str]:
    """The hash of every file that is compared, by its path."""
    files = [path for path in sorted(world.rglob("*")) if path.is_file() and path.name not in _NOT_COMPARED]
    return {path.relative_to(world).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _finished(world: Path) -> dict[str, str]:
    """The content of the clips that are marked done."""
    done = [mark.parent.relative_to(world).as_posix() for mark in world.glob("clips/*/done")]
    return {name: digest for name, digest in _content(world).items() if name.startswith(tuple(f"{d}/" for d in done))}


def _state(world: Path) -> str:
    """How far a world is."""
    if not (world / "world.json").exists():
        return "before world.json"
    clips = len(list(world.glob("clips/*/done")))
    return "with its report" if (world / "report.html").exists() else f"{clips} of 2 clips"


def _require_whole_files(world: Path) -> None:
    """Every file under its own name can be read."""
    for path in world.rglob("*"):
        if any(part.startswith(".writing-") for part in path.relative_to(world).parts):
            continue
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                assert list(file.keys())


@contextmanager
def _small_disk(folder: Path, mount: bool) -> Iterator[int | None]:
    """`folder` on a file system of 400 kB; where there is none, gives a limit of file sizes for the process instead."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    mounted = mount and subprocess.run(options, capture_output=True, check=False).returncode == 0
    try:
        yield None if mounted else 40_000
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def damages() -> list[tuple[str, str]]:
    """Files, and what the sentence must say of them."""
    return [
        (f"{_FIRST}/frames/001.png", r"001\.png: the picture is damaged or truncated"),
        ("memory/cloud-000.safetensors", r"cloud-000\.safetensors: cannot be read as a memory"),
        ("world.json", r"world\.json: is not valid JSON"),
    ]


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder))
        states = Counter(faults.kill([draw.random() for _ in range(1 + k % 2)]) for k in range(args.kills))
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        print(f"{args.kills} worlds killed within {faults.seconds:.1f} s ({told}): all finished with the same bytes")
        checks: list[Callable[[], str]] = [lambda: faults.full_disk(mount=True), faults.two_processes]
        checks += [lambda name=name, said=said: faults.damage(name, said) for name, said in damages()]
        for check in checks:
            print(check().replace(folder, "…"))


if __name__ == "__main__":
    main()
