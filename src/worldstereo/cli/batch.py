"""`worldstereo batch`: many worlds, over several processes or machines."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldstereo.cli import options

if TYPE_CHECKING:
    from worldstereo.pipelines.batch import Board, Failure, Outcome, Workers
    from worldstereo.pipelines.workers import MakeWorker
    from worldstereo.pipelines.world import OnProgress


def batch(
    scenes: Annotated[
        Path,
        typer.Argument(
            metavar="LIST",
            help='JSON lines, each with a picture and options of generate: {"picture": "a.jpg", "seed": 1}.',
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the world folders.", show_default=False)],
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes.", show_default="one a device; with --ray, as many as fit"),
    ] = None,
    devices: Annotated[
        str, typer.Option("--devices", help="Of the workers in turn, e.g. cpu or cuda:0,cuda:1.")
    ] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of the CPU, a worker.", show_default="all cores, shared; with --ray 1"),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Address of a Ray cluster (auto, HOST:PORT, ray://HOST:PORT; local: this machine)."),
    ] = None,
    attempts: Annotated[int, typer.Option("--attempts", min=1, help="For a scene whose worker breaks down.")] = 2,
    offload: options.OffloadOption = options.OffloadChoice.none,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make a world of every picture of a list.

    Run it again after a crash or a stop: finished worlds are kept, unfinished ones go on. Several batches may share one
    folder. Scenes that fail are written to failures.jsonl and do not stop the others; the exit code is then 1.
    """
    from functools import partial

    from worldstereo.errors import InputError
    from worldstereo.exporters.world import finish_once
    from worldstereo.pipelines.batch import Board, Ending, run_batch
    from worldstereo.pipelines.failures import FailureLog
    from worldstereo.pipelines.scene_list import read_scenes
    from worldstereo.pipelines.scene_maker import SceneMaker

    listed = read_scenes(scenes)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another folder with --out")
    log = FailureLog(out)
    board = Board(listed, attempts)
    make = partial(SceneMaker, out.absolute(), finish_once, offload.value, offline, board.expected)
    if ray is None:
        crew = _local_workers(make, devices, workers, threads, len(listed))
    else:
        crew = _ray_workers(make, ray, devices, workers, threads)
    began = time.monotonic()
    notices: set[str] = set()
    with _progress(quiet) as on_progress:

        def report(outcome: "Outcome", failure: "Failure | None") -> None:
            if outcome.notice not in {"", *notices}:
                notices.add(outcome.notice)
                typer.echo(outcome.notice)
            if failure is not None:
                log.add(failure)
                typer.echo(f"{failure.scene.name}: {failure.error}", err=True)
            elif outcome.ending in (Ending.MADE, Ending.FOUND):
                log.forget(outcome.scene.name)
            figures = board.figures(time.monotonic() - began)
            on_progress(str(figures), 1 - figures.left / len(listed))

        run_batch(board, crew, report)
    _conclude(board, out, log.path, time.monotonic() - began)


def _local_workers(
    make: "MakeWorker", devices: str, workers: int | None, threads: int | None, scenes: int
) -> "Workers":
    """Processes on this machine, no more than there are scenes."""
    from worldstereo.devices import find_device
    from worldstereo.pipelines.workers import LocalWorkers, usable_cores

    names = [name.strip() for name in devices.split(",")]
    for name in names:
        find_device(name)
    count = min(workers or len(names), scenes)
    said = os.environ.get("OMP_NUM_THREADS", "")
    share = int(said) if said.isdigit() and int(said) > 0 else max(1, usable_cores() // count)
    return LocalWorkers(make, [names[index % len(names)] for index in range(count)], threads or share)


def _ray_workers(make: "MakeWorker", address: str, devices: str, workers: int | None, threads: int | None) -> "Workers":
    """Actors of a cluster, which itself says which GPU is whose."""
    from worldstereo.errors import InputError
    from worldstereo.pipelines.ray_workers import RayWorkers

    if devices not in ("cpu", "cuda"):
        raise InputError(f"--devices {devices}: with --ray, which shares out the GPUs itself, it must be cpu or cuda")
    return RayWorkers(make, address, devices, workers, threads or 1)


@contextlib.contextmanager
def _progress(quiet: bool) -> "Iterator[OnProgress]":
    """A bar on a terminal; elsewhere, as in the log of a cluster's job, a line for each scene."""
    if quiet or sys.stdout.isatty():
        with options.progress(quiet) as on_progress:
            yield on_progress
    else:
        yield lambda what, share: typer.echo(what)


def _conclude(board: "Board", out: Path, failures: Path, seconds: float) -> None:
    """One sentence of what came of it, and the exit code.

    Raises:
        InputError: the batch had to stop.
    """
    from worldstereo.errors import InputError

    figures = board.figures(seconds)
    if board.stopped:
        raise InputError(board.stopped)
    typer.echo(f"{out}: {figures.made} worlds made, {figures.found} were finished before")
    if figures.elsewhere:
        typer.echo(f"{figures.elsewhere} more are another process's work; run the same command again to see to them")
    if figures.failed:
        total = figures.made + figures.found + figures.failed + figures.elsewhere
        print(
            f"worldstereo: {figures.failed} of {total} scenes failed; {failures} says why, and the same command tries "
            f"them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)
