"""What training runs share: the schedule, averaged weights, checkpoints, the log and progress.

The learning rate warms up, stays constant, and falls linearly to zero over the last steps: a run can be made longer, or
ended early, by resuming it with another number of steps. Weights that are shipped are an exponential moving average.
"""

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import atomic_path, write_text
from worldstereo.training.muon import Muon

_REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class TrainingProgress:
    """State of a run, for progress displays.

    Attributes:
        seconds: since the last report; loss, samples per second and busy share are of this time.
        busy_share: of the time, without what went by in waiting for data.
    """

    step: int
    steps: int
    loss: float
    samples_per_second: float
    seconds_left: float
    seconds: float
    busy_share: float


class DataClock:
    """How long a run has waited for its data."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time that this lasts counts."""
        begin = time.monotonic()
        yield
        self.seconds += time.monotonic() - begin


@dataclass(frozen=True)
class Schedule:
    """The course of the learning rate.

    Attributes:
        steps: total number of steps.
        warmup_steps: over which it rises linearly.
        decay_steps: over which, at the end, it falls linearly to zero.
    """

    steps: int
    warmup_steps: int
    decay_steps: int

    def factor(self, step: int) -> float:
        """Of the learning rate in a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        return warm * min(1.0, (self.steps - step) / max(self.decay_steps, 1))


def make_optimizers(
    parameters: Mapping[str, Tensor],
    is_hidden: Callable[[str], bool],
    learning_rate: float,
    adam_learning_rate: float,
    weight_decay: float,
    kind: str = "muon",
    mixed_precision: str = "no",
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of hidden layers and Adam for the rest; or AdamW for all, with decay for these matrices.

    Args:
        parameters: by name.
        is_hidden: of a name, whether it belongs to a hidden layer; vectors never count.
        learning_rate: of Muon; AdamW has only the other.
        kind: "muon" or "adamw".
        mixed_precision: "bf16" lets Muon compute in bfloat16 what need not be exact.
    """
    matrices = [p for name, p in parameters.items() if p.ndim >= 2 and is_hidden(name)]
    hidden = {id(p) for p in matrices}
    others = [p for p in parameters.values() if id(p) not in hidden]
    adam: dict[str, Any] = {"lr": adam_learning_rate, "betas": (0.9, 0.99)}
    if kind == "adamw":
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW([group for group in groups if group["params"]], **adam)]
    return [
        Muon(
            matrices,
            learning_rate,
            weight_decay=weight_decay,
            compute_dtype=torch.bfloat16 if mixed_precision == "bf16" else torch.float32,
        ),
        torch.optim.AdamW(others, weight_decay=0.0, **adam),
    ]


class TrainingState:
    """Everything that a step changes, so that a run goes on from a checkpoint as if it had never stopped."""

    def __init__(self, tensors: dict[str, Tensor], optimizers: Sequence[Any]) -> None:
        """
        Args:
            tensors: that are trained, by name, sharing memory with the network's.
            optimizers: of them; their learning rates now are the largest of the schedule.
        """
        self.tensors = tensors
        self.optimizers = list(optimizers)
        self.average = {name: value.detach().clone() for name, value in tensors.items()}
        self.step = 0
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def set_rates(self, factor: float) -> None:
        """Set all learning rates to `factor` times their largest."""
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def finish_step(self, decay: float) -> None:
        """Count the step and update the average, whose decay grows from 0 to `decay` as steps are done."""
        self.step += 1
        weight = 1 - min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), list(self.tensors.values()), weight)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights as long as this lasts."""
        kept = {name: value.detach().clone() for name, value in self.tensors.items()}
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(kept)

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"step": self.step, "network": self.tensors, "average": self.average, "optimizers": optimizers}
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, on any device.

        Raises:
            InputError: it belongs to another network or is damaged.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            step, optimizers = int(state["step"]), list(state["optimizers"])
            shapes = [{n: x.shape for n, x in state[name].items()} for name in ("network", "average")]
        except Exception as error:  # what reading raises depends on the bytes
            raise InputError(
                f"{path}: is no checkpoint, or a damaged one ({type(error).__name__}); choose another run folder, or "
                f"delete this one with all that it holds"
            ) from error
        if shapes != 2 * [{name: x.shape for name, x in self.tensors.items()}]:
            raise InputError(f"{path}: belongs to another network; choose another run folder")
        try:
            for optimizer, values in zip(self.optimizers, optimizers, strict=True):
                optimizer.load_state_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: was written with another optimizer; choose another run folder") from error
        self._fill(state["network"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.step = step

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.tensors[name].copy_(value)


class TrainingLog:
    """`log.jsonl` in the run folder, one line a step, and the same for TensorBoard where that is installed.

    Losses stay on the device until the next report, so that steps need not wait for them.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """
        Args:
            step: where the run goes on; what an earlier run logged after it is forgotten.
        """
        self._path = folder / "log.jsonl"
        if self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            write_text(self._path, "".join(line + "\n" for line in lines if _step_of(line) <= step))
        self._pending: list[tuple[int, dict[str, Any]]] = []
        self._board = _tensorboard(folder / "tensorboard", step)

    def add(self, step: int, values: Mapping[str, Tensor | float]) -> None:
        """Note figures of a step."""
        self._pending.append((step, dict(values)))

    def add_picture(self, step: int, name: str, picture: Float[Tensor, "3 h w"]) -> None:
        """Show a picture in TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, picture.clamp(0, 1).numpy(), step)

    def write(self) -> None:
        """Write what was noted since the last time.

        Raises:
            InputError: a figure is not finite.
        """
        with self._path.open("a", encoding="utf-8") as file:
            for step, values in self._pending:
                numbers = {name: float(value) for name, value in values.items()}
                if not torch.tensor(list(numbers.values())).isfinite().all():
                    raise InputError(
                        f"{self._path}: a loss is not finite at step {step}; lower the learning rate, and the run goes "
                        f"on from its last checkpoint"
                    )
                file.write(json.dumps({"step": step} | {name: round(v, 6) for name, v in numbers.items()}) + "\n")
                if self._board is not None:
                    for name, value in numbers.items():
                        self._board.add_scalar(name, value, step)
        self._pending = []
        if self._board is not None:
            self._board.flush()


@dataclass(frozen=True)
class Occasion:
    """What is done now and then, and at the end.

    Attributes:
        seconds: from one time to the next.
        action: called between two steps.
    """

    seconds: float
    action: Callable[[], None]


@dataclass(frozen=True)
class Saving:
    """How a run is kept: as a checkpoint, then as an export for use.

    Attributes:
        checkpoint: the file that the run goes on from.
        seconds: from one time to the next.
        export: of one state it always writes the same.
    """

    checkpoint: Path
    seconds: float
    export: Callable[[], None]

    def save(self, state: TrainingState) -> None:
        """Write both."""
        state.save(self.checkpoint)
        self.export()


def train_steps(
    state: TrainingState,
    schedule: Schedule,
    take_step: Callable[[int], tuple[dict[str, Tensor], int]],
    log: TrainingLog | None,
    saving: Saving | None,
    occasions: Sequence[Occasion],
    ema_decay: float,
    on_progress: Callable[[TrainingProgress], None] | None,
    clock: DataClock | None = None,
    deadline: float = math.inf,
) -> None:
    """Take the steps that are left, or those that begin before a deadline, but at least one.

    Where none is left, the run may have been killed between its last checkpoint and export: the export is made again.

    Args:
        take_step: from the number of a step to its losses, one of them "total", and the number of its samples.
        log, saving: none in processes that do not report.
        clock: of the waiting for data in `take_step`.
        deadline: by `time.monotonic()`; then all occasions come once more, as at the end. For a single process.
    """
    if saving:
        occasions = [Occasion(saving.seconds, functools.partial(saving.save, state)), *occasions]
        if state.step >= schedule.steps:
            saving.export()
    now = time.monotonic()
    reported, due = now, [now + occasion.seconds for occasion in occasions]
    losses: list[Tensor] = []
    samples, clock = 0, clock or DataClock()
    waited, done = clock.seconds, state.step >= schedule.steps
    while not done:
        state.set_rates(schedule.factor(state.step))
        terms, count = take_step(state.step)
        state.finish_step(ema_decay)
        samples += count
        losses.append(terms["total"])
        if log:
            log.add(state.step, terms)
        now = time.monotonic()
        done = state.step == schedule.steps or now >= deadline
        if done or now - reported > _REPORT_SECONDS:
            loss, elapsed = float(torch.stack(losses).mean()), time.monotonic() - reported
            speed, busy = samples / elapsed, 1 - (clock.seconds - waited) / elapsed
            if log:
                log.add(state.step, {"samples_per_second": speed, "busy_share": busy})
                log.write()
            if on_progress:
                left = (schedule.steps - state.step) * elapsed / len(losses)
                on_progress(TrainingProgress(state.step, schedule.steps, loss, speed, left, elapsed, busy))
            losses, samples, waited, reported = [], 0, clock.seconds, time.monotonic()
        for index, occasion in enumerate(occasions):
            if done or now > due[index]:
                if log:
                    log.write()  # refuses losses that are not finite, before they are kept
                occasion.action()
                if log:
                    log.write()
                due[index] = time.monotonic() + occasion.seconds


def _step_of(line: str) -> int:
    """Of a line of the log; a line that was cut off when the run was killed comes after everything."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**63


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of event files, or none where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
