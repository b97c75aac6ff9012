"""Atomic writes: a file is either the old one or the new one, whatever happens in between."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldstereo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY_PREFIX = ".writing-"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffix, so that writers that choose a format by it work.

    Raises:
        InputError: the folder is read-only, the disk is full, or the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise_unwritable(error, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def raise_unwritable(error: OSError, path: Path) -> None:
    """Turn an operating-system error of a write into one clear sentence; re-raise any other error."""
    if error.errno == errno.ENOSPC:
        raise InputError(f"{path}: the disk is full; free some space and run the command again") from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise InputError(
            f"{path}: the folder cannot be written to; choose another folder with --out or change its permissions"
        ) from error
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        raise InputError(f"{path}: a file of that name is in the way; choose another folder with --out") from error
    raise error


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


def remove_leftovers(folder: str | Path) -> None:
    """Delete temporary files that a killed run left anywhere below `folder`."""
    for leftover in Path(folder).rglob(f"{_TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            leftover.unlink()
