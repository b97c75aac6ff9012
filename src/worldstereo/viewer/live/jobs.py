"""One long job at a time, in the background, with progress and a stop button."""

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from worldstereo.errors import InputError

OnProgress = Callable[[str, float], None]
"""Called as (what is being done, share of the whole that is done in [0, 1])."""


class JobStoppedError(Exception):
    """Raised inside a job at its next report after it was asked to stop."""


@dataclass(frozen=True)
class JobState:
    """What is known of the current or last job.

    Attributes:
        name: of the job, plain text.
        running: whether it goes on.
        what: what is being done, or how it ended.
        share: done, in [0, 1].
        failed: whether it ended because of an error.
    """

    name: str
    running: bool
    what: str
    share: float = 0.0
    failed: bool = False


class JobRunner:
    """Runs jobs one after the other and tells a listener of every change, from the job's thread."""

    def __init__(self, on_change: Callable[[JobState], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._state = JobState("", False, "")
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> JobState:
        """The newest state."""
        return self._state

    def start(self, name: str, work: Callable[[OnProgress], str]) -> None:
        """Begin a job; `work` is given the function to report to, and gives a sentence on what it made.

        Raises:
            InputError: another job is running.
        """
        with self._lock:
            if self._state.running:
                raise InputError(f"'{self._state.name}' is still running; wait until it ends, or stop it")
            self._stop.clear()
            self._state = JobState(name, True, "starting")
        self._on_change(self._state)
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"job {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the job to stop at its next report."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait until the job has ended, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, work: Callable[[OnProgress], str]) -> None:
        try:
            self._end(work(self._report))
        except JobStoppedError:
            self._end("stopped", failed=True)
        except InputError as error:
            self._end(str(error), failed=True)
        except Exception as error:  # the viewer lives on; the terminal has the traceback
            traceback.print_exc()
            self._end(f"failed: {error}", failed=True)

    def _report(self, what: str, share: float) -> None:
        if self._stop.is_set():
            raise JobStoppedError
        self._change(replace(self._state, what=what, share=min(max(share, 0.0), 1.0)))

    def _end(self, what: str, failed: bool = False) -> None:
        self._change(replace(self._state, running=False, what=what, share=1.0, failed=failed))

    def _change(self, state: JobState) -> None:
        self._state = state
        self._on_change(state)
