"""Plays a clip or a path: the frame that is due, whatever the machine keeps up with."""

import threading
import time
from collections.abc import Callable

_TICK = 1 / 30  # seconds between two steps


class Player:
    """A clock that walks along frames in the background."""

    def __init__(self, on_frame: Callable[[float], None], on_end: Callable[[], None]) -> None:
        """
        Args:
            on_frame: called with the fractional frame that is due.
            on_end: called once after the last frame, or after `stop`.
        """
        self._on_frame = on_frame
        self._on_end = on_end
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_playing(self) -> bool:
        """Whether the clock runs."""
        return self._thread is not None and self._thread.is_alive() and not self._stopped.is_set()

    def play(self, frames: int, first: float, frames_per_second: Callable[[], float], repeat: bool) -> None:
        """Play from a frame to the last one, again and again if `repeat`; what played before stops."""
        self.stop()
        self._stopped = threading.Event()
        arguments = (self._stopped, frames, first, frames_per_second, repeat)
        self._thread = threading.Thread(target=self._run, args=arguments, name="player", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until the last call is over (except from within one)."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _run(
        self, stopped: threading.Event, frames: int, first: float, rate: Callable[[], float], repeat: bool
    ) -> None:
        at, last, before = first, float(frames - 1), time.monotonic()
        try:
            while not stopped.is_set():
                self._on_frame(at)
                if at >= last and not repeat:
                    return
                stopped.wait(_TICK)
                now = time.monotonic()
                at, before = next_frame(at, (now - before) * rate(), last, repeat), now
        finally:
            self._on_end()


def next_frame(at: float, step: float, last: float, repeat: bool) -> float:
    """The fractional frame `step` frames later; a repeated clip begins again after its last frame was due for one."""
    after = at + step
    if repeat:
        return after % (last + 1) if last > 0 else 0.0
    return min(after, last)
