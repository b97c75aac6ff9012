"""One clip in several processes equals the clip in one."""

import copy
import json
import os
import socket
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed.tensor import DTensor

from worldstereo.errors import InputError
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.parallel import join_processes, shard_weights, share_clip
from worldstereo.models.published import PublishedTransformer
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.transformer import ClipCache, KeyframeTransformer

# Kind, frames, rows and columns of tokens, references, whether the counts are told. 35 and 7 tokens divide among
# neither 2 nor 3 processes, 36 and 12 among both; 2 and 3 heads (control branch, backbone) among one of them each.
CLIPS: dict[str, tuple[str, tuple[int, int, int], int, bool]] = {
    "camera": ("camera", (5, 1, 7), 0, False),
    "memory, updated": ("updated", (5, 1, 7), 5, False),
    "memory, updated, one reference": ("updated", (5, 1, 7), 1, True),
    "memory, kept": ("kept", (5, 1, 7), 1, False),
    "memory, even counts": ("kept", (3, 2, 6), 1, True),
    "memory, no reference": ("kept", (3, 2, 6), 0, True),
    "stereo branch": ("stereo", (5, 1, 7), 2, False),
}
HELD, MIXED = "share of the weights held", "camera, sharded bfloat16 weights"
SHARDED = {f"{case}, sharded weights": case for case in ("memory, updated", "stereo branch")}
LIMIT_S = 120


def network(kind: str) -> nn.Module:
    """A small one, with no weights at zero."""
    torch.manual_seed(1)
    control = {"conv_out_dim": 36, "dim": 16, "ffn_dim": 32, "num_heads": 2, "num_layers": 2, "time_embed_dim": 36}
    masks = {"add_channels": 7, "mid_channels": 8, "mask_downsample": 1, "interp": False}
    widths = {"num_attention_heads": 3, "attention_head_dim": 12, "num_layers": 3, "ffn_dim": 48}
    encoders = {"text_dim": 10, "freq_dim": 16, "image_dim": 14, "added_kv_proj_dim": 36}
    model: nn.Module
    if kind == "stereo":
        stereo = StereoBranch(**control, out_channels=36)
        model = PaperTransformer(KeyframeTransformer(**widths, **encoders), stereo=stereo)
    else:
        memory = {"update_ref": kind == "updated", "main_camera_embedding": True, "camera_embedding_dim": 7}
        published = control | masks | memory
        model = PublishedTransformer(controlnet_cfg=published, memory=kind != "camera", **widths, **encoders)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


def conditions(kind: str, grid: tuple[int, int, int], references: int) -> dict[str, Tensor]:
    """What does not change from step to step, under two contexts."""
    generator = torch.Generator().manual_seed(2)
    f, h, w = grid[0], 2 * grid[1], 2 * grid[2]

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    given = {"encoder_hidden_states": noise(2, 4, 10), "encoder_hidden_states_image": noise(2, 3, 14)}
    if kind == "stereo":  # the last of several processes has no target with a reference
        return given | {
            "reference_latent": noise(1, 16, references, h, w),
            "reference_of_target": torch.tensor([[-1, 0, 1] + [-1] * (f - 3)]),
            "target_pointmap_latent": noise(1, 16, f, h, w),
            "reference_pointmap_latent": noise(1, 16, references, h, w),
        }
    given |= {
        "render_latent": noise(1, 16, f, h, w),
        "render_mask": (noise(1, 1, f, 8 * h, 8 * w) > 0).float(),
        "camera_embedding": noise(1, 6, f, 8 * h, 8 * w),
    }
    if kind != "camera":
        given |= {
            "reference_latent": noise(1, 36, references, h, w),
            "ref_index": torch.arange(references) - 1,
            "camera_qt": noise(1, f, 7),
            "camera_qt_ref": noise(1, references, 7),
        }
    return given


@torch.no_grad()
def denoise(model: nn.Module, case: str) -> Tensor:
    """Velocities of three guided steps with one cache."""
    kind, grid, references, _ = CLIPS[case]
    known, cache, velocities = conditions(kind, grid, references), ClipCache(), []
    generator = torch.Generator().manual_seed(3)
    latent, rest = torch.randn(1, 36, grid[0], 2 * grid[1], 2 * grid[2], generator=generator).split([16, 20], dim=1)
    for time_step in (900.0, 600.0, 300.0):
        states = torch.cat([latent, rest], dim=1)
        velocity = model(states, torch.tensor([time_step]), cache=cache, **known).sample
        latent = latent - 0.3 * (2 * velocity[:1] - velocity[1:])
        velocities.append(velocity)
    return torch.stack(velocities).float()


def one_process(rank: int, processes: int, port: int, folder: str) -> None:
    """All cases in one of the processes; writes how far it is from the one-process result, relative to its spread."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    join_processes()
    found: dict[str, float] = {}

    def compare(name: str, case: str, model: nn.Module, expected: Tensor) -> None:
        found[name] = ((denoise(model, case) - expected).abs().max() / expected.std()).item()

    expected = {case: denoise(network(clip[0]), case) for case, clip in CLIPS.items()}
    for case, (kind, (f, h, w), references, told) in CLIPS.items():
        model = network(kind)
        share_clip(model, token_counts=(f * h * w, references * h * w) if told else ())
        if "even" in case:
            assert not model._parallel_config.context_parallel_config.ulysses_anything
        compare(case, case, model, expected[case])

    for name, case in SHARDED.items():
        model = network(CLIPS[case][0])
        total = sum(parameter.numel() for parameter in model.parameters())
        for step in (share_clip, shard_weights) if case == "stereo branch" else (shard_weights, share_clip):
            step(model)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        found[HELD] = sum(parameter.to_local().numel() for parameter in model.parameters()) / total
        compare(name, case, model, expected[case])

    model = network("camera").to(torch.bfloat16)
    for module in (model, *model.blocks):
        module.scale_shift_table.data = module.scale_shift_table.data.float()
    alone = copy.deepcopy(model)
    shard_weights(model)
    compare(MIXED, "camera", model, denoise(alone, "camera"))

    for wrong in ({"ring_degree": processes}, {"ulysses_degree": processes + 1}, {"token_counts": (1,)}):
        with pytest.raises(InputError, match=r"back-end 'native'|number of processes|start fewer"):
            share_clip(network("camera"), **wrong)
    model = network("camera")
    share_clip(model)
    with pytest.raises(InputError, match="already"):
        share_clip(model)
    with pytest.raises(InputError, match="no plan"):
        share_clip(nn.Identity())

    (Path(folder) / f"{processes}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, float]]:
    """By number of processes and rank, what each process found."""
    folder, server = tmp_path_factory.mktemp("parallel"), "forkserver"  # imports once for all processes
    modules = [PaperTransformer.__module__, PublishedTransformer.__module__, join_processes.__module__]
    multiprocessing.get_context(server).set_forkserver_preload(modules)
    end = time.monotonic() + LIMIT_S
    for processes in (2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = processes, port, str(folder)
        running = multiprocessing.start_processes(one_process, arguments, processes, join=False, start_method=server)
        while not running.join(timeout=1.0):
            if time.monotonic() > end:
                for process in running.processes:
                    process.kill()
                pytest.fail(f"{processes} processes did not finish in {LIMIT_S} s")
    names = [(processes, rank) for processes in (2, 3) for rank in range(processes)]
    return {name: json.loads((folder / f"{name[0]}-{name[1]}.json").read_text()) for name in names}


@pytest.mark.parametrize("case", [*CLIPS, *SHARDED])
def test_every_process_gives_what_one_process_gives(found: dict[tuple[int, int], dict[str, float]], case: str) -> None:
    differences = {name: values[case] for name, values in found.items()}
    assert max(differences.values()) < 1e-5, differences


def test_sharding_weights_changes_no_bit_even_of_mixed_types(found: dict[tuple[int, int], dict[str, float]]) -> None:
    assert {values[MIXED] for values in found.values()} == {0.0}


def test_sharded_weights_are_a_share(found: dict[tuple[int, int], dict[str, float]]) -> None:
    for processes in (2, 3):
        shares = [found[processes, rank][HELD] for rank in range(processes)]
        assert sum(shares) == pytest.approx(1.0)
        assert max(shares) < 1.2 / processes


def test_without_torchrun_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="torchrun --nproc-per-node"):
        share_clip(network("camera"))
