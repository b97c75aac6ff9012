"""Trajectories from text, as the command line takes them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from worldstereo.cameras.trajectories.curves import Ellipse, Spiral, Spline
from worldstereo.cameras.trajectories.moves import Move, Orbit, Slide, Turn, Zoom
from worldstereo.cameras.trajectories.presets import PRESETS
from worldstereo.cameras.trajectories.trajectory import Trajectory
from worldstereo.cameras.trajectories.units import Length
from worldstereo.errors import InputError

_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)"
_DEGREES = rf"{_NUMBER}\s*(?:deg|°)?"
_LENGTH = rf"{_NUMBER}\s*([rm]?)"
_FACTOR = rf"{_NUMBER}\s*x?"
_BY = r"\s*[x×]\s*"


@dataclass(frozen=True)
class MoveKind:
    """Moves that take the same kind of amount.

    Attributes:
        names: the words before the colon.
        amount: what stands after the colon, in words.
        example: an amount.
        meaning: one line for the help.
        pattern: regular expression of the amount.
        build: the move of a name and the amount's matched groups.
    """

    names: tuple[str, ...]
    amount: str
    example: str
    meaning: str
    pattern: str
    build: Callable[..., Move]


def _orbit(name: str, degrees: str) -> Move:
    return Orbit(name, float(degrees))


def _turn(name: str, degrees: str) -> Move:
    return Turn(name, float(degrees))


def _slide(name: str, value: str, unit: str) -> Move:
    return Slide(name, Length(float(value), unit or "r"))


def _zoom(name: str, factor: str) -> Move:
    return Zoom(name, float(factor))


def _ellipse(name: str, horizontal: str, vertical: str, unit: str) -> Move:
    return Ellipse(Length(float(horizontal), unit or "r"), Length(float(vertical), unit or "r"))


def _spiral(name: str, radius: str, unit: str, turns: str | None) -> Move:
    return Spiral(Length(float(radius), unit or "r"), float(turns or 2))


_LENGTH_WORDS = "a length in r (median depths), or in metres ending in m"
MOVE_KINDS: tuple[MoveKind, ...] = (
    MoveKind(
        ("orbit-left", "orbit-right"),
        "degrees, up to 360",
        "60",
        "circle sideways about the point at the median depth, looking at it",
        _DEGREES,
        _orbit,
    ),
    MoveKind(
        ("orbit-up", "orbit-down"),
        "degrees, up to 85",
        "20",
        "rise or sink on that circle, looking at it",
        _DEGREES,
        _orbit,
    ),
    MoveKind(
        ("ellipse",),
        "horizontal x vertical half axis in r (median depths), or in metres ending in m",
        "0.3x0.4",
        "one closed turn in the image plane, looking at that point",
        rf"{_NUMBER}{_BY}{_LENGTH}",
        _ellipse,
    ),
    MoveKind(
        ("spiral",),
        _LENGTH_WORDS + ", the radius, x turns (2 unless given)",
        "0.2x3",
        "outwards in the image plane, looking at that point",
        rf"{_LENGTH}(?:{_BY}{_NUMBER})?",
        _spiral,
    ),
    MoveKind(("dolly-in", "dolly-out"), _LENGTH_WORDS, "0.5", "translate along the optical axis", _LENGTH, _slide),
    MoveKind(("truck-left", "truck-right"), _LENGTH_WORDS, "0.2", "translate sideways", _LENGTH, _slide),
    MoveKind(("pedestal-up", "pedestal-down"), _LENGTH_WORDS, "1.5m", "translate vertically", _LENGTH, _slide),
    MoveKind(("pan-left", "pan-right"), "degrees, up to 360", "30", "turn sideways on the spot", _DEGREES, _turn),
    MoveKind(("tilt-up", "tilt-down"), "degrees, up to 90", "10", "turn up or down on the spot", _DEGREES, _turn),
    MoveKind(("zoom-in", "zoom-out"), "a factor, up to 10", "1.5", "change the focal length alone", _FACTOR, _zoom),
)
_KIND_OF_NAME = {name: kind for kind in MOVE_KINDS for name in kind.names}
_CAMERA_FILE = re.compile(rf"(.+\.(?:json|txt))(?::{_NUMBER}([rm]))?(?::{_NUMBER}%)?", re.IGNORECASE)
_MISREAD_FILE = re.compile(r".+\.(?:json|txt)\s*:(.*)", re.IGNORECASE)


def parse_trajectory(text: str) -> Trajectory:
    """The trajectory that a text names.

    The text is one move, `name:amount` (see `MOVE_KINDS`), or several joined by `+`, done one after the other:
    `dolly-in:0.3+pan-left:40`. Lengths are in r, the median depth, unless they end in `m`. A camera file
    (`path.json`, `path.txt`) stands for the spline through its poses; `path.json:0.5r` says that one unit of the file
    is half the median depth (a world unit otherwise), `path.json:60%` uses the first 60 % of it.

    Raises:
        InputError: an unknown move, amount or unit (the message names the nearest known ones), or a camera file that
            cannot be read as `worldstereo.cameras.files.read_cameras` says.
    """
    whole = _CAMERA_FILE.fullmatch(text.strip())
    if whole is not None and Path(whole[1]).is_file():  # its name may hold a +
        return Trajectory((_file_move(*whole.groups()),))
    return Trajectory(tuple(_move(part.strip(), text) for part in text.split("+")))


def preset(name: str) -> tuple[Trajectory, ...]:
    """The trajectories of a preset, in the order in which their clips are made.

    Raises:
        InputError: the preset is not known; the message names the nearest and all known ones.
    """
    key = name.strip().lower()
    if key not in PRESETS:
        near = get_close_matches(key, PRESETS, n=2, cutoff=0.5)
        hint = f"; did you mean {_either(near)}?" if near else ""
        raise InputError(f"the preset '{name}' is not known{hint}; known presets are {', '.join(PRESETS)}")
    return tuple(parse_trajectory(text) for text in PRESETS[key])


def _move(part: str, text: str) -> Move:
    file = _CAMERA_FILE.fullmatch(part)
    if file is not None:
        return _file_move(*file.groups())
    misread = _MISREAD_FILE.fullmatch(part)
    if misread is not None:
        raise InputError(
            f"the trajectory '{text}' has '{misread[1]}' after a camera file, where its unit may stand, as in "
            "path.json:0.5r or path.json:1m, or the part to use, as in path.json:60%"
        )
    name, _, amount = (piece.strip() for piece in part.lower().partition(":"))
    name = name.replace("_", "-")
    kind = _KIND_OF_NAME.get(name)
    if kind is None:
        raise InputError(f"the trajectory '{text}' has an unknown move '{name}'{_suggestion(name)}")
    usage = f"{name} takes {kind.amount}, as in {name}:{kind.example}"
    match = re.fullmatch(kind.pattern, amount)
    if match is None:
        fault = f"has no positive amount '{amount}' for {name}" if amount else f"lacks the amount of {name}"
        raise InputError(f"the trajectory '{text}' {fault}; {usage}")
    try:
        move: Move = kind.build(name, *match.groups())
    except InputError as error:
        raise InputError(f"the trajectory '{text}' cannot be used: {error}") from None
    if move == move.scaled(0.0):
        raise InputError(f"the trajectory '{text}' has a move that does not move, {part}; {usage}")
    return move


def _file_move(path: str, value: str | None, unit: str | None, percent: str | None) -> Spline:
    from worldstereo.cameras.files import read_cameras

    # A path needs poses and the change of the focal length alone: the rest may be missing in the file.
    cameras = read_cameras(path, width=1, height=1, intrinsics=torch.eye(3)).cameras
    length = None if value is None or unit is None else Length(float(value), unit.lower())
    return Spline.through(cameras, path, length, 100.0 if percent is None else float(percent))


def _suggestion(name: str) -> str:
    known = list(_KIND_OF_NAME)
    near = [move for move in known if name and name in move.split("-")]
    near = near or get_close_matches(name, known, n=3, cutoff=0.6)
    if name in PRESETS:
        hint = f", which is a preset: use --preset {name}"
    elif near:
        hint = f"; did you mean {_either(near)}?"
    else:
        hint = ""
    return f"{hint}; known moves are {', '.join(known)}, and camera files (.json, .txt)"


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
