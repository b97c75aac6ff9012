"""Pieces of COLMAP files, read front to back: binary values that are all there, and lines of text."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from worldstereo.errors import InputError

_MAX_NAME = 4096


class BinaryReader:
    """A binary file read front to back; nothing is allocated that the file is too short for."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.left = path.stat().st_size

    @classmethod
    def open(cls, path: Path) -> "BinaryReader":
        """Open a file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return cls(path, path.open("rb"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error

    def __enter__(self) -> "BinaryReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self._consume(size)
        return self.file.read(size)

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        self._consume(size)
        self.file.seek(size, 1)

    def unpack(self, layout: str) -> tuple:
        """The next values, laid out as `struct` says."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def count(self, minimum_bytes: int) -> int:
        """The number of entries that follow, each of at least so many bytes."""
        (count,) = self.unpack("<Q")
        if count * minimum_bytes > self.left:
            raise InputError(
                f"{self.path}: says {count} entries but is too short for them; it is cut off or no COLMAP file"
            )
        return count

    def name(self) -> str:
        """Text up to a zero byte."""
        characters = bytearray()
        while (character := self.take(1)) != b"\0":
            characters += character
            if len(characters) > _MAX_NAME:
                raise InputError(f"{self.path}: an image name is longer than {_MAX_NAME} bytes; it is no COLMAP file")
        try:
            return characters.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: an image name is not UTF-8") from None

    def _consume(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise InputError(f"{self.path}: ends too early; it is cut off or no COLMAP file")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, numbered from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None


def whole(word: str, where: str) -> int:
    """A whole number of a line."""
    try:
        return int(word)
    except ValueError:
        raise InputError(f"{where}: '{word[:40]}' must be a whole number") from None


def real(word: str, where: str) -> float:
    """A number of a line."""
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{where}: '{word[:40]}' must be a number") from None
