"""Atomic writes: a file is either the old one or the new one, whatever happens in between."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from worldstereo.errors import FullDiskError, InputError

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY_PREFIX = ".writing-"
_PIECES, _PIECE = 16, 2**16  # that fingerprints are made of


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffix, so that writers that choose a format by it work. A file is on the disk before
    it gets its name, so that this holds when the machine itself stops (6 ms for a frame on a common disk).

    Raises:
        FullDiskError: the disk or the quota is full.
        InputError: the folder is read-only, or the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise_unwritable(error, path)
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def raise_unwritable(error: OSError, path: Path) -> NoReturn:
    """Turn an operating-system error of a write into one clear sentence."""
    if error.errno == errno.ENOSPC:
        raise FullDiskError(f"{path}: the disk is full; free some space and run the command again") from error
    if error.errno in (errno.EDQUOT, errno.EFBIG):
        raise FullDiskError(
            f"{path}: the quota or the limit of file sizes is reached; free some space and run the command again"
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise InputError(
            f"{path}: the folder cannot be written to; choose another folder with --out or change its permissions"
        ) from error
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        raise InputError(f"{path}: a file of that name is in the way; choose another folder with --out") from error
    raise InputError(f"{path}: cannot be written ({error}); mend that and run the command again") from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, readable by people; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_tensors(path: str | Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, from any device."""
    from safetensors.torch import save

    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        InputError: the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from error


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is what a killed run left of a write."""
    return name.startswith(_TEMPORARY_PREFIX)


def remove_leftovers(folder: str | Path) -> None:
    """Delete temporary files that a killed run left anywhere below `folder`."""
    for leftover in list(Path(folder).rglob(f"{_TEMPORARY_PREFIX}*")):
        with contextlib.suppress(OSError):
            _remove(leftover)


def file_fingerprint(path: Path) -> str:
    """Of its size and of pieces all over it, of up to 1 MiB everything: weights of other training differ in some."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(size * number // _PIECES)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()
