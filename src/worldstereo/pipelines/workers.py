"""Worker processes on this machine, each with a device of its own."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from worldstereo.errors import InputError
from worldstereo.pipelines.batch import Ending, Outcome, Scene

MakeWorker = Callable[[str], Callable[[Scene], Outcome]]
"""Makes, in a worker's process and for a device, what turns scenes into outcomes."""

MOST_FAILED_STARTS = 3
"""In a row, before workers are known not to start at all."""

_READY, _GONE = "ready", "gone"
_PATIENCE = 5.0  # seconds that a worker has to end by itself


def usable_cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Worker:
    """A process, this end of its pipe, and the scene that it makes."""

    process: BaseProcess
    pipe: connection.Connection
    device: str
    scene: Scene | None = None
    is_ready: bool = False


class LocalWorkers:
    """Up to as many processes as `devices`, started when there is a scene for them.

    A process is a fresh interpreter ("spawn"), takes one scene after the other, and ends when this process ends,
    however it ends. One that breaks down is replaced.
    """

    def __init__(self, make: MakeWorker, devices: Sequence[str], threads: int) -> None:
        """
        Args:
            make: can be pickled.
            devices: one for each worker; several may share one.
            threads: of the CPU, for each worker.
        """
        self._make = make
        self._threads = threads
        self._devices = list(devices)
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    @property
    def free(self) -> int:
        """How many could begin a scene now."""
        return len(self._devices) + sum(worker.scene is None for worker in self._workers)

    def begin(self, scene: Scene) -> None:
        """Have a free worker make a scene, a running one if there is one."""
        worker = next((worker for worker in self._workers if worker.scene is None), None) or self._start()
        worker.scene = scene
        with contextlib.suppress(OSError):  # it has just died, which `wait` notices
            worker.pipe.send(scene)

    def wait(self) -> list[Outcome]:
        """Wait for a message or an end.

        Raises:
            InputError: workers do not start.
        """
        connection.wait([thing for worker in self._workers for thing in (worker.pipe, worker.process.sentinel)])
        outcomes = []
        for worker in list(self._workers):
            message = self._message(worker)
            if message == _READY:
                worker.is_ready = True
                self._failed_starts = 0
            elif isinstance(message, Outcome):
                outcomes.append(message)
                worker.scene = None
                if message.ending is Ending.CRASHED:
                    self._drop(worker)
            elif message == _GONE:
                outcomes.extend(self._lost(worker))
        return outcomes

    def close(self) -> None:
        """End all workers, at once."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.scene is not None:
                worker.process.terminate()
        for worker in self._workers:
            _end(worker.process)
        self._workers.clear()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        device = self._devices.pop(0)
        process = context.Process(target=_serve, args=(there, self._make, device), name=f"worldstereo {device}")
        process.daemon = True
        threads = str(self._threads)
        with _environment({"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}):
            process.start()
        there.close()
        self._workers.append(_Worker(process, here, device))
        return self._workers[-1]

    @staticmethod
    def _message(worker: _Worker) -> object:
        """What a worker said, that it is gone, or none."""
        was_alive = worker.process.is_alive()
        try:
            if worker.pipe.poll():
                return worker.pipe.recv()
        except (EOFError, OSError):
            return _GONE
        return None if was_alive else _GONE

    def _drop(self, worker: _Worker) -> None:
        """Forget a worker and have its device free for the next one."""
        self._workers.remove(worker)
        worker.pipe.close()
        _end(worker.process)
        self._devices.append(worker.device)

    def _lost(self, worker: _Worker) -> list[Outcome]:
        """The crash of the scene that a dead worker was making."""
        self._drop(worker)
        cause = _cause_of_death(worker.process.exitcode)
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts == MOST_FAILED_STARTS:
                raise InputError(
                    f"--devices {worker.device}: a worker {cause} before it could begin, {MOST_FAILED_STARTS} times; "
                    f"try --workers 1, or 'worldstereo generate' with one of the pictures"
                )
        if worker.scene is None:
            return []
        return [Outcome(worker.scene, Ending.CRASHED, f"{worker.scene.picture}: its worker {cause}")]


def _end(process: BaseProcess) -> None:
    """Wait a little for a process, then kill it."""
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        why = " (perhaps memory ran out: try fewer --workers)" if name == "SIGKILL" else ""
        return f"was ended by {name}{why}"
    return f"ended with code {code}"


def _serve(pipe: connection.Connection, make: MakeWorker, device: str) -> None:
    """The life of a worker: scenes come in, outcomes go out, until the pipe is closed or something breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handle = make(device)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(_READY)
        while True:
            outcome = handle(pipe.recv())
            pipe.send(outcome)
            if outcome.ending is Ending.CRASHED:
                return


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, in the middle of whatever it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        sys.stderr.flush()
        os._exit(1)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
