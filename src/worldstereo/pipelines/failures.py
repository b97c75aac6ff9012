"""failures.jsonl: the scenes of a folder of worlds that were given up, kept right by any number of processes."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from worldstereo.errors import InputError
from worldstereo.files import write_text
from worldstereo.locks import locked
from worldstereo.pipelines.batch import Failure

FAILURES = "failures.jsonl"


class FailureLog:
    """A line for each scene that failed at its last try; a scene that succeeds loses its line."""

    def __init__(self, out: Path) -> None:
        """
        Args:
            out: the folder of the worlds.
        """
        self.path = out / FAILURES
        self._known = {line["scene"] for line in self._read()}

    def add(self, failure: Failure) -> None:
        """Note a failure, instead of an earlier one of the scene."""
        line = {
            "scene": failure.scene.name,
            "picture": str(failure.scene.picture),
            "error": failure.error,
            "attempts": failure.attempts,
        } | ({"details": failure.details} if failure.details else {})
        self._known.add(failure.scene.name)
        self._change(lambda lines: [*_without(lines, failure.scene.name), line])

    def forget(self, scene: str) -> None:
        """Take away a scene's line, if it has one."""
        if scene in self._known:
            self._known.remove(scene)
            self._change(lambda lines: _without(lines, scene))

    def _change(self, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        with self._exclusive():
            lines = change(self._read())
            if lines:
                write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
            else:
                self.path.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        try:
            lines = [json.loads(text) for text in self.path.read_text(encoding="utf-8").split("\n") if text]
            if all(isinstance(line["scene"], str) for line in lines):
                return lines
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise InputError(f"{self.path}: is damaged; delete it and run the command again, which tries the scenes again")

    def _exclusive(self) -> AbstractContextManager[None]:
        return locked(self.path.with_name(".failures.lock"), wait=True)


def _without(lines: list[dict[str, Any]], scene: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["scene"] != scene]
