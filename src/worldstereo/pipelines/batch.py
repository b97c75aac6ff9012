"""Many scenes: which one is next, what became of each, and the loop that hands them to workers.

Nothing here touches a file or a process: workers are behind the protocol `Workers`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from worldstereo.models.hub import DEFAULT_MODEL
from worldstereo.pipelines.generator_options import GeneratorOptions, Precision
from worldstereo.pipelines.world import Settings


@dataclass(frozen=True)
class Models:
    """What makes a scene: the generator with its options, and the depth back-end, as `worldstereo generate` names them.

    Attributes:
        depth_scale: metres per unit of a depth file.
    """

    model: str = DEFAULT_MODEL
    options: GeneratorOptions = field(default_factory=GeneratorOptions)
    depth: str = "nano"
    depth_scale: float | None = None


@dataclass(frozen=True)
class Scene:
    """One world to be made.

    Attributes:
        name: of its world folder, inside the batch's folder.
    """

    name: str
    picture: Path
    settings: Settings = field(default_factory=Settings)
    models: Models = field(default_factory=Models)


class Ending(Enum):
    """How work on a scene ended."""

    MADE = "made"
    FOUND = "found finished"
    BUSY = "another process works on it"
    FAILED = "refused, with a sentence that names the cause"
    CRASHED = "the worker broke down and must be replaced"
    STOPPED = "nothing else can be made either"


@dataclass(frozen=True)
class Outcome:
    """What a worker reports.

    Attributes:
        error: one sentence; empty if all is well.
        details: a traceback, where the error was not foreseen.
        notice: for people, e.g. the licence of the weights.
    """

    scene: Scene
    ending: Ending
    error: str = ""
    details: str = ""
    notice: str = ""


@dataclass(frozen=True)
class Failure:
    """A scene that was given up.

    Attributes:
        error: one sentence.
        attempts: how often it was tried.
        details: a traceback, where the error was not foreseen.
    """

    scene: Scene
    error: str
    attempts: int
    details: str = ""


@dataclass(frozen=True)
class Figures:
    """How far a batch is.

    Attributes:
        made, found, failed: scenes made now, finished before, given up.
        elsewhere: scenes that another process works on.
        left: scenes that are waited for.
        seconds: since the start.
    """

    made: int
    found: int
    failed: int
    elsewhere: int
    left: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Scenes made in a minute."""
        return 60 * self.made / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; none before the first scene is made."""
        return 60 * self.left / self.per_minute if self.per_minute > 0 else None

    def __str__(self) -> str:
        counts = f"{self.made + self.found} done, {self.failed} failed, {self.left} left"
        if self.elsewhere:
            counts += f", {self.elsewhere} made elsewhere"
        if self.seconds_left is None:
            return counts
        return f"{counts}; {self.per_minute:.3g} scenes a minute, {_duration(self.seconds_left)} to go"


class Board:
    """The states of all scenes.

    Scenes whose generators share networks come one after the other, so that workers load few, and among them those of
    one generator. A scene that crashed is tried again
    after all others, `attempts` times in all; one that another process works on is looked at a second time.
    """

    def __init__(self, scenes: Iterable[Scene], attempts: int = 2) -> None:
        groups: dict[tuple[str, Precision], dict[GeneratorOptions, list[Scene]]] = {}
        for scene in scenes:
            options = scene.models.options
            group = groups.setdefault((scene.models.model, options.precision), {})
            group.setdefault(options, []).append(scene)
        self._waiting = deque(s for group in groups.values() for same in group.values() for s in same)
        self._most_attempts = attempts
        self._attempts: Counter[str] = Counter()
        self._seen_busy: set[str] = set()
        self._running = 0
        self._ended: Counter[Ending] = Counter()
        self.failures: list[Failure] = []
        self.stopped = ""
        """Why nothing else can be made; empty if all is well."""

    @property
    def expected(self) -> list[tuple[str, GeneratorOptions]]:
        """Models and options of the scenes that wait, in their order."""
        return [(scene.models.model, scene.models.options) for scene in self._waiting]

    def take(self) -> Scene | None:
        """The next scene; none if no scene waits."""
        if not self._waiting:
            return None
        self._running += 1
        return self._waiting.popleft()

    def record(self, outcome: Outcome) -> Failure | None:
        """Note how a taken scene ended; gives the failure if it is given up."""
        scene, ending = outcome.scene, outcome.ending
        self._running -= 1
        if ending is Ending.BUSY and scene.name not in self._seen_busy:
            self._seen_busy.add(scene.name)
            self._waiting.append(scene)
            return None
        if ending is Ending.STOPPED:
            self.stopped = outcome.error
            self._waiting.clear()
            return None
        if ending in (Ending.FAILED, Ending.CRASHED):
            self._attempts[scene.name] += 1
            if ending is Ending.CRASHED and self._attempts[scene.name] < self._most_attempts and not self.stopped:
                self._waiting.append(scene)
                return None
            self.failures.append(Failure(scene, outcome.error, self._attempts[scene.name], outcome.details))
            return self.failures[-1]
        self._ended[ending] += 1
        return None

    @property
    def is_over(self) -> bool:
        """Whether no scene waits or is being made."""
        return not self._waiting and not self._running

    def figures(self, seconds: float) -> Figures:
        """How far the batch is, `seconds` after its start."""
        return Figures(
            made=self._ended[Ending.MADE],
            found=self._ended[Ending.FOUND],
            failed=len(self.failures),
            elsewhere=self._ended[Ending.BUSY],
            left=len(self._waiting) + self._running,
            seconds=seconds,
        )


@runtime_checkable
class Workers(Protocol):
    """Processes that make scenes, one each at a time."""

    @property
    def free(self) -> int:
        """How many could begin a scene now."""
        ...

    def begin(self, scene: Scene) -> None:
        """Have a free worker make a scene."""
        ...

    def wait(self) -> list[Outcome]:
        """Wait until something happens; gives the scenes that ended, with a crash for each worker that broke down.

        Raises:
            InputError: workers do not start.
        """
        ...

    def close(self) -> None:
        """End all workers, at once."""
        ...


def run_batch(board: Board, workers: Workers, on_outcome: Callable[[Outcome, Failure | None], None]) -> None:
    """Have the workers make all scenes of the board; `on_outcome` is told of each scene, and whether it is given up.

    Raises:
        InputError: workers do not start.
    """
    try:
        while not board.is_over:
            while workers.free and (scene := board.take()) is not None:
                workers.begin(scene)
            for outcome in workers.wait():
                on_outcome(outcome, board.record(outcome))
    finally:
        workers.close()


def _duration(seconds: float) -> str:
    """E.g. "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
