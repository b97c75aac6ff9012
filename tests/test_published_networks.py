"""The published networks: parity, layout, loading, and work that is done once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from worldstereo.errors import InputError
from worldstereo.models.checkpoints import build_published, load_published, load_uni3c
from worldstereo.models.patches import PatchEmbedding
from worldstereo.models.published import PublishedTransformer
from worldstereo.models.rotary import apply_rotary, axis_channels, rotary_table
from worldstereo.models.transformer import ClipCache, KeyframeTransformer

SHIPPED = Path(__file__).parent / "data" / "parity"
SHARED = Path(__file__).parents[2] / "shared" / "parity"
MEMORY = "memory_static"


def config_of(name: str) -> dict:
    return json.loads((SHIPPED / f"{name}.config.json").read_text())


def inputs_of(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    tensors = load_file(folder / f"{name}.io.safetensors")
    return {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}, tensors["out.sample"]


def check_parity(folder: Path, name: str) -> None:
    network = load_published(folder / f"{name}.config.json", folder / f"{name}.weights.safetensors").network
    inputs, expected = inputs_of(folder, name)
    torch.testing.assert_close(network(**inputs).sample, expected, atol=5e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def memory_model() -> PublishedTransformer:
    return load_published(SHIPPED / f"{MEMORY}.config.json", SHIPPED / f"{MEMORY}.weights.safetensors").network


@pytest.mark.parametrize("name", ["memory_static", "camera_video"])
def test_equals_the_official_networks(name: str):
    check_parity(SHIPPED, name)


@pytest.mark.skipif(not SHARED.exists(), reason="the parity figures lie beside the repository only where it was made")
@pytest.mark.parametrize("name", ["camera", "memory"])
def test_equals_the_other_official_networks(name: str):
    check_parity(SHARED, name)


def test_the_memory_model_has_the_tensors_of_the_published_checkpoint():
    """1,799 tensors with 17,431,774,784 values: the published file's size to the byte."""
    control = {
        "conv_out_dim": 5120,
        "dim": 1024,
        "ffn_dim": 4096,
        "num_heads": 16,
        "num_layers": 20,
        "time_embed_dim": 5120,
        "add_channels": 7,
        "mid_channels": 256,
        "mask_downsample": 1,
        "update_ref": True,
        "main_camera_embedding": True,
        "camera_embedding_dim": 7,
    }
    with init_empty_weights():
        tensors = PublishedTransformer(control, memory=True).state_dict()
    assert len(tensors) == 1799
    assert sum(tensor.numel() for tensor in tensors.values()) == 17_431_774_784
    assert tensors["controlnet.controlnet_mask_embedding.mask_proj.0.weight"].shape == (256, 7, 1, 8, 8)
    assert tensors["camera_embedding.4.weight"].shape == (5120, 5120)


def test_the_backbone_equals_the_one_of_diffusers():
    torch.manual_seed(0)
    fields = config_of(MEMORY)["transformer"]
    theirs = WanTransformer3DModel(**fields).eval()
    ours = KeyframeTransformer(**fields).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    inputs, _ = inputs_of(SHIPPED, MEMORY)
    names = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image")
    chosen = {name: inputs[name] for name in names}
    with torch.no_grad():
        torch.testing.assert_close(ours(**chosen).sample, theirs(**chosen).sample, atol=1e-5, rtol=1e-5)


# What does not change is computed once


def calls_of(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_cache_changes_no_result_and_saves_what_it_keeps(memory_model):
    network = load_published(SHIPPED / f"{MEMORY}.config.json", SHIPPED / f"{MEMORY}.weights.safetensors").network
    inputs, expected = inputs_of(SHIPPED, MEMORY)
    once = {
        "mask and rays": calls_of(network.controlnet.controlnet_mask_embedding),
        "poses of targets, of references": calls_of(network.camera_embedding),
        "text": calls_of(network.condition_embedder.text_embedder),
        "image": calls_of(network.condition_embedder.image_embedder),
        "keys of the text": calls_of(network.blocks[1].attn2.to_k),
        "values of the image": calls_of(network.blocks[1].attn2.add_v_proj),
    }
    patches = calls_of(network.patch_embedding)
    control = calls_of(network.controlnet.controlnet_blocks[0])
    cache = ClipCache()
    with torch.no_grad():
        for step in range(3):
            later = inputs | {"timestep": inputs["timestep"] - 50 * step}
            result = network(**later, cache=cache).sample
            fresh = memory_model(**later).sample
            torch.testing.assert_close(result, fresh, atol=1e-6, rtol=1e-6)
            if step == 0:
                torch.testing.assert_close(result, expected, atol=5e-6, rtol=1e-5)
    assert {name: len(calls) for name, calls in once.items()} == {name: 2 if "poses" in name else 1 for name in once}
    assert len(patches) == 3 + 2  # noisy latents every step; mask and condition, references once
    assert len(control) == 3


def test_contexts_in_one_pass_equal_passes_of_their_own_and_share_the_control_branch(memory_model):
    inputs, expected = inputs_of(SHIPPED, MEMORY)
    other = torch.randn(inputs["encoder_hidden_states"].shape, generator=torch.Generator().manual_seed(1))
    both = inputs | {
        "encoder_hidden_states": torch.cat([inputs["encoder_hidden_states"], other]),
        "encoder_hidden_states_image": inputs["encoder_hidden_states_image"].repeat(2, 1, 1),
    }
    shapes: list[int] = []
    hook = memory_model.controlnet.controlnet_blocks[0].register_forward_hook(lambda *a: shapes.append(len(a[2])))
    result = memory_model(**both).sample
    hook.remove()
    assert shapes == [1]
    torch.testing.assert_close(result[:1], expected, atol=5e-6, rtol=1e-5)
    alone = memory_model(**inputs | {"encoder_hidden_states": other}).sample
    torch.testing.assert_close(result[1:], alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["memory_static", "camera_video"])
def test_a_batch_equals_its_samples(name: str):
    network = load_published(SHIPPED / f"{name}.config.json", SHIPPED / f"{name}.weights.safetensors").network
    inputs, expected = inputs_of(SHIPPED, name)
    reverse = {k: v.flip(0) if k == "ref_index" else v.flip(-1) for k, v in inputs.items() if k != "timestep"}
    batch = {
        k: v if k == "ref_index" else torch.cat([v, v if k == "timestep" else reverse[k]]) for k, v in inputs.items()
    }
    single = {k: v if k in ("ref_index", "timestep") else reverse[k] for k, v in inputs.items()}
    result = network(**batch).sample
    torch.testing.assert_close(result[:1], expected, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(result[1:], network(**single).sample, atol=2e-6, rtol=1e-5)


def test_references_matter_and_their_order_does_not(memory_model):
    inputs, expected = inputs_of(SHIPPED, MEMORY)
    swapped = inputs | {
        "reference_latent": inputs["reference_latent"].flip(2),
        "ref_index": inputs["ref_index"].flip(0),
        "camera_qt_ref": inputs["camera_qt_ref"].flip(1),
    }
    torch.testing.assert_close(memory_model(**swapped).sample, expected, atol=1e-5, rtol=1e-5)
    for name in ("reference_latent", "ref_index", "camera_qt_ref", "camera_qt", "render_mask", "camera_embedding"):
        changed = inputs | {name: inputs[name].flip(-1)}
        assert (memory_model(**changed).sample - expected).abs().max() > 1e-3, name


def test_bfloat16_stays_near(memory_model):
    half = load_published(
        SHIPPED / f"{MEMORY}.config.json", SHIPPED / f"{MEMORY}.weights.safetensors", dtype=torch.bfloat16
    ).network
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert half.blocks[0].scale_shift_table.dtype == torch.float32
    assert half.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    inputs, expected = inputs_of(SHIPPED, MEMORY)
    assert (half(**inputs).sample.float() - expected).abs().mean() < 0.03 * expected.std()


def test_poses_are_left_aside_by_a_memory_model_that_does_not_embed_them():
    config = config_of(MEMORY)
    network = build_published(config | {"controlnet_cfg": config["controlnet_cfg"] | {"main_camera_embedding": False}})
    inputs, _ = inputs_of(SHIPPED, MEMORY)
    without = inputs | {"camera_qt": None, "camera_qt_ref": None}
    with torch.no_grad():
        assert torch.equal(network(**inputs).sample, network(**without).sample)


def test_what_a_model_needs_is_named(memory_model):
    inputs, _ = inputs_of(SHIPPED, MEMORY)
    with pytest.raises(ValueError, match="ref_index"):
        memory_model(**inputs | {"ref_index": None})
    with pytest.raises(ValueError, match="render_mask"):
        memory_model(**inputs | {"render_mask": None})


# Rotary positions


def test_rotary_positions_are_relative():
    """q·k depends on the difference of positions alone."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 24, generator=generator) for _ in range(2))
    axis = torch.arange(9)

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        turned = [apply_rotary(x, rotary_table(24, *(axis[p : p + 1] for p in place))) for x, place in ((q, a), (k, b))]
        return float((turned[0] * turned[1]).sum())

    assert score((1, 2, 3), (4, 2, 0)) == pytest.approx(score((3, 6, 8), (6, 6, 5)), abs=1e-5)
    assert score((1, 2, 3), (4, 2, 0)) != pytest.approx(score((1, 2, 3), (4, 2, 1)), abs=1e-3)
    assert axis_channels(128) == (44, 42, 42)
    assert axis_channels(64) == (24, 20, 20)


def test_patches_of_channels_add_up():
    torch.manual_seed(0)
    layer = PatchEmbedding(6, 5, (1, 2, 2))
    video = torch.randn(2, 6, 3, 4, 8)
    whole = nn.functional.conv3d(video, layer.weight, layer.bias, stride=(1, 2, 2)).flatten(2).transpose(1, 2)
    parts = layer(video[:, :2], bias=False) + layer(video[:, 2:], first_channel=2)
    torch.testing.assert_close(layer(video), whole)
    torch.testing.assert_close(parts, whole)


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> dict[str, torch.Tensor]:
    return load_file(SHIPPED / f"{MEMORY}.weights.safetensors")


def test_a_frozen_backbone_comes_from_the_base_model_and_nothing_else_does(checkpoint, tmp_path):
    branch = {k: v for k, v in checkpoint.items() if k.startswith(("controlnet.", "camera_embedding.", "blocks.2."))}
    rest = {k: v for k, v in checkpoint.items() if k not in branch}
    save_file(branch, tmp_path / "model.safetensors")
    save_file(rest | {"blocks.0.attn2.norm_added_q.weight": torch.zeros(48)}, tmp_path / "base-1.safetensors")
    save_file({"blocks.2.norm2.bias": torch.full((48,), torch.nan)}, tmp_path / "base-2.safetensors")
    loaded = load_published(
        SHIPPED / f"{MEMORY}.config.json",
        tmp_path / "model.safetensors",
        base_weights=lambda: [tmp_path / "base-1.safetensors", tmp_path / "base-2.safetensors"],
    )
    assert set(loaded.from_base) == set(rest)
    inputs, expected = inputs_of(SHIPPED, MEMORY)
    torch.testing.assert_close(loaded.network(**inputs).sample, expected, atol=5e-6, rtol=1e-5)
    with pytest.raises(InputError, match="only part of the backbone"):
        load_published(SHIPPED / f"{MEMORY}.config.json", tmp_path / "model.safetensors")


def test_a_complete_checkpoint_asks_for_no_base_model():
    def refuse() -> list[Path]:
        raise AssertionError("the base model was asked for")

    loaded = load_published(
        SHIPPED / f"{MEMORY}.config.json", SHIPPED / f"{MEMORY}.weights.safetensors", base_weights=refuse
    )
    assert loaded.from_base == ()


def test_damaged_checkpoints_are_named(checkpoint, tmp_path):
    file = tmp_path / "model.safetensors"
    config = SHIPPED / f"{MEMORY}.config.json"

    def refusal(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, file)
        with pytest.raises(InputError) as caught:
            load_published(config, file)
        return str(caught.value)

    lacking = {k: v for k, v in checkpoint.items() if k != "controlnet.proj_out.1.bias"}
    assert "lacks the tensor controlnet.proj_out.1.bias" in refusal(lacking)
    assert "holds the tensor blocks.9.x" in refusal(checkpoint | {"blocks.9.x": torch.zeros(1)})
    message = refusal(checkpoint | {"proj_out.bias": torch.zeros(3)})
    assert "proj_out.bias is (3,) but the config asks for (64,)" in message
    refusal_of_unused = checkpoint | {"ref_index_embedding.weight": torch.zeros(21, 48)}
    save_file(refusal_of_unused, file)
    load_published(config, file)
    file.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_published(config, file)


@pytest.mark.parametrize("field", ["num_heads", "update_ref", "camera_embedding_dim", "time_embed_dim"])
def test_a_missing_config_field_is_named_and_never_guessed(field: str):
    values = config_of(MEMORY)
    del values["controlnet_cfg"][field]
    with pytest.raises(InputError, match=f"controlnet_cfg.{field}"):
        build_published(values)


def test_other_bad_configs_are_named():
    values = config_of(MEMORY)
    for change, match in (
        ({"kind": "depth"}, "'kind'"),
        ({"transformer": values["transformer"] | {"colour": 1}}, "colour"),
        ({"transformer": values["transformer"] | {"qk_norm": "layer"}}, "qk_norm"),
        ({"controlnet_cfg": values["controlnet_cfg"] | {"depth": 1}}, "depth"),
    ):
        with pytest.raises(InputError, match=match):
            build_published(values | change)
    del values["transformer"]
    with pytest.raises(InputError, match="'transformer'"):
        build_published(values)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_uni3c_weights_load_into_the_control_branch(checkpoint, tmp_path, suffix):
    """There the two embeddings lie beside the other entries."""
    entries = {k: v for k, v in checkpoint.items() if k.startswith("controlnet.")}
    theirs = {k.removeprefix("controlnet.") if "_embedding." in k else k: v for k, v in entries.items()}
    file = tmp_path / f"controlnet{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs, file)
    branch = load_uni3c(file, num_heads=2)
    for name, value in branch.state_dict().items():
        assert torch.equal(value, entries[f"controlnet.{name}"]), name
    assert branch.config.mask_downsample == 1
    assert branch.config.ffn_dim == 64
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"controlnet.*download it again"):
        load_uni3c(file)


def test_every_block_is_handed_on_when_it_is_complete():
    seen: list[nn.Module] = []
    network = load_published(
        SHIPPED / f"{MEMORY}.config.json", SHIPPED / f"{MEMORY}.weights.safetensors", on_module=seen.append
    ).network
    assert set(map(id, seen)) == {id(block) for block in (*network.blocks, *network.controlnet.controlnet_blocks)}


LOADED = """
import gc, json, sys, threading, time
from pathlib import Path
import torch
from worldstereo.models.checkpoints import load_published

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.0005)

before = resident()
watcher = threading.Thread(target=watch)
watcher.start()
network = load_published(Path(sys.argv[1]), Path(sys.argv[2]), dtype=torch.bfloat16).network
done = True
watcher.join()
sizes = [p.numel() * p.element_size() for p in network.parameters()]
print(json.dumps({"peak": peak - before, "model": sum(sizes), "largest": max(sizes)}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process as Linux tells it")
def test_loading_takes_the_memory_of_the_model_and_little_more(tmp_path):
    width = 768
    sizes = {"num_attention_heads": 12, "attention_head_dim": 64, "ffn_dim": 4 * width, "num_layers": 8}
    transformer = config_of(MEMORY)["transformer"] | sizes | {"added_kv_proj_dim": width}
    control = config_of(MEMORY)["controlnet_cfg"] | {"conv_out_dim": width, "time_embed_dim": width}
    config = {"kind": "memory", "transformer": transformer, "controlnet_cfg": control}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with init_empty_weights():
        tensors = build_published(config).state_dict()
    save_file({k: torch.zeros(v.shape, dtype=torch.bfloat16) for k, v in tensors.items()}, tmp_path / "m.safetensors")
    command = [sys.executable, "-c", LOADED, str(tmp_path / "config.json"), str(tmp_path / "m.safetensors")]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["model"] > 120e6
    assert told["peak"] < told["model"] + 2 * told["largest"] + 16e6  # a whole file in memory would double it
