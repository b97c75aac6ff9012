"""Results of the ladder's clips as tables, JSON and bars."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldstereo.evaluation.ladder_figures import FIGURES, Figure
from worldstereo.evaluation.ladder_pictures import bar_chart, side_by_side
from worldstereo.evaluation.report_table import Mean, markdown_table, paired
from worldstereo.evaluation.rungs import TRUTH, WITHOUT_MEMORY, WITHOUT_STEREO, Rung
from worldstereo.files import write_json, write_text
from worldstereo.images import save_png

_NOTES = """\
Means over clips ± standard error, without each clip's first frame, which is given. PSNR in dB of all pixels of a
clip together. "Known" pixels are those where the cloud of the first frame shows something; "seen holes" are holes of it
that the pixel's own reference or a frame that grew the cloud shows; "holes that only references show" are holes of
the grown cloud too; "unseen holes" are what no frame in memory shows: there, PSNR favours smooth guesses, gradient
energy and seam are relative to the truth (1 = the truth's), and texture and colour distance are 0 for the truth.
Revisit PSNR: two clips whose paths meet, made one after the other, the second compared with the first moved by true
depth; "invented" is what the first picture did not show. RotErr and TransErr (mean, of the path's length): cameras that
direct alignment of the true surfaces with the frames finds, starting from the commanded ones, unaligned; those not
found are counted. Depth given to the memories is exact (procedural), stored with the capture, or estimated, as stated;
never that of generated frames. "s per clip" is the generator alone."""


def write_report(
    out: Path,
    results: Sequence[dict[str, Any]],
    rungs: Sequence[Rung],
    facts: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> Path:
    """Write `ladder.json`, bars of each set as a picture and, last, `ladder.md`, whose path is given."""
    groups = {result["group"]: [r for r in results if r["group"] == result["group"]] for result in results}
    sets = [_set(group, clips, rungs) for group, clips in groups.items()]
    write_json(out / "ladder.json", {**facts, "skipped": dict(skipped), "sets": sets})
    for group, clips in groups.items():
        charts = []
        for figure in FIGURES:
            bars = [(r.name, r.learned, m) for r in rungs if (m := _mean(clips, r.name, figure.key)) is not None]
            if bars:
                charts.append(bar_chart(figure.title, bars, figure.digits))
        save_png(out / f"{group.replace(', ', '-').replace(' ', '-')}.png", side_by_side(charts))
    path = out / "ladder.md"
    write_text(path, "\n\n".join(_paragraphs(groups, rungs, facts, skipped)) + "\n")
    return path


def _paragraphs(
    groups: Mapping[str, Sequence[dict[str, Any]]],
    rungs: Sequence[Rung],
    facts: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> Iterable[str]:
    yield "# Ladder"
    yield "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items() if value is not None)
    yield _NOTES
    for group, clips in groups.items():
        yield f"## {group[0].upper()}{group[1:]}: {len(clips)} clips"
        yield _about(clips)
        names = [TRUTH, *(rung.name for rung in rungs)]
        there = [figure for figure in FIGURES if any(_mean(clips, name, figure.key) for name in names)]
        rows = [[name, *(_cell(_mean(clips, name, f.key), f) for f in there)] for name in names]
        yield markdown_table(["", *(figure.title for figure in there)], [row for row in rows if any(row[1:])])
        yield from _differences(clips, rungs, [figure for figure in there if figure.compared])
    if skipped:
        yield "## Skipped"
        yield "\n".join(f"- {name}: {reason}" for name, reason in skipped.items())


def _about(clips: Sequence[dict[str, Any]]) -> str:
    """Where depth comes from, and how many pixels there are of each kind."""
    sources = sorted({clip["depth"] for clip in clips})
    shares = {name: Mean.of(clip["shares"][name] for clip in clips) for name in clips[0]["shares"]}
    parts = ", ".join(f"{name} {100 * mean.value:.1f} %" for name, mean in shares.items() if mean is not None)
    names = ", ".join(clip["name"] for clip in clips)
    return f"Depth: {', '.join(sources)}. Pixels: {parts}. Clips: {names}."


def _differences(clips: Sequence[dict[str, Any]], rungs: Sequence[Rung], figures: Sequence[Figure]) -> Iterable[str]:
    """Paired differences from pull-push of the same cloud, and from the model without stereo branch or memory."""
    bases = {"pull-push of the same cloud": None, WITHOUT_STEREO: WITHOUT_STEREO, WITHOUT_MEMORY: WITHOUT_MEMORY}
    for title, base in bases.items():
        rows = []
        for rung in rungs:
            other = rung.rival if base is None else base
            if not rung.learned or other is None or other == rung.name:
                continue
            cells = [_cell(_difference(clips, rung.name, other, figure.key), figure, signed=True) for figure in figures]
            if any(cells):
                rows.append([rung.name, *cells])
        if rows:
            yield f"Differences from {title}, clip by clip:"
            yield markdown_table(["", *(figure.title for figure in figures)], rows)


def _set(group: str, clips: Sequence[dict[str, Any]], rungs: Sequence[Rung]) -> dict[str, Any]:
    rows = {}
    for name, rival in [(TRUTH, None), *((rung.name, rung.rival) for rung in rungs)]:
        means = {figure.key: _mean(clips, name, figure.key) for figure in FIGURES}
        row: dict[str, Any] = {"figures": _plain(means)}
        for base in dict.fromkeys((rival, WITHOUT_STEREO, WITHOUT_MEMORY)):
            if base is not None and base != name:
                compared = {f.key: _difference(clips, name, base, f.key) for f in FIGURES if f.compared}
                if plain := _plain(compared):
                    row.setdefault("differences", {})[base] = plain
        if row["figures"]:
            rows[name] = row
    return {"set": group, "clips": [clip["name"] for clip in clips], "rows": rows}


def _plain(means: Mapping[str, Mean | None]) -> dict[str, Any]:
    return {name: mean.to_json() for name, mean in means.items() if mean is not None}


def _values(clips: Sequence[dict[str, Any]], row: str, key: str) -> list[float | None]:
    return [clip["rows"].get(row, {}).get(key) for clip in clips]


def _mean(clips: Sequence[dict[str, Any]], row: str, key: str) -> Mean | None:
    return Mean.of(_values(clips, row, key))


def _difference(clips: Sequence[dict[str, Any]], row: str, other: str, key: str) -> Mean | None:
    return paired(_values(clips, row, key), _values(clips, other, key))


def _cell(mean: Mean | None, figure: Figure, signed: bool = False) -> str:
    return "" if mean is None else mean.text(figure.digits, signed)
