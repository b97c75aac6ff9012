"""Dataclasses out of JSON, the types of all fields checked."""

import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from worldstereo.errors import InputError

Record = TypeVar("Record")

_WORDS = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false", dict: "an object"}


def read_record(kind: type[Record], values: Any, path: Path, mend: str, field: str = "") -> Record:
    """The dataclass whose fields have these values; fields of `values` that it does not have are ignored, and those
    that are missing have their defaults.

    Fields are text, numbers, booleans, objects, null, tuples (lists in JSON), dataclasses, or a union of these.

    Args:
        path: of the file, and `field` of the values in it, for errors; `mend` says what to do about them.

    Raises:
        InputError: a field without default is missing, or one is of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{path}: {_named(field)} must be an object; {mend}")
    hints = get_type_hints(kind)
    read = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        place = f"{field}.{entry.name}" if field else entry.name
        if entry.name not in values:
            if entry.default is not MISSING or entry.default_factory is not MISSING:
                continue
            raise InputError(f"{path}: the field '{place}' is missing; {mend}")
        read[entry.name] = _read(hints[entry.name], values[entry.name], path, mend, place)
    return kind(**read)


def _read(hint: Any, value: Any, path: Path, mend: str, field: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _read(hint, value, path, mend, field)
    if origin is tuple:
        any_number = arguments[-1] is ...
        if not isinstance(value, list) or not (any_number or len(value) == len(arguments)):
            length = "" if any_number else f" of {len(arguments)}"
            raise InputError(f"{path}: {_named(field)} must be a list{length}; {mend}")
        kinds = [arguments[0]] * len(value) if any_number else arguments
        places = zip(kinds, value, strict=True)
        return tuple(_read(kind, item, path, mend, f"{field}[{k}]") for k, (kind, item) in enumerate(places))
    if is_dataclass(hint):
        return read_record(hint, value, path, mend, field)  # type: ignore[arg-type]
    kind = origin or hint
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is float and not abs(value) <= sys.float_info.max):
        raise InputError(f"{path}: {_named(field)} must be {_WORDS[kind]}; {mend}")
    return value


def _named(field: str) -> str:
    return f"the field '{field}'" if field else "its content"
