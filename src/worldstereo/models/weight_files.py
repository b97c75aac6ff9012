"""Weights that users bring: safetensors, or PyTorch's files, of which only tensors are read."""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from worldstereo.errors import InputError

SUFFIXES = (".safetensors", ".pth", ".pt")

_BLOCK = 1 << 20
_STATED_HASH = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+")


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU; mapped from the file where its kind allows it.

    A name that ends in `-` and eight or more hexadecimal digits, as PyTorch names what it gives away, states the
    beginning of the file's SHA-256.

    Raises:
        InputError: no such file, not named tensors, or its content is not what its name states.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; put the weights there or correct the path")
    stated = _STATED_HASH.search(path.name)
    if stated and not _sha256(path).startswith(stated[1]):
        raise InputError(f"{path}: its SHA-256 does not begin with {stated[1]}, as its name says; download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # whose words advise to run whatever the file says
        raise InputError(f"{path}: is damaged or holds more than tensors; download it again") from error
    except Exception as error:  # errors of files and of the unpickler share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as weights ({reason}); download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds something else than named tensors; give a state dict")
    return {str(name): value for name, value in state.items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
