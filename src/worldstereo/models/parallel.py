"""One clip in several processes: diffusers' context parallelism shares its tokens out, PyTorch's FSDP2 the weights.

Every process gives the same inputs to its copy of the network and gets the same, whole output.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from diffusers.hooks import apply_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from worldstereo.errors import InputError
from worldstereo.models.attention import SplitAttentionCore
from worldstereo.models.modulated_block import ModulatedBlock
from worldstereo.models.transformer import TransformerBlock

_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BACKENDS_WITHOUT_LSE = (AttentionBackendName.NATIVE, AttentionBackendName._NATIVE_NPU)


def join_processes() -> torch.device:
    """Meet the other processes that torchrun started, unless they have met already.

    Returns:
        The device of this process: a GPU of its own, or the CPU where there is none.

    Raises:
        InputError: the program was not started by torchrun, there are fewer GPUs than processes on this machine, or the
            processes cannot meet.
    """
    if not dist.is_initialized() and (missing := [name for name in _LAUNCHER_VARIABLES if name not in os.environ]):
        raise InputError(
            f"one clip in several processes needs {', '.join(missing)} in the environment; "
            "start the program with torchrun --nproc-per-node NUMBER_OF_GPUS"
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        index = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else dist.get_rank() % gpus
        if index >= gpus:
            raise InputError(f"process {index} of this machine has no GPU; start torchrun with --nproc-per-node {gpus}")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
        except (dist.DistError, RuntimeError, ValueError) as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise InputError(f"the processes could not meet at {place} (MASTER_ADDR, MASTER_PORT): {error}") from error
    return device


def share_clip(
    model: nn.Module,
    ulysses_degree: int | None = None,
    ring_degree: int = 1,
    token_counts: Sequence[int] = (),
) -> None:
    """Share the tokens of every clip that `model` sees out among all processes; nothing happens if there is one.

    Any number of processes works with any number of heads and, unless both degrees are above 1, of tokens: as many
    targets and as many references as processes are needed at least.

    Args:
        model: a network with a plan (`_cp_plan`), or a module of such networks as `PaperTransformer` is, on the device
            where it will run.
        ulysses_degree: processes among which the heads are shared out in self-attention; if none, all that
            `ring_degree` leaves.
        ring_degree: processes among which the keys go round; more than 1 needs an attention back-end that gives the
            log-sum-exp of its scores (`model.set_attention_backend`).
        token_counts: of the targets and, if they join the self-attention, of the references, where known. If all are
            multiples of the number of processes, these need not tell each other their counts in every attention.

    Raises:
        InputError: the processes cannot meet, the degrees do not fit their number, the attention back-end or the tokens
            do not fit the degrees, or the model has no plan or is shared out already.
    """
    join_processes()
    world = dist.get_world_size()
    if ulysses_degree is None:
        ulysses_degree = world // max(ring_degree, 1)
    if min(ulysses_degree, ring_degree) < 1 or ulysses_degree * ring_degree != world:
        raise InputError(
            f"ulysses_degree {ulysses_degree} times ring_degree {ring_degree} must be the number of processes, {world}"
        )
    if world == 1:
        return
    parts: list[Any] = [part for part in (model, *model.children()) if getattr(part, "_cp_plan", None)]
    parts = [model] if model in parts else parts
    if not parts:
        raise InputError(f"{type(model).__name__} has no plan by which several processes could share a clip")
    if any(part._parallel_config is not None for part in parts):
        raise InputError("the tokens of this model are shared out already; call share_clip once")
    uneven = not token_counts or any(count % world for count in token_counts)
    if too_few := [count for count in token_counts if 0 < count < world]:
        raise InputError(f"{too_few[0]} tokens cannot be shared out among {world} processes; start fewer")
    if token_counts and uneven and ulysses_degree > 1 and ring_degree > 1:
        raise InputError(
            f"token counts {list(token_counts)} must be multiples of {world} where ulysses_degree and ring_degree are "
            "both above 1; set one of them to 1"
        )
    cores = [core for m in model.modules() if isinstance(core := getattr(m, "processor", None), SplitAttentionCore)]
    _check_backend(cores[0], ring_degree)

    # What `model.enable_parallelism` does; that one cannot be used on the CPU, where torch counts no accelerators.
    context = ContextParallelConfig(
        ulysses_degree=ulysses_degree,
        ring_degree=ring_degree,
        ulysses_anything=uneven and ring_degree == 1,
        ring_anything=uneven and ulysses_degree == 1,
    )
    device = parts[0].device
    mesh = init_device_mesh(device.type, context.mesh_shape, mesh_dim_names=context.mesh_dim_names)
    parallel = ParallelConfig(context_parallel_config=context)
    parallel.setup(dist.get_rank(), world, device, mesh=mesh)
    for core in cores:
        core._parallel_config = parallel
    for part in parts:
        part._parallel_config = parallel
        apply_context_parallel(part, context, part._cp_plan)


def shard_weights(model: nn.Module, mesh: DeviceMesh | None = None) -> None:
    """Keep only a share of every weight in each process (FSDP2); a block's weights come together while it runs.

    It goes together with `share_clip`, in either order. To run a network that has parameters of several types, such as
    bfloat16 with some float32, freeze it first (`model.requires_grad_(False)`).

    Args:
        model: the same in every process.
        mesh: of the processes; a second dimension keeps copies (replicate, shard). If none, all processes in one row.

    Raises:
        InputError: the processes cannot meet.
    """
    device = join_processes()
    if mesh is None:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in [module for module in model.modules() if _runs_everywhere(module)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _runs_everywhere(module: nn.Module) -> bool:
    """Whether it is a block that all processes run together: they do not wait for each other in one that some skip."""
    if isinstance(module, ModulatedBlock):
        return isinstance(module.self_attn.processor, SplitAttentionCore)
    return isinstance(module, TransformerBlock)


def _check_backend(core: SplitAttentionCore, ring_degree: int) -> None:
    if core._attention_backend is None:
        backend, _ = _AttentionBackendRegistry.get_active_backend()
    else:
        backend = AttentionBackendName(core._attention_backend)
    able = set(_AttentionBackendRegistry._supports_context_parallel)
    if ring_degree > 1:
        able -= {name.value for name in _BACKENDS_WITHOUT_LSE}
    if backend.value not in able:
        raise InputError(
            f"attention back-end {backend.value!r} cannot share a clip out with ring_degree {ring_degree}; "
            f"choose one of {', '.join(sorted(able))} with set_attention_backend"
        )
