"""Packages and weights that are not ours: what is said when they are missing, and under which licence they come."""

from collections.abc import Callable, Mapping
from typing import Any

from worldstereo.errors import InputError


def missing_package(name: str, package: str, how: str, error: ImportError) -> InputError:
    """The error of a reconstructor whose package cannot be imported."""
    return InputError(f"--depth {name}: needs the package '{package}' ({error}); {how}")


def load_network(name: str, load: Callable[[], Any]) -> Any:
    """What `load` gives, ready to predict.

    Raises:
        InputError: it gives nothing, for whatever reason.
    """
    try:
        return load().eval()
    except Exception as error:  # hub, network, checkpoint and version errors share no base class
        raise InputError(
            f"--depth {name}: cannot be loaded ({type(error).__name__}: {error}); check the name, and download the "
            f"weights once while connected (some must be asked for on their page)"
        ) from error


def licence_of(model: str, known: Mapping[str, str]) -> str:
    """The licence of a model's weights."""
    return known.get(model, "the licence that their model card states")
