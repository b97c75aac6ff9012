"""Clips of the published models through the public pipeline: parity, conditions, memory, and what is done once."""

import dataclasses
import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldstereo.errors import InputError
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.models.text_encoder import encode_batches, encode_prompts, save_prompt_embeddings
from worldstereo.pipelines import prompts
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.keyframe_video import ClipFormat, KeyframeInputs, KeyframeVideoPipeline
from worldstereo.pipelines.loading import load_pipeline
from worldstereo.schedulers.few_step import FewStepFlowScheduler
from worldstereo.schedulers.published_unipc import PublishedUniPC

PARITY = Path(__file__).parent / "data" / "parity"
HUB = PARITY / "hub"
IO = load_file(HUB / "io.safetensors")
CALL = json.loads((HUB / "io.json").read_text())
MODELS = ["worldstereo-camera", "worldstereo-memory", "worldstereo-memory-dmd"]
PROMPTS = CALL["prompt"], CALL["negative_prompt"]
INPUTS = KeyframeInputs(
    image=IO["in.image"].permute(2, 0, 1).float() / 255,
    render=(IO["in.render_video"][0].transpose(0, 1) + 1) / 2,
    hole_mask=IO["in.render_mask"][0, 0] > 0.5,
    rays=IO["in.camera_embedding"][0].transpose(0, 1),
    references=(IO["in.reference_video"][0].transpose(0, 1) + 1) / 2,
    reference_index=IO["in.ref_index"],
    target_poses=IO["in.camera_qt"][0],
    reference_poses=IO["in.camera_qt_ref"][0],
)


def load(name: str, hub: Path = HUB, placement: Placement | None = None, **options) -> KeyframeVideoPipeline:
    if not name.endswith("dmd"):
        options.setdefault("steps", CALL["steps"])
    files = ModelFiles(ModelSource.parse(f"{hub}:{name}"))
    return load_pipeline(files, GeneratorOptions(**options), placement or Placement())[0]


def latents(pipeline: KeyframeVideoPipeline, inputs: KeyframeInputs = INPUTS) -> torch.Tensor:
    return pipeline.sample(inputs, *PROMPTS, noise=IO["in.latents"][0])


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_chain_equals_the_official_pipelines(name: str):
    pipeline = load(name)
    result = latents(pipeline)
    torch.testing.assert_close(result, IO[f"out.{name}.latents"][0], atol=5e-5, rtol=0)
    frames = pipeline.decode(result)
    torch.testing.assert_close(frames, IO[f"out.{name}.frames_f16"][0].float(), atol=1e-3, rtol=0)


def test_the_distilled_schedule_equals_the_official_one():
    for name, times in json.loads((PARITY / "schedule.json").read_text()).popitem()[1].items():
        start, end, steps, shift = (float(part) for part in name.split("_"))
        scheduler = FewStepFlowScheduler(start, end, int(steps), shift)
        assert scheduler.timesteps.tolist() == pytest.approx(times, abs=1e-4)


def test_few_steps_walk_straight_flows_exactly():
    """The velocity noise − latents, constant along the way, leads from noise to the latents in any number of steps."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    for steps, shift in ((1, 1.0), (4, 5.0)):
        scheduler = FewStepFlowScheduler(250.0, 1000.0, steps, shift)
        scheduler.set_timesteps(steps)
        at_once = scheduler.add_noise(clean, noise, scheduler.timesteps[:1].expand(2))
        x = at_once
        for time in scheduler.timesteps:
            torch.testing.assert_close(x, scheduler.add_noise(clean, noise, time.expand(2)))
            x = scheduler.step(noise - clean, time, x).prev_sample
        torch.testing.assert_close(x, clean, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="distilled to 4"):
        scheduler.set_timesteps(8)
    with pytest.raises(ValueError, match="no schedule"):
        FewStepFlowScheduler(1000.0, 250.0, 4, 1.0)


def test_the_multistep_schedule_is_that_of_the_release():
    """From 1 − 1/1000 down to 0, shifted by 3."""
    scheduler = PublishedUniPC.from_config(json.loads((HUB / "base/scheduler/scheduler_config.json").read_text()))
    scheduler.set_timesteps(3)
    sigmas = [0.999, 0.666, 0.333]
    assert scheduler.sigmas.tolist() == pytest.approx([*(3 * s / (1 + 2 * s) for s in sigmas), 0.0], abs=1e-6)


# Done once, and only if needed


def test_one_pass_a_step_and_encoders_once(monkeypatch):
    batches = []
    monkeypatch.setattr(
        prompts, "encode_batches", lambda some, *rest: batches.append(some) or encode_batches(some, *rest)
    )
    pipeline = load("worldstereo-memory")
    passes: list[tuple[int, int]] = []
    pipeline.network.register_forward_hook(
        lambda module, args, kwargs, out: passes.append((len(args[0]), len(out.sample))), with_kwargs=True
    )
    latents(pipeline)
    latents(pipeline)
    assert passes == [(1, 2)] * (2 * CALL["steps"])  # one video, two contexts
    assert batches == [[PROMPTS]]


def test_a_complete_checkpoint_does_without_the_base_transformer(tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    (hub / "base/transformer/diffusion_pytorch_model.safetensors").unlink()
    torch.testing.assert_close(latents(load("worldstereo-memory-dmd", hub)), latents(load("worldstereo-memory-dmd")))


def test_a_checkpoint_without_backbone_takes_the_base_models(tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    weights = load_file(hub / "worldstereo-camera/model.safetensors")
    base = load_file(hub / "base/transformer/diffusion_pytorch_model.safetensors")
    own = {k: v for k, v in weights.items() if k.startswith("controlnet.")}
    assert set(own) | set(base) >= set(weights)
    save_file(own, hub / "worldstereo-camera/model.safetensors")
    pipeline = load("worldstereo-camera", hub)
    assert torch.equal(pipeline.network.blocks[1].ffn.net[2].weight, base["blocks.1.ffn.net.2.weight"])


def test_prompts_embedded_before_do_without_a_text_encoder(tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    embeds = encode_prompts(PROMPTS, hub / "base/tokenizer", hub / "base/text_encoder")
    save_prompt_embeddings(tmp_path / "prompt.safetensors", embeds, PROMPTS)
    shutil.rmtree(hub / "base/text_encoder")
    pipeline = load("worldstereo-camera", hub, prompt_embeddings=str(tmp_path / "prompt.safetensors"))
    torch.testing.assert_close(latents(pipeline), IO["out.worldstereo-camera.latents"][0], atol=5e-5, rtol=0)
    save_prompt_embeddings(tmp_path / "one.safetensors", embeds[:1], PROMPTS[:1])
    with pytest.raises(InputError, match="one for the prompt and one for the negative"):
        latents(load("worldstereo-camera", hub, prompt_embeddings=str(tmp_path / "one.safetensors")))


# Little memory


@pytest.mark.parametrize("where", ["group", "disk"])
def test_offloading_changes_nothing(where):
    expected = latents(load("worldstereo-memory-dmd"))
    result = latents(load("worldstereo-memory-dmd", placement=Placement(offload=where)))
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_files_of_offloaded_weights_go_with_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipeline = load("worldstereo-memory-dmd", placement=Placement(offload="disk"))
    latents(pipeline)
    assert list(tmp_path.rglob("*.safetensors"))
    del pipeline
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("how", "error"), [("float8", 0.2), ("int8", 0.05)])
def test_weights_in_one_byte_stay_near(how, error):
    if how == "int8":
        pytest.importorskip("torchao")
    pipeline = load("worldstereo-memory-dmd", quantize=how)
    expected = IO["out.worldstereo-memory-dmd.latents"][0]
    result = latents(pipeline)
    assert 1e-5 < (result - expected).abs().mean() < error * expected.std()


def test_half_precision_runs_on_the_cpu():
    expected = IO["out.worldstereo-memory-dmd.latents"][0]
    result = latents(load("worldstereo-memory-dmd", dtype="bfloat16"))
    assert (result - expected).abs().mean() < 0.1 * expected.std()


# Conditions and refusals


@pytest.mark.parametrize(
    "name", ["render", "hole_mask", "rays", "references", "reference_index", "target_poses", "reference_poses", "image"]
)
def test_every_condition_matters(name):
    pipeline = load("worldstereo-memory-dmd")
    changed = dataclasses.replace(INPUTS, **{name: getattr(INPUTS, name).flip(-1)})
    assert (latents(pipeline, changed) - IO["out.worldstereo-memory-dmd.latents"][0]).abs().max() > 1e-3


def test_what_is_missing_or_misfits_is_named():
    pipeline = load("worldstereo-memory-dmd")
    for change, match in (
        ({"references": None}, "'references'"),
        ({"target_poses": None}, "'target_poses'"),
    ):
        with pytest.raises(InputError, match=match):
            pipeline.sample(dataclasses.replace(INPUTS, **change))
    shorter = KeyframeInputs(INPUTS.image, INPUTS.render[:4], INPUTS.hole_mask[:4], INPUTS.rays[:4])
    with pytest.raises(InputError, match="4 frames but this model makes 5"):
        pipeline.sample(shorter)
    pictures = (INPUTS.image, INPUTS.render, INPUTS.hole_mask, INPUTS.rays)
    with pytest.raises(InputError, match="64×64 but this model makes 96×64, 64×96"):
        pipeline.sample(KeyframeInputs(*(picture[..., :64] for picture in pictures)))


@pytest.mark.parametrize(
    "field", ["base_model", "controlnet_cfg", "nframe", "scale_map", "latent_cond_mode", "gen_shift", "dmd_steps"]
)
def test_a_missing_field_is_named(field, tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    path = hub / "worldstereo-memory-dmd/config.json"
    values = json.loads(path.read_text())
    del values[field]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"config\.json: the field '{field}' is missing"):
        load("worldstereo-memory-dmd", hub)


def test_the_kind_is_said_by_the_config_or_the_folder(tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(HUB, hub)
    path = hub / "worldstereo-camera/config.json"
    values = json.loads(path.read_text())
    del values["model_type"]
    path.write_text(json.dumps(values))
    load("worldstereo-camera", hub)
    path.write_text(json.dumps(values | {"model_type": "worldstereo-depth"}))
    with pytest.raises(InputError, match="'model_type' is 'worldstereo-depth'"):
        load("worldstereo-camera", hub)


def test_a_distilled_model_takes_no_other_steps():
    with pytest.raises(InputError, match="4 steps without guidance"):
        load("worldstereo-memory-dmd", steps=8)
    with pytest.raises(InputError, match=r"--guidance 0\.5"):
        GeneratorOptions(guidance=0.5)


def test_a_picture_goes_to_the_nearest_shape():
    sizes = ((480, 768), (512, 720), (608, 608), (768, 480))
    clip_format = ClipFormat(21, sizes, "full_vae")
    assert clip_format.size_for(1920, 1080) == (480, 768)
    assert clip_format.size_for(1000, 1000) == (608, 608)
    assert clip_format.size_for(3000, 4500) == (768, 480)
