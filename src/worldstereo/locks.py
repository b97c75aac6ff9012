"""Locks that the operating system frees when the process ends, however it ends."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from worldstereo.errors import InputError
from worldstereo.files import raise_unwritable

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_PAUSE = 0.02  # seconds between two looks at a lock that is waited for
_TRIES = 100  # to make a folder that others remove at the same time


@contextlib.contextmanager
def locked(path: str | Path, wait: bool) -> Iterator[None]:
    """Hold a lock on the file `path`, which is made, with its folder, if it is not there.

    Whoever holds the lock may delete the file: those who wait for it notice and lock the new one.

    Raises:
        BlockingIOError: another process holds it, and `wait` is not set.
        InputError: the file cannot be made, or the file system has no locks.
    """
    handle = _acquire(Path(path), wait)
    try:
        yield
    finally:
        os.close(handle)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        handle = _open(path)
        try:
            _lock(handle, path)
            if _is_still(handle, path):
                return handle
        except BlockingIOError:
            if not wait:
                os.close(handle)
                raise
            time.sleep(_PAUSE)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _open(path: Path) -> int:
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError as error:  # its folder was removed just now by the one who had held it
            missing = error
        except OSError as error:
            raise_unwritable(error, path.parent)
    raise_unwritable(missing, path.parent)


def _is_still(handle: int, path: Path) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(handle: int, path: Path) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, "locked") from None
        raise InputError(
            f"{path.parent}: the file system has no locks ({error.strerror}); choose a folder elsewhere, or have it "
            f"mounted with locks"
        ) from error
