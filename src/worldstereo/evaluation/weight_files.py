"""Weights of learned figures: which tensors they must have, and how they are told from others."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from worldstereo.errors import InputError

Shapes = dict[str, tuple[int, ...]]
"""Of tensors by name."""


def checked(path: Path, weights: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """The named tensors in float32; others are left.

    Args:
        path: named in errors.

    Raises:
        InputError: a tensor is missing, has another shape, or is not finite.
    """
    for name, shape in shapes.items():
        if name not in weights:
            raise InputError(f"{path}: lacks the tensor {name}; give the weights that docs/evaluation.md names")
        if tuple(weights[name].shape) != shape:
            raise InputError(
                f"{path}: the tensor {name} is {tuple(weights[name].shape)}, not {shape}; "
                f"give the weights that docs/evaluation.md names"
            )
        if not bool(weights[name].isfinite().all()):
            raise InputError(f"{path}: the tensor {name} holds values that are not finite; download the file again")
    return {name: weights[name].float() for name in shapes}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Sixteen digits that tell these weights from others, in whatever kind of file they came."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
