"""Published weights into our networks: tensor by tensor, into a network that has no memory yet.

Peak host memory is that of the network plus one tensor. A complete checkpoint needs nothing else; of one that leaves
the frozen backbone out, only the missing tensors are taken from the base model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.files import read_json
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.published import PublishedTransformer
from worldstereo.models.weight_files import read_weights

_BRANCH_PREFIXES = ("controlnet.", "camera_embedding.")

BaseWeights = Callable[[], Iterable[Path]]
"""Fetches the safetensors files of the base model's transformer; called only if they are needed."""


@dataclass(frozen=True)
class Loaded:
    """A network and where its weights came from.

    Attributes:
        from_base: names of the tensors that the checkpoint lacks and the base model gave.
    """

    network: PublishedTransformer
    from_base: tuple[str, ...]


def load_published(
    config: Path | Mapping[str, Any],
    weights: Path,
    *,
    base_weights: BaseWeights | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    on_module: Callable[[nn.Module], None] | None = None,
) -> Loaded:
    """A published camera or memory model.

    Args:
        config: `kind` ("camera" or "memory"), `transformer` (the base model's transformer config) and
            `controlnet_cfg`, or a JSON file of these.
        weights: the checkpoint, a safetensors file.
        base_weights: where tensors of the frozen backbone come from that the checkpoint leaves out.
        dtype: of the weights, save those that `_keep_in_fp32_modules` names.
        device: where each tensor goes as soon as it is read.
        on_module: called with every block as soon as it is complete, e.g. to quantise it.

    Raises:
        InputError: a config field is missing, unknown or wrong; a tensor is missing, unknown or of another shape.
    """
    values = read_json(config) if isinstance(config, Path) else config
    name = str(config) if isinstance(config, Path) else "the model's config"
    with init_empty_weights():
        network = build_published(values, name)
    sources = [_tensors(weights)]
    expected = set(network.state_dict())
    missing = expected - set(_names(weights))
    if branch := sorted(key for key in missing if key.startswith(_BRANCH_PREFIXES)):
        raise InputError(f"{weights}: lacks the tensor {branch[0]}; download the file again, or check {name}")
    if missing:
        if base_weights is None:
            raise InputError(
                f"{weights}: holds only part of the backbone (no {min(missing)}) and no base model is given; "
                "give the folder or hub id of the base model"
            )
        sources += [_tensors(file, missing) for file in base_weights() if missing & set(_names(file))]
    fill(network, (pair for source in sources for pair in source), str(weights), dtype, device, on_module)
    return Loaded(network.eval().requires_grad_(False), tuple(sorted(missing)))


def build_published(values: Mapping[str, Any], name: str = "the model's config") -> PublishedTransformer:
    """The network of `kind`, `transformer` and `controlnet_cfg` (see `load_published`), with random weights.

    Raises:
        InputError: a field is missing, unknown or wrong; the message begins with `name`.
    """
    for field in ("kind", "transformer", "controlnet_cfg"):
        if field not in values:
            raise InputError(f"{name}: the field '{field}' is missing; take the config that came with the weights")
    if values["kind"] not in ("camera", "memory"):
        raise InputError(f"{name}: the field 'kind' is {values['kind']!r} but must be 'camera' or 'memory'")
    control, memory = dict(values["controlnet_cfg"]), values["kind"] == "memory"
    needed = ["conv_out_dim", "dim", "ffn_dim", "num_heads", "num_layers", "time_embed_dim"]
    needed += ["update_ref"] if memory else []
    needed += ["camera_embedding_dim"] if memory and control.get("main_camera_embedding") else []
    for field in needed:
        if field not in control:
            raise InputError(f"{name}: the field 'controlnet_cfg.{field}' is missing; take the published config")
    backbone = {key: value for key, value in values["transformer"].items() if not key.startswith("_")}
    try:
        return PublishedTransformer(controlnet_cfg=control, memory=memory, **backbone)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: has a field that this network does not take ({error})") from error


def load_uni3c(weights: Path, num_heads: int = 16, dtype: torch.dtype = torch.float32) -> ControlBranch:
    """Uni3C's control weights as a `ControlBranch`, whose sizes are read off the tensors.

    Args:
        weights: Uni3C's `controlnet` file: safetensors, or the published `.pth`, of which only tensors are read.
        num_heads: cannot be seen in the weights; 16 is Uni3C's.

    Raises:
        InputError: not such a file.
    """
    state = {key.removeprefix("controlnet."): value for key, value in read_weights(weights).items()}
    try:
        mask = state["controlnet_mask_embedding.mask_proj.0.weight"].shape
        patch = state["controlnet_patch_embedding.weight"].shape
        block = "controlnet_blocks.0."
        with init_empty_weights():
            branch = ControlBranch(
                conv_out_dim=patch[0],
                dim=state[block + "self_attn.to_q.weight"].shape[0],
                ffn_dim=state[block + "ffn.0.weight"].shape[0],
                num_heads=num_heads,
                num_layers=sum(key.startswith("proj_out.") and key.endswith(".weight") for key in state),
                time_embed_dim=state[block + "norm1.linear.weight"].shape[1],
                add_channels=mask[1],
                mid_channels=mask[0],
                mask_downsample=mask[2],
                in_channels=patch[1],
                out_channels=state["proj_out.0.weight"].shape[0],
                patch_size=tuple(patch[2:]),
            )
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"{weights}: is not a file of Uni3C's control weights ({error})") from error
    fill(branch, state.items(), str(weights), dtype, "cpu")
    return branch


def fill(
    network: Any,
    tensors: Iterable[tuple[str, Tensor]],
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    on_module: Callable[[nn.Module], None] | None = None,
) -> None:
    """Give a network without memory its tensors, one after the other.

    Raises:
        InputError: a tensor is missing, unknown or of another shape; the message begins with `name`.
    """
    expected = {key: value.shape for key, value in network.state_dict().items()}
    full_precision = network._keep_in_fp32_modules or []
    ignored = network._keys_to_ignore_on_load_unexpected or []
    open_blocks = _count_by_block(expected) if on_module else {}
    for key, tensor in tensors:
        if key not in expected:
            if any(part in key for part in ignored):
                continue
            raise InputError(f"{name}: holds the tensor {key}, which this network does not have; check its config")
        if tensor.shape != expected[key]:
            raise InputError(
                f"{name}: the tensor {key} is {tuple(tensor.shape)} but the config asks for {tuple(expected[key])}"
            )
        kept = torch.float32 if any(part in key for part in full_precision) else dtype
        # a copy: tensors of a file are views of it, oddly aligned, and die with it
        set_module_tensor_to_device(network, key, device, value=tensor.to(device, kept, copy=True), dtype=kept)
        del expected[key]
        if on_module and (block := _block_of(key)):
            open_blocks[block] -= 1
            if open_blocks[block] == 0:
                on_module(network.get_submodule(block))
        del tensor  # before the next one is read
    if expected:
        raise InputError(f"{name}: lacks the tensor {min(expected)}; download the file again, or check its config")


def _count_by_block(keys: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key in keys:
        if block := _block_of(key):
            counts[block] = counts.get(block, 0) + 1
    return counts


def _block_of(key: str) -> str | None:
    """The repeated block that a tensor belongs to."""
    parts = key.split(".")
    for index, part in enumerate(parts[:-1]):
        if part in ("blocks", "controlnet_blocks") and parts[index + 1].isdigit():
            return ".".join(parts[: index + 2])
    return None


def _names(file: Path) -> list[str]:
    with _opened(file) as tensors:
        return list(tensors.keys())


def _tensors(file: Path, only: set[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, read when asked for. The file is opened anew for each: what was read of a file stays in
    memory as long as it is open."""
    for key in _names(file):
        if only is None or key in only:
            with _opened(file) as tensors:
                yield key, tensors.get_tensor(key)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: is not a readable safetensors file ({error}); download it again") from error
