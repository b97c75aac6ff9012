"""Large networks on small devices: weights that wait elsewhere, and weights in one byte. All through libraries."""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from worldstereo.errors import MissingExtraError

Offload = Literal["none", "group", "disk"]
Quantize = Literal["none", "float8", "int8"]


def offload(network: nn.Module, where: Offload, device: str) -> None:
    """Let every layer's weights wait in host memory ("group") or in files of the temporary folder ("disk"), and go to
    `device` for the moment of its work; on CUDA the next layer's are copied meanwhile. Results do not change.

    Under guidance each layer's weights travel once a step: all contexts pass in one batch. The files go with the
    network, or with the process.
    """
    if where == "none":
        return
    from diffusers.hooks import apply_group_offloading

    folder = None
    if where == "disk":
        folder = tempfile.mkdtemp(prefix="worldstereo-")
        weakref.finalize(network, shutil.rmtree, folder, ignore_errors=True)
    apply_group_offloading(
        network,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device.startswith("cuda"),
        offload_to_disk_path=folder,
    )


def store_in_float8(network: Any, compute: torch.dtype) -> None:
    """Hold the weights of a diffusers network in float8 (e4m3) and bring each layer's to `compute` while it works.

    Embeddings and normalisations stay as they are (`_skip_layerwise_casting_patterns`).
    """
    from diffusers.hooks import apply_layerwise_casting

    kept = (*network._skip_layerwise_casting_patterns, *(network._keep_in_fp32_modules or ()))
    apply_layerwise_casting(
        network, storage_dtype=torch.float8_e4m3fn, compute_dtype=compute, skip_modules_pattern=kept
    )


def quantizer(how: Quantize) -> Callable[[nn.Module], None] | None:
    """What brings a block's linear layers to 8-bit integers with one scale a row; none unless "int8" is asked for.

    Raises:
        MissingExtraError: torchao is not installed.
    """
    if how != "int8":
        return None
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise MissingExtraError("torchao", "quantize", "--quantize int8") from error
    return lambda module: quantize_(module, Int8WeightOnlyConfig())
