"""What all comparisons of whole worlds can be asked, and what their reports say of it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import worldstereo
from worldstereo.cameras.trajectories import parse_trajectory
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import InputError
from worldstereo.evaluation.methods import Method, find_methods
from worldstereo.evaluation.protocol import Item, OnProgress, Protocol, measured_with, run_items
from worldstereo.evaluation.protocol_report import write_report
from worldstereo.evaluation.reference_depth import EXACT
from worldstereo.evaluation.subjects import Subject, find_subjects
from worldstereo.evaluation.worlds import WorldMaker
from worldstereo.models.hub import weights_fingerprint
from worldstereo.pipelines.world import Settings

_OPTIONS = {"models": "model", "trajectories": "trajectory", "outputs": "output"}
_NOT_IN_RESULTS = ("out", "data", "scenes")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """What to evaluate.

    Attributes:
        out: folder of the results.
        models: as `--model` takes them; the baselines are in every table.
        data: folder of captures in any layout of `data.captures`; none for procedural scenes alone.
        scenes: number of procedural scenes.
        depth: back-end, or "exact" for the true depth of the picture (generated frames then take nano's).
        steps: of the models' samplers; their own if none.
        short_side, frames: of the clips; the generator's choice if none.
        seed: of the noise: equal in every row.
    """

    out: Path
    models: tuple[str, ...] = ()
    data: Path | None = None
    scenes: int = 4
    depth: str = "nano"
    steps: int | None = None
    short_side: int | None = None
    frames: int | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenes < 0 or (self.scenes == 0 and self.data is None):
            raise InputError(f"--scenes {self.scenes}: there is nothing to evaluate; give scenes or --data")
        Settings(short_side=self.short_side, frames=self.frames, seed=self.seed)  # says what is out of range

    def settings(self) -> dict[str, Any]:
        """What results depend on, as JSON will give it back."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_IN_RESULTS}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        weights = {model: weights_fingerprint(model) for model in self.models}
        return plain | {"weights": weights, "software": worldstereo.__version__}

    def facts(self, verb: str) -> dict[str, Any]:
        """What every table says beside its figures."""
        return measured_with(self.device) | {
            "models": ", ".join(self.models) or "none, baselines only",
            "weights": ", ".join(str(weights_fingerprint(model)) for model in self.models) or None,
            "depth": self.depth,
            "seed": self.seed,
            "command": self._command(verb),
        }

    def methods(self) -> tuple[Method, ...]:
        """Baselines and models.

        Raises:
            InputError: a model cannot be read, or makes clips of another length than is asked for.
        """
        methods = find_methods(self.models, self.steps, self.device)
        for method in methods:
            made = method.create().frames
            if made is not None and self.frames not in (None, made):
                raise InputError(f"--frames {self.frames}: {method.name} makes {made}; leave the option out")
        return methods

    def subjects(self, *, photos: bool = False) -> list[Subject]:
        """Pictures to start from."""
        return find_subjects(self.data, self.scenes, self.device, photos=photos)

    def maker(self) -> WorldMaker:
        """Makes the worlds of all rows alike."""
        estimator = create_depth_estimator("nano" if self.depth == EXACT else self.depth, device=self.device)
        return WorldMaker(estimator, self.depth == EXACT, self.short_side, self.frames, self.seed)

    def _command(self, verb: str) -> str:
        words = ["worldstereo", "evaluate", verb]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "out" or value == field.default:
                continue
            option = f"--{_OPTIONS.get(field.name, field.name).replace('_', '-')}"
            for each in value if isinstance(value, tuple) else (value,):
                words += [option, str(each)]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class PathsConfig(ComparisonConfig):
    """What to evaluate of worlds that are made along paths.

    Attributes:
        trajectories: the paths.
    """

    trajectories: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.trajectories:
            parse_trajectory(text)


def compare(
    config: ComparisonConfig,
    protocol: Protocol,
    items: Sequence[Item],
    on_progress: OnProgress,
    *,
    facts: Mapping[str, Any] = _NOTHING,
    measured_by: Mapping[str, Any] = _NOTHING,
    skipped: Mapping[str, str] = _NOTHING,
) -> Path:
    """Measure the items that have no result yet, then write the report; gives `NAME.md`.

    Args:
        facts: what the report says beside those of every report.
        measured_by: such facts that results depend on, too.
        skipped: what was left out, with reasons.

    Raises:
        InputError: an item cannot be measured, or `out` holds results of other settings.
    """
    results = run_items(config.out, protocol, config.settings() | dict(measured_by), items, on_progress)
    said = {**config.facts(protocol.name), **measured_by, **facts}
    return write_report(config.out, protocol, results, said, skipped)
