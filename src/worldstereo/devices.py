"""Where networks can run."""

import torch

from worldstereo.errors import InputError


def find_device(name: str) -> torch.device:
    """The device of that name: cpu, cuda, cuda:1, mps, as torch calls them.

    Raises:
        InputError: this computer has none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: is no device; use cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda":
        here = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    elif device.type == "mps":
        here = torch.backends.mps.is_available()
    else:
        here = device.type == "cpu"
    if not here:
        raise InputError(f"--device {name}: this computer has no such device; use --device cpu")
    return device
