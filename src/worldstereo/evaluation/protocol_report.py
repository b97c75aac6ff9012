"""Results of a protocol's items as tables, JSON and bars."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldstereo.evaluation.protocol import Figure, Protocol, Result
from worldstereo.evaluation.report_pictures import bar_chart, side_by_side
from worldstereo.evaluation.report_table import Mean, markdown_table, paired
from worldstereo.files import write_json, write_text
from worldstereo.images import save_png


def write_report(
    out: Path, protocol: Protocol, results: Sequence[Result], facts: Mapping[str, Any], skipped: Mapping[str, str]
) -> Path:
    """Write `NAME.json`, bars of each set as a picture and, last, `NAME.md`, whose path is given.

    Figures of a scene with several items are averaged first, so that scenes count alike and standard errors and
    intervals are those of independent scenes.

    Args:
        facts: what tables must say beside their figures: software, hardware, seeds, the command.
        skipped: what was left out, with reasons.
    """
    groups = {result["group"]: [r for r in results if r["group"] == result["group"]] for result in results}
    sets = [_set(group, items, protocol) for group, items in groups.items()]
    write_json(out / f"{protocol.name}.json", {**facts, "skipped": dict(skipped), "sets": sets})
    for group, items in groups.items():
        charts = []
        for figure in protocol.figures:
            bars = [(r.name, r.learned, m) for r in protocol.rows if (m := _mean(items, r.name, figure.key))]
            if bars:
                charts.append(bar_chart(figure.title, bars, figure.digits))
        if charts:
            save_png(out / f"{group.replace(', ', '-').replace(' ', '-')}.png", side_by_side(charts))
    path = out / f"{protocol.name}.md"
    write_text(path, "\n\n".join(_paragraphs(groups, protocol, facts, skipped)) + "\n")
    return path


def _paragraphs(
    groups: Mapping[str, Sequence[Result]], protocol: Protocol, facts: Mapping[str, Any], skipped: Mapping[str, str]
) -> Iterable[str]:
    yield f"# {protocol.title}"
    yield "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items() if value is not None)
    yield protocol.notes
    names = [row.name for row in protocol.rows]
    for group, items in groups.items():
        plural = "" if len(items) == 1 else "s"
        yield f"## {group[0].upper()}{group[1:]}: {len(items)} {protocol.item}{plural}"
        yield protocol.about(items)
        there = [figure for figure in protocol.figures if any(_mean(items, name, figure.key) for name in names)]
        rows = [[name, *(_cell(_mean(items, name, f.key), f) for f in there)] for name in names]
        yield markdown_table(["", *(figure.title for figure in there)], [row for row in rows if any(row[1:])])
        yield from _differences(items, protocol, [figure for figure in there if figure.compared])
        failures = [(item["name"], *failure) for item in items for failure in item.get("failures", {}).items()]
        if failures:
            yield "Failures:"
            yield "\n".join(f"- {item}, {row}: {reason}" for item, row, reason in failures)
    if skipped:
        yield "## Skipped"
        yield "\n".join(f"- {name}: {reason}" for name, reason in skipped.items())


def _differences(items: Sequence[Result], protocol: Protocol, figures: Sequence[Figure]) -> Iterable[str]:
    for comparison in protocol.comparisons:
        rows = []
        for row in protocol.rows:
            other = row.rival if comparison.base is None else comparison.base
            if not row.learned or other is None or other == row.name:
                continue
            cells = [_cell(_difference(items, row.name, other, figure.key), figure, signed=True) for figure in figures]
            if any(cells):
                rows.append([row.name, *cells])
        if rows:
            yield f"Differences from {comparison.title}, {protocol.item} by {protocol.item}:"
            yield markdown_table(["", *(figure.title for figure in figures)], rows)


def _set(group: str, items: Sequence[Result], protocol: Protocol) -> dict[str, Any]:
    rows = {}
    for each in protocol.rows:
        row: dict[str, Any] = {"figures": _plain({f.key: _mean(items, each.name, f.key) for f in protocol.figures})}
        for base in dict.fromkeys((each.rival, *(comparison.base for comparison in protocol.comparisons))):
            if base is not None and base != each.name:
                compared = {f.key: _difference(items, each.name, base, f.key) for f in protocol.figures if f.compared}
                if plain := _plain(compared):
                    row.setdefault("differences", {})[base] = plain
        if row["figures"]:
            rows[each.name] = row
    return {"set": group, f"{protocol.item}s": [item["name"] for item in items], "rows": rows}


def _plain(means: Mapping[str, Mean | None]) -> dict[str, Any]:
    return {name: mean.to_json() for name, mean in means.items() if mean is not None}


def _values(items: Sequence[Result], row: str, key: str) -> list[float | None]:
    """A figure of each scene: the mean over its items that have it."""
    scenes: dict[str | int, list[float | None]] = {}
    for number, item in enumerate(items):
        scenes.setdefault(item.get("scene", number), []).append(item["rows"].get(row, {}).get(key))
    means = (Mean.of(values) for values in scenes.values())
    return [None if mean is None else mean.value for mean in means]


def _mean(items: Sequence[Result], row: str, key: str) -> Mean | None:
    return Mean.of(_values(items, row, key))


def _difference(items: Sequence[Result], row: str, other: str, key: str) -> Mean | None:
    return paired(_values(items, row, key), _values(items, other, key))


def _cell(mean: Mean | None, figure: Figure, signed: bool = False) -> str:
    return "" if mean is None else mean.text(figure.digits, signed)
