"""Training configurations as JSON files: a dataclass's fields, those left out having their defaults.

A further field, `cuda`, is an object of fields that replace the others on a GPU.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from worldstereo.errors import InputError
from worldstereo.files import read_json

Config = TypeVar("Config")

_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    Path: ((str,), "a path"),
    dict: ((dict,), "an object"),
}


def read_config(
    path: str | Path,
    config_class: type[Config],
    run_folder: str | Path,
    data: str | Path | None,
    device: str,
    converters: Callable[[Path], Mapping[str, Callable[[Any], Any]]],
    instead: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a file.

    Args:
        run_folder, device: fields that the file cannot set.
        data: the folder that those in the file lie in; that of the file if none.
        converters: of that folder, by field; each makes a field's value of its plain JSON value. Numbers, texts, paths
            and objects need none.
        instead: plain values that replace those of the file.

    Raises:
        InputError: the file cannot be read, or a field is unknown or has a wrong value.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a JSON object with the fields of the training configuration")
    given = {"run_folder": Path(run_folder), "device": device}
    convert = converters(Path(data) if data else Path(path).parent)
    types = {field.name: field.type for field in fields(config_class) if field.name not in given}  # type: ignore[arg-type]
    on_cuda = values.pop("cuda", {})
    if not isinstance(on_cuda, dict):
        raise InputError(f"{path}: the field 'cuda' is {on_cuda!r} but must be an object of fields")
    if unknown := sorted({*values, *on_cuda} - set(types)):
        raise InputError(f"{path}: the field '{unknown[0]}' is unknown; choose among {', '.join(sorted(types))}")
    if device.startswith("cuda"):
        values |= on_cuda
    found = {}
    for name, value in (values | dict(instead or {})).items():
        try:
            found[name] = convert[name](value) if name in convert else _plain(types[name], value)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{path}: the field '{name}' is {value!r}, of a wrong kind ({error})") from error
    for field in fields(config_class):  # type: ignore[arg-type]
        if field.name not in found | given and field.default is field.default_factory is MISSING:
            raise InputError(f"{path}: the field '{field.name}' is missing; add it")
    try:
        return config_class(**found, **given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _plain(kind: Any, value: Any) -> Any:
    """A value of one of the plain kinds, or null where none is allowed."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    kind = kind if kind in _KINDS else str if isinstance(value, str) else dict
    accepted, wanted = _KINDS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"it must be {wanted}")
    return kind(value)


def require_whole(owner: object, least: int, *names: str) -> None:
    """Raises:
    InputError: one of these attributes is no whole number, or less than `least`.
    """
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r} but must be a whole number of at least {least}")


def require_number(owner: object, least: int, *names: str, most: int | None = None) -> None:
    """Raises:
    InputError: one of these attributes is no finite number, or not from `least` to `most`.
    """
    wanted = f"finite and at least {least}" if most is None else f"between {least} and {most}"
    for name in names:
        value = getattr(owner, name)
        if not (isinstance(value, int | float) and least <= value < math.inf) or (most is not None and value > most):
            raise InputError(f"{name} is {value!r} but must be {wanted}")


def require_precision(mixed_precision: str) -> None:
    """Raises:
    InputError: it is neither "no" nor "bf16".
    """
    if mixed_precision not in ("no", "bf16"):
        raise InputError(f"mixed_precision is {mixed_precision!r} but must be 'no' or 'bf16'")
