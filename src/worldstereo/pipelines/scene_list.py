"""A list of scenes: JSON lines, each a picture and options of `worldstereo generate`.

    {"picture": "temple.jpg"}
    {"picture": "hall.png", "out": "hall-2", "trajectory": ["orbit-right:30", "dolly-in:0.2"], "seed": 3}

Fields are the options' names, with - or _; paths are meant as on the command line.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from worldstereo.errors import InputError
from worldstereo.models.hub import DEFAULT_MODEL, ModelSource
from worldstereo.models.low_memory import Quantize
from worldstereo.pipelines.batch import Models, Scene
from worldstereo.pipelines.failures import FAILURES
from worldstereo.pipelines.generator_options import DType, GeneratorOptions
from worldstereo.pipelines.starting_point import Projection
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import Settings, create_generator

_LONE = re.compile("[\ud800-\udfff]")
"""Halves of UTF-16 pairs, which JSON can have but no file can be named by."""

_OF_THE_BATCH = {"device": "--devices", "offload": "--offload", "offline": "--offline", "quiet": "--quiet"}


@dataclass(frozen=True)
class _Kind:
    """What a field's value may be: a test and its name."""

    fits: Callable[[Any], bool]
    name: str


def _choice(*values: str) -> _Kind:
    return _Kind(lambda value: value in values, f"one of {', '.join(values)}")


_TEXT = _Kind(lambda value: isinstance(value, str) and "\0" not in value and not _LONE.search(value), "a text")
_WHOLE = _Kind(lambda value: type(value) is int, "a whole number")
_NUMBER = _Kind(lambda value: type(value) is float or (type(value) is int and abs(value) < 2**53), "a number")
_TRUTH = _Kind(lambda value: type(value) is bool, "true or false")
_TEXTS = _Kind(
    lambda value: _TEXT.fits(value) or (isinstance(value, list) and bool(value) and all(map(_TEXT.fits, value))),
    "a text or a list of texts",
)
_FIELDS = {
    "picture": _TEXT,
    "out": _TEXT,
    "trajectory": _TEXTS,
    "preset": _TEXT,
    "model": _TEXT,
    "depth": _TEXT,
    "depth_scale": _NUMBER,
    "camera": _TEXT,
    "projection": _choice("auto", *get_args(Projection)),
    "fov": _NUMBER,
    "short_side": _WHOLE,
    "frames": _WHOLE,
    "squeeze": _TRUTH,
    "seed": _WHOLE,
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "prompt_embeddings": _TEXT,
    "steps": _WHOLE,
    "guidance": _NUMBER,
    "dtype": _choice(*get_args(DType)),
    "quantize": _choice(*get_args(Quantize)),
}
_OPTIONS = ("prompt", "negative_prompt", "prompt_embeddings", "steps", "guidance", "dtype", "quantize")
_SETTINGS = ("preset", "projection", "short_side", "frames", "squeeze", "seed")


def read_scenes(path: str | Path) -> list[Scene]:
    """The scenes of a list; whether their pictures are any good is not looked at.

    Raises:
        InputError: the list cannot be read or is empty; or a line is no JSON object, or a field of it is unknown,
            missing or wrong, or two scenes have one name: file, line and field are named.
    """
    path = Path(path)
    scenes: list[Scene] = []
    lines: dict[str, int] = {}
    for number, text in enumerate(_read(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            scene = _scene(_fields(text))
            earlier = lines.setdefault(scene.name.casefold(), number)
            if earlier != number:
                raise InputError(
                    f"the world would be called '{scene.name}' like that of line {earlier}; give one of them another "
                    f"name with the field 'out'"
                )
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        scenes.append(scene)
    if not scenes:
        raise InputError(f'{path}: lists no scene; write a line such as {{"picture": "photo.jpg"}} for each')
    return scenes


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text in UTF-8; write one JSON object a line") from None


def _fields(text: str) -> dict[str, Any]:
    """The given fields of a line, by their names with underscores."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error}); write one object a line") from None
    if not isinstance(values, dict):
        raise InputError('must be a JSON object, such as {"picture": "photo.jpg"}')
    found: dict[str, Any] = {}
    for given, value in values.items():
        name = given.replace("-", "_")
        if name in _OF_THE_BATCH:
            raise InputError(f"the field '{given}' is chosen for the whole batch; use {_OF_THE_BATCH[name]}")
        if name not in _FIELDS:
            raise InputError(f"the field '{given}' is unknown; choose among {', '.join(_FIELDS)}")
        if name in found:
            raise InputError(f"the field '{given}' is there twice; leave one out")
        if value is not None and not _FIELDS[name].fits(value):
            raise InputError(f"the field '{given}' is {json.dumps(value)} but must be {_FIELDS[name].name}")
        found[name] = value
    if found.get("picture") in (None, ""):
        raise InputError("the field 'picture' is missing; name a photograph or a panorama")
    return {
        name: float(value) if _FIELDS[name] is _NUMBER else value for name, value in found.items() if value is not None
    }


def _scene(fields: Mapping[str, Any]) -> Scene:
    picture = Path(fields["picture"])
    return Scene(
        name=_name(fields.get("out", picture.stem)), picture=picture, settings=_settings(fields), models=_models(fields)
    )


def _name(name: str) -> str:
    if not name or name.startswith(".") or name.casefold() == FAILURES or any(sign in name for sign in "/\\:"):
        raise InputError(
            f"the world cannot be called '{name}'; give it the name of a folder inside --out with the field 'out'"
        )
    return name


def _settings(fields: Mapping[str, Any]) -> Settings:
    """The settings, whose trajectories or preset are known to exist."""
    trajectories = fields.get("trajectory", ())
    if trajectories and "preset" in fields:
        raise InputError("the fields 'preset' and 'trajectory' are both there; use one of them")
    settings = Settings(
        trajectories=(trajectories,) if isinstance(trajectories, str) else tuple(trajectories),
        camera=Path(fields["camera"]) if "camera" in fields else None,
        default_fov=fields.get("fov", Settings.default_fov),
        **{name: fields[name] for name in _SETTINGS if name in fields},
    )
    try:
        settings.paths("perspective")
    except InputError as error:
        raise InputError(f"the field '{'preset' if 'preset' in fields else 'trajectory'}': {error}") from error
    return settings


def _models(fields: Mapping[str, Any]) -> Models:
    """The models, of which the generator's name is known to be one."""
    options = GeneratorOptions(**{name: fields[name] for name in _OPTIONS if name in fields})
    model = fields.get("model", DEFAULT_MODEL)
    if model == WarpGenerator.name:
        create_generator(model, options)
    else:
        ModelSource.parse(model)
    return Models(model, options, fields.get("depth", Models.depth), fields.get("depth_scale"))
