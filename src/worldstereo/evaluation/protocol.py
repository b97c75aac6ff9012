"""What all comparisons of generators share: items measured one by one, rows and figures, and how stopped runs go on."""

import hashlib
import os
import platform
import typing
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

import worldstereo
from worldstereo.errors import InputError
from worldstereo.files import read_json, remove_leftovers, write_json

OnProgress = Callable[[str, float], None]
"""Called as (what is being done, share of the whole that is done in [0, 1])."""

Result = dict[str, Any]
"""What was measured of an item, as plain values: `name`, `group` (the set that it belongs to), `rows` (figures by row
and key, none for what cannot be said) and perhaps `scene` (items of one scene count as one, by their mean), `failures`
(reasons by row) and whatever the protocol says about its items."""


PROCEDURAL_SOURCE = "procedural"
"""The source of items whose name has the seed of their scene."""

_SEEDS = 1_000_003


def silent(what: str, share: float) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Figure:
    """A column.

    Attributes:
        key: in JSON.
        title: in tables.
        digits: behind the point.
        better: "higher", "lower" or "1" (the truth's own value).
        compared: whether differences between rows are shown.
    """

    key: str
    title: str
    digits: int
    better: str
    compared: bool = False


@typing.runtime_checkable
class Row(typing.Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """Of the row."""
        ...

    @property
    def learned(self) -> bool:
        """Whether a network is involved; all other rows are baselines."""
        ...

    @property
    def rival(self) -> str | None:
        """The row that it is compared with."""
        ...


@dataclass(frozen=True)
class Reference:
    """A row that no generator makes: what the truth or the input alone gives.

    Attributes:
        name: of the row.
    """

    name: str
    learned: bool = False
    rival: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A table of paired differences, item by item.

    Attributes:
        title: what the rows are compared with.
        base: the row; none for the rival of each.
    """

    title: str
    base: str | None = None


@dataclass(frozen=True)
class Protocol:
    """A kind of evaluation.

    Attributes:
        name: of the files and for messages, e.g. "ladder".
        title: heading of the report.
        item: what is measured, e.g. "clip"; its plural names the folder of the items' results.
        figures: the columns.
        rows: in the order of the tables.
        notes: what readers of the tables must know.
        comparisons: tables of differences.
        about: a sentence on the items of a set.
    """

    name: str
    title: str
    item: str
    figures: tuple[Figure, ...]
    rows: tuple[Row, ...]
    notes: str
    comparisons: tuple[Comparison, ...]
    about: Callable[[Sequence[Result]], str]


@dataclass(frozen=True)
class Item:
    """One thing to measure: a clip, a scene.

    Attributes:
        name: fit for a file, different from all others'.
        source: a fingerprint of the data that it is measured from.
        measure: called with a progress report of its own work.
    """

    name: str
    source: str
    measure: Callable[[OnProgress], Result]


def run_items(
    out: Path, protocol: Protocol, settings: Mapping[str, Any], items: Sequence[Item], on_progress: OnProgress
) -> list[Result]:
    """Measure all items that have no result yet; gives the results of all.

    `out` gets `settings.json` and one file for each item, written when it is finished: a run that was stopped goes on
    with the item it was at, and more items may be added to the same folder later.

    Args:
        settings: what results depend on, as plain values.

    Raises:
        InputError: `out` holds results of other settings or of other data, or something else; or two items have one
            name.
    """
    names = Counter(item.name.casefold() for item in items)
    if twice := next((item.name for item in items if names[item.name.casefold()] > 1), None):
        raise InputError(f"two {protocol.item}s would be called '{twice}'; rename the folder of one of them")
    _claim(out, protocol, settings)
    folder = out / f"{protocol.item}s"
    share = 1 / max(1, len(items))
    for number, item in enumerate(items):
        path = folder / f"{item.name}.json"
        if path.is_file():
            if read_json(path).get("source") != item.source:
                raise InputError(
                    f"{path}: was measured from other data; choose another folder with --out, or delete the file to "
                    f"measure it again"
                )
            continue
        report = part_of(on_progress, f"{item.name} ({number + 1} of {len(items)})", share * number, share)
        write_json(path, item.measure(report) | {"source": item.source})
    on_progress("writing the report", 1.0)
    return [read_json(folder / f"{item.name}.json") for item in items]


def file_names(places: Iterable[str]) -> list[str]:
    """Names fit for files, for paths or names in that order: all different, also where letters' case does not count."""
    found: dict[str, str] = {}
    for place in places:
        plain = place.replace("/", "-")
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        name = next(name for name in numbered if name.casefold() not in found)
        found[name.casefold()] = name
    return list(found.values())


def fingerprint(*parts: bytes) -> str:
    """Of data; see `Item.source`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def part_of(on_progress: OnProgress, name: str, begin: float, share: float) -> OnProgress:
    """Reports a part of the work under its name.

    Args:
        begin, share: where the part begins in the whole, and how much of the whole it is.
    """

    def report(what: str, done: float) -> None:
        on_progress(f"{name}: {what}", begin + share * done)

    return report


def steps_of(on_progress: OnProgress, name: str, begin: float, share: float) -> Callable[[int, int], None]:
    """The same of a part that is called with (steps done, steps in all)."""

    def report(done: int, steps: int) -> None:
        on_progress(name, begin + share * done / steps)

    return report


def seed_of(seed: int, name: str) -> int:
    """Of the noise of an item of that name, in every row."""
    return seed * _SEEDS + zlib.crc32(name.encode()) % _SEEDS


def measured_with(device: str) -> dict[str, str]:
    """Software and hardware, for reports."""
    hardware = f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    if device.startswith("cuda"):
        hardware += f", {torch.cuda.get_device_name(device)}"
    return {"software": f"worldstereo {worldstereo.__version__}, torch {torch.__version__}", "hardware": hardware}


def _claim(out: Path, protocol: Protocol, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of other settings; results of both would be mixed."""
    path, name = out / "settings.json", protocol.name
    remove_leftovers(out)
    if path.is_file():
        found = read_json(path)
        if different := [key for key in settings if found.get(key) != settings[key]]:
            key = different[0]
            raise InputError(
                f"{out}: holds a {name} with {key} {found.get(key)!r}, not {settings[key]!r}; "
                f"choose another folder with --out"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds something else than a {name}; choose another folder with --out")
    else:
        write_json(path, dict(settings))
