"""Workers on a Ray cluster; needs the extra 'ray'."""

import logging
import os
from collections.abc import Callable
from typing import Any

from worldstereo.errors import InputError, MissingExtraError
from worldstereo.pipelines.batch import Ending, Outcome, Scene
from worldstereo.pipelines.workers import MOST_FAILED_STARTS, MakeWorker


class RayWorkers:
    """Actors, each with its share of the cluster: the CPU cores asked for and, on "cuda", a GPU.

    All machines of the cluster must see the folders of this one under the same names. An actor that is lost, with
    its machine or without, is replaced.
    """

    def __init__(self, make: MakeWorker, address: str, device: str, workers: int | None, threads: int) -> None:
        """
        Args:
            make: can be pickled.
            address: "auto", "HOST:PORT", "ray://HOST:PORT", or "local" for a cluster on this machine alone.
            device: "cpu", or "cuda" for a GPU of its own for each worker.
            workers: as many as the cluster holds if none.
            threads: CPU cores for each worker.

        Raises:
            MissingExtraError: Ray is not installed.
            InputError: the cluster cannot be reached or has no room for a worker.
        """
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "ray", "--ray") from None
        self._ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds, none documented
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"--ray {address}: the cluster cannot be reached ({reason}); start it first") from error
        gpus = int(device == "cuda")
        self._workers = workers or self._room(threads, gpus)
        self._actor = self._ray.remote(_Actor).options(num_cpus=threads, num_gpus=gpus, max_restarts=0)
        self._arguments = (make, device, os.getcwd())
        self._idle: list[Any] = []
        self._calls: dict[Any, tuple[Any, Scene]] = {}
        self._failed_in_a_row = 0

    @property
    def free(self) -> int:
        """How many could begin a scene now."""
        return self._workers - len(self._calls)

    def begin(self, scene: Scene) -> None:
        """Have a free worker make a scene."""
        actor = self._idle.pop() if self._idle else self._actor.remote(*self._arguments)
        self._calls[actor.make.remote(scene)] = actor, scene

    def wait(self) -> list[Outcome]:
        """Wait for a scene to end.

        Raises:
            InputError: workers do not start.
        """
        ended, _ = self._ray.wait(list(self._calls), num_returns=1)
        return [self._outcome(call, *self._calls.pop(call)) for call in ended]

    def close(self) -> None:
        """End all workers, at once, and leave the cluster."""
        for actor in [*self._idle, *(actor for actor, _ in self._calls.values())]:
            self._ray.kill(actor)
        self._ray.shutdown()

    def _outcome(self, call: Any, actor: Any, scene: Scene) -> Outcome:
        try:
            outcome = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._failed_in_a_row += 1
            reason = str(error).strip()
            if self._failed_in_a_row == MOST_FAILED_STARTS * self._workers:
                raise InputError(
                    f"--ray: {self._failed_in_a_row} workers in a row were lost ({_last_line(reason)}); is worldstereo "
                    f"installed on all machines of the cluster, and do they see {self._arguments[2]}?"
                ) from error
            sentence = f"{scene.picture}: its worker was lost ({type(error).__name__})"
            return Outcome(scene, Ending.CRASHED, sentence, reason)
        self._failed_in_a_row = 0
        if outcome.ending is Ending.CRASHED:
            self._ray.kill(actor)
        else:
            self._idle.append(actor)
        return outcome

    def _room(self, threads: int, gpus: int) -> int:
        there = self._ray.cluster_resources()
        room = int(there.get("GPU", 0)) if gpus else int(there.get("CPU", 0)) // threads
        if room < 1:
            need = "GPU" if gpus else f"{threads} CPU cores"
            raise InputError(f"--ray: the cluster has no {need} now; say with --workers how many workers to wait for")
        return room


class _Actor:
    """A worker's process in the cluster."""

    def __init__(self, make: MakeWorker, device: str, folder: str) -> None:
        os.chdir(folder)
        self._handle: Callable[[Scene], Outcome] = make(device)

    def make(self, scene: Scene) -> Outcome:
        return self._handle(scene)


def _last_line(text: str) -> str:
    return text.splitlines()[-1].strip() if text else "no reason given"
