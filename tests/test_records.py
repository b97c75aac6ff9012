"""Dataclasses out of JSON: what fits comes back, everything else is one sentence with file, field and mend."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from worldstereo.errors import InputError
from worldstereo.records import read_record


@dataclass(frozen=True)
class Inner:
    name: str
    weight: float


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int
    size: tuple[int, int]
    parts: tuple[Inner, ...]
    note: str | None
    options: dict[str, int]


GOOD = Outer(True, 3, (4, 5), (Inner("a", 0.5), Inner("b", 2)), None, {"x": 1})


def values() -> dict:
    return json.loads(json.dumps(asdict(GOOD)))


def test_what_was_written_is_read():
    assert read_record(Outer, values() | {"more": 1}, Path("f.json"), "mend it") == GOOD


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"flag": 1}, "flag", "true or false"),
        ({"count": True}, "count", "a whole number"),
        ({"parts": [{"name": "a", "weight": 10**400}]}, "parts[0].weight", "a finite number"),
        ({"count": 1.5}, "count", "a whole number"),
        ({"count": None}, "count", "a whole number"),
        ({"size": [1]}, "size", "a list of 2"),
        ({"size": "12"}, "size", "a list of 2"),
        ({"size": [1, "2"]}, "size[1]", "a whole number"),
        ({"parts": {}}, "parts", "a list"),
        ({"parts": [3]}, "parts[0]", "an object"),
        ({"parts": [{"name": "a", "weight": float("nan")}]}, "parts[0].weight", "a finite number"),
        ({"parts": [{"name": None, "weight": 1}]}, "parts[0].name", "text"),
        ({"note": 7}, "note", "text"),
        ({"options": []}, "options", "an object"),
    ],
)
def test_a_field_of_another_type_is_named(change, field, words):
    with pytest.raises(InputError, match="mend it") as caught:
        read_record(Outer, values() | change, Path("f.json"), "mend it")
    assert str(caught.value).startswith(f"f.json: the field '{field}' must be {words}")


def test_a_missing_field_is_named():
    broken = values()
    del broken["parts"][1]["weight"]
    with pytest.raises(InputError, match=r"f.json: the field 'parts\[1\].weight' is missing; mend it"):
        read_record(Outer, broken, Path("f.json"), "mend it")


def test_what_is_no_object_is_named():
    with pytest.raises(InputError, match=r"f.json: its content must be an object"):
        read_record(Outer, [], Path("f.json"), "mend it")
