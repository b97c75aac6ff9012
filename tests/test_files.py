"""Writes are all or nothing, and what hinders them is said in one sentence."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldstereo.errors import InputError
from worldstereo.files import (
    atomic_path,
    file_fingerprint,
    read_json,
    remove_leftovers,
    write_json,
    write_tensors,
    write_text,
)
from worldstereo.locks import locked


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "limit of file sizes"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_what_hinders_a_write_is_named(tmp_path, monkeypatch, code, said):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=rf"a\.json.*{said}"):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(InputError, match="in the way"):
        write_text(tmp_path / "w" / "a.txt", "")


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match=r"b\.json"):
        read_json(tmp_path / "b.json")


def test_tensors_round_trip_whatever_their_strides(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([True, False])}
    write_tensors(tmp_path / "t.safetensors", tensors)
    read = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_leftovers_of_a_killed_run_are_swept_up(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".writing-0123-x.png").write_text("")
    (tmp_path / "deep" / "kept.png").write_text("")
    (tmp_path / "deep" / ".writing-4567-folder").mkdir()
    (tmp_path / "deep" / ".writing-4567-folder" / "part").write_text("")
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["kept.png"]


def test_a_folder_that_cannot_be_finished_is_removed(tmp_path):
    def write_half() -> None:
        with atomic_path(tmp_path / "export") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text("")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="disk is full"):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_lock_is_held_by_one_and_its_file_may_be_deleted_by_the_holder(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with locked(lock, wait=False):
        with pytest.raises(BlockingIOError), locked(lock, wait=False):
            pass
        waiting = threading.Thread(target=lambda: locked(lock, wait=True).__enter__())
        waiting.start()
        lock.unlink()
        lock.parent.rmdir()
    waiting.join(10)
    assert not waiting.is_alive()
    assert lock.exists()


def test_a_lock_in_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    def vanish(self, *arguments, **options):
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", vanish)
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "new" / ".lock", wait=True):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="has no locks"), locked(tmp_path / ".lock", wait=True):
        pass


@pytest.mark.parametrize("size", [1000, 1 << 20, 5 << 20])
def test_a_fingerprint_tells_other_contents_and_not_other_places(tmp_path, size):
    content = bytes(range(250)) * (size // 250 + 1)
    one, moved, longer, other = (tmp_path / name for name in ("one", "moved", "longer", "other"))
    one.write_bytes(content[:size])
    moved.write_bytes(content[:size])
    longer.write_bytes(content[: size + 1])
    other.write_bytes(content[: size // 2] + b"\xff" + content[size // 2 + 1 : size])
    assert file_fingerprint(one) == file_fingerprint(moved)
    assert len({file_fingerprint(path) for path in (one, longer, other)}) == 3
