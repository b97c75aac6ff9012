"""A run folder belongs to one run at a time."""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from worldstereo.errors import InputError
from worldstereo.locks import locked

_LOCK = "training.lock"


@runtime_checkable
class _HasRunFolder(Protocol):
    @property
    def run_folder(self) -> Path: ...


Config = TypeVar("Config", bound=_HasRunFolder)
Others = ParamSpec("Others")


def alone_in_run_folder(
    train: Callable[Concatenate[Config, Others], Path],
) -> Callable[Concatenate[Config, Others], Path]:
    """A training function that holds its run folder: of two runs there each would overwrite the other's checkpoints.

    The operating system frees the folder when the process ends, however it ends. Under `accelerate launch` the first
    process holds it for all.

    Raises:
        InputError: (by what is returned) another process trains there.
    """

    @functools.wraps(train)
    def alone(config: Config, *args: Others.args, **kwargs: Others.kwargs) -> Path:
        with contextlib.ExitStack() as held:
            if int(os.environ.get("RANK", "0")) == 0:
                try:
                    held.enter_context(locked(config.run_folder / _LOCK, wait=False))
                except BlockingIOError:
                    raise InputError(
                        f"{config.run_folder}: another process is training in this folder; wait until it ends, or "
                        f"choose another --run"
                    ) from None
            return train(config, *args, **kwargs)

    return alone
