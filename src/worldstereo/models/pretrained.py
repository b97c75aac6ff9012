"""Networks of the transformers and diffusers libraries from local folders."""

import contextlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import torch

from worldstereo.errors import InputError


def load_pretrained(
    model_class: Any,
    folder: str | Path,
    dtype: torch.dtype,
    device: str | torch.device,
    may_lack: Set[str] = frozenset(),
) -> Any:
    """A network in evaluation mode, with every tensor from the weights: none is left at random values.

    Args:
        model_class: of the transformers library.
        folder: with `config.json` and safetensors; nothing is downloaded.
        dtype: that the weights are converted to while they are read.
        device: where the network goes.
        may_lack: tensors that the weights need not have because the caller sets them.

    Raises:
        InputError: the folder holds no such network, or its files are damaged or incomplete.
    """
    import transformers

    dtype_argument = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    what = f"{model_class.__name__} with safetensors weights"
    with loading(folder, what):
        network, report = model_class.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{dtype_argument: dtype},
        )
    lacking = sorted(set(report["missing_keys"]) - may_lack)
    if lacking:
        raise InputError(f"{folder}: the weights of this {what} lack {', '.join(lacking[:3])}; fetch the model again")
    return network.to(device).eval()


def load_complete(model_class: Any, folder: str | Path, **options: Any) -> Any:
    """A network of the diffusers library with every tensor from the weights, where the library would leave some random.

    Args:
        options: of its `from_pretrained`.

    Raises:
        InputError: the weights lack a tensor, or the configuration is none of this network.
    """
    try:
        network, report = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if lacking := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder}: the weights of this {model_class.__name__} lack {', '.join(lacking[:3])}; fetch the model again"
        )
    return network


@contextlib.contextmanager
def loading(folder: str | Path, what: str) -> Iterator[None]:
    """Turn what the transformers library raises about a folder into one sentence.

    Raises:
        InputError: the block raised any error.
    """
    try:
        yield
    except Exception as error:  # errors of configuration, files and shapes share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{folder}: no {what} can be loaded from here ({reason}); fetch the model again") from error
