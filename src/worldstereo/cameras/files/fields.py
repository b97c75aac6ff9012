"""A cursor into parsed JSON whose errors name the file and the field."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldstereo.errors import InputError


@dataclass(frozen=True)
class Field:
    """One value of a JSON file and where it stands.

    Every method checks the type of the value and raises `InputError` naming file and field where it is wrong.
    """

    path: Path
    name: str
    value: Any

    def fail(self, complaint: str) -> InputError:
        """The error that this field `complaint`."""
        return InputError(f"{self.path}: {self.name or 'the file'} {complaint}")

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> "Field":
        if key not in self._object():
            raise self.fail(f"has no field '{key}'")
        return Field(self.path, f"{self.name}.{key}" if self.name else key, self.value[key])

    def items(self) -> "Iterator[tuple[str, Field]]":
        """Keys and values of an object."""
        return ((key, self[key]) for key in self._object())

    def elements(self) -> "list[Field]":
        """The elements of a list that is not empty."""
        if not isinstance(self.value, list):
            raise self.fail(f"must be a list, not {_kind(self.value)}")
        if not self.value:
            raise self.fail("is an empty list; at least one camera is needed")
        return [Field(self.path, f"{self.name}[{i}]", value) for i, value in enumerate(self.value)]

    def number(self) -> float:
        """A finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.fail(f"must be a number, not {_kind(self.value)}")
        try:
            number = float(self.value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.fail("is not finite")
        return number

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            raise self.fail(f"must be text, not {_kind(self.value)}")
        return self.value

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        """A matrix of finite numbers given as a list of rows, float64 [rows, columns]."""
        lines = self.value
        if (
            not isinstance(lines, list)
            or len(lines) != rows
            or any(not isinstance(line, list) or len(line) != columns for line in lines)
        ):
            raise self.fail(f"must be a {rows}×{columns} matrix given as {rows} rows of {columns} numbers")
        return np.array([[Field(self.path, self.name, v).number() for v in line] for line in lines])

    def pose(self) -> np.ndarray:
        """A rigid transform given as 4×4 or 3×4 matrix, float64 [4, 4]."""
        if isinstance(self.value, list) and len(self.value) == 3:
            return np.vstack([self.matrix(3, 4), [0.0, 0.0, 0.0, 1.0]])
        return self.matrix(4, 4)

    def _object(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.fail(f"must be an object, not {_kind(self.value)}")
        return self.value


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
