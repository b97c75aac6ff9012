"""Distillation of the video model: what is trained, copied, resumed and loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from test_nano_depth import die_after_a_checkpoint
from test_train_video import SMALL, logged, made_clip, weights_of
from tiny_networks import take_a_tensor_out, write_paper_model
from worldstereo.cli import app
from worldstereo.errors import InputError
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.models.paper import PaperTransformer
from worldstereo.pipelines.loading import load_pipeline
from worldstereo.schedulers.few_step import FewStepFlowScheduler
from worldstereo.training.clip_mixture import write_clip_shards
from worldstereo.training.distillation import VideoVelocity, distill_video, dmd_batch
from worldstereo.training.distillation_config import DistillationConfig, read_distillation_config
from worldstereo.training.dmd import DmdConfig, guided_velocity
from worldstereo.training.video_config import ClipSourceConfig

DMD = DmdConfig(fake_updates=2, guidance=3.0, shift=4.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("distillation")
    width, height = SMALL
    write_clip_shards(root / "clips", 2, 0, lambda seed: [made_clip(seed)])
    sizes = {"nframe": 3, "scale_map": [[height, width]], "latent_cond_mode": "filled_render"}
    return {"clips": root / "clips", "start": write_paper_model(root / "start", **sizes)}


def config_of(folders: dict[str, Path], run: Path, **changes: Any) -> DistillationConfig:
    values: dict[str, Any] = {
        "run_folder": run,
        "start": folders["start"],
        "sources": (ClipSourceConfig("shards", folder=folders["clips"]),),
        "dmd": DMD,
        "steps": 4,
        "warmup_steps": 1,
        "decay_steps": 0,
        "batch_size": 2,
        "sheet_clips": 1,
    }
    return DistillationConfig(**(values | changes))


def test_only_the_backbone_changes_and_the_model_loads_as_one_of_four_steps(folders, tmp_path):
    before = {path: path.read_bytes() for path in folders["start"].rglob("*") if path.is_file()}
    reports = []
    folder = distill_video(config_of(folders, tmp_path / "run"), reports.append)
    for path, content in before.items():
        assert path.read_bytes() == content, "the teacher changed"
        copied = folder / path.relative_to(folders["start"])
        if path.parent.name != "backbone" and path.name != "config.json":
            assert copied.read_bytes() == content, path
    taught, teacher = weights_of(folder / "backbone"), weights_of(folders["start"] / "backbone")
    assert taught.keys() == teacher.keys()
    moved = [name for name, value in taught.items() if (value.float() - teacher[name]).abs().max() > 1e-5]
    assert len(moved) > len(taught) / 2
    pipeline, _ = load_pipeline(ModelFiles(ModelSource(folder), offline=True))
    assert isinstance(pipeline.sampling.scheduler, FewStepFlowScheduler)
    assert pipeline.sampling.scheduler.timesteps.tolist() == DMD.scheduler().timesteps.tolist()
    assert (pipeline.sampling.steps, pipeline.sampling.guidance) == (4, 1.0)
    assert pipeline.network.stereo is not None
    inputs = next(clip.inputs for clip in map(made_clip, range(9)) if (clip.inputs.reference_of_target >= 0).any())
    frames = pipeline(inputs)
    assert frames.shape == inputs.render.shape
    assert not torch.equal(frames, pipeline(replace(inputs, reference_of_target=torch.full((3,), -1))))
    assert reports[-1].step == reports[-1].steps == 4
    assert [step for step, _ in logged(tmp_path / "run")] == [1, 2, 3, 4]
    assert [step for step, _ in logged(tmp_path / "run", "fake")] == [1, 2, 3, 4]
    assert list((tmp_path / "run" / "sheets").glob("*.png"))


def test_a_stopped_run_goes_on_with_the_same_curve(folders, tmp_path):
    whole = distill_video(config_of(folders, tmp_path / "whole"))
    distill_video(config_of(folders, tmp_path / "stopped", steps=2))
    resumed = distill_video(config_of(folders, tmp_path / "stopped", loaders=1))
    for name in ("total", "fake"):
        assert logged(tmp_path / "stopped", name) == logged(tmp_path / "whole", name)
    for name, value in weights_of(whole / "backbone").items():
        assert torch.equal(weights_of(resumed / "backbone")[name], value), name


def test_a_run_killed_between_checkpoint_and_backbone_still_gives_the_backbone(folders, tmp_path, monkeypatch):
    whole = distill_video(config_of(folders, tmp_path / "whole", steps=1, learning_rate=0.01))
    killed = config_of(folders, tmp_path / "killed", steps=1, learning_rate=0.01)
    die_after_a_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        distill_video(killed)
    monkeypatch.undo()
    backbone = distill_video(killed) / "backbone"
    for file in (whole / "backbone").glob("*.safetensors"):
        assert (backbone / file.name).read_bytes() == file.read_bytes()
        assert file.read_bytes() != (folders["start"] / "backbone" / file.name).read_bytes()


def test_a_run_goes_on_only_with_its_teacher(folders, tmp_path):
    config = config_of(folders, tmp_path / "run", steps=1)
    distill_video(config)
    start = shutil.copytree(folders["start"], tmp_path / "start")
    distill_video(replace(config, start=start, steps=2))  # the same files elsewhere
    take_a_tensor_out(start / "backbone")
    with pytest.raises(InputError, match=r"^start: the files of .*start are not those .* choose another run folder"):
        distill_video(replace(config, start=start, steps=2))


def test_a_lost_checkpoint_begins_with_the_teacher_again(folders, tmp_path):
    config = config_of(folders, tmp_path, steps=1)
    distill_video(config)
    first = logged(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    distill_video(config)
    assert logged(tmp_path) == first


def test_the_real_score_is_guided_as_the_pipeline_guides(folders):
    """The algorithm's two passes give what the network gives for two contexts at once."""
    pipeline, _ = load_pipeline(ModelFiles(ModelSource(folders["start"]), offline=True))
    network: PaperTransformer = pipeline.network
    pipeline.network = PaperTransformer(network.backbone, network.control)
    text = pipeline.encode_prompts(("", "ugly"))
    batch = dmd_batch(pipeline, [made_clip(0), made_clip(1)], text)
    assert batch.shape == (2, 8, 3, SMALL[1] // 8, SMALL[0] // 8)
    x, time = torch.randn(batch.shape), torch.tensor([0.3, 0.9])
    arguments = {name: value for name, value in batch.conditions.items() if name != "first_frame"}
    arguments["encoder_hidden_states"] = text.repeat_interleave(2, dim=0)
    with torch.no_grad():
        velocity = guided_velocity(VideoVelocity(pipeline.network, False), x, time, batch, 3.0)
        latents = torch.cat([x, batch.conditions["first_frame"]], dim=1)
        wanted, unwanted = pipeline.network(latents, time * 1000, **arguments).sample.chunk(2)
    torch.testing.assert_close(velocity, unwanted + 3 * (wanted - unwanted), atol=1e-4, rtol=1e-4)
    assert (wanted - unwanted).abs().max() > 1e-3


def test_bfloat16_and_checkpointing_train_too(folders, tmp_path):
    changes = {"mixed_precision": "bf16", "gradient_checkpointing": True, "steps": 2}
    folder = distill_video(config_of(folders, tmp_path, **changes))
    assert all(value.isfinite().all() for value in weights_of(folder / "backbone").values())
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(value.dtype == torch.float32 for value in checkpoint["network"].values())


def test_a_teacher_that_lacks_a_tensor_is_not_left_random(folders, tmp_path):
    start = shutil.copytree(folders["start"], tmp_path / "start")
    config = config_of(folders, tmp_path / "run", start=start, steps=1)
    distill_video(config)
    (tmp_path / "run" / "beginning.json").unlink()  # as in runs from before it was kept
    take_a_tensor_out(start / "backbone")
    with pytest.raises(InputError, match=r"backbone: the weights of this KeyframeTransformer lack [\w.]+; fetch"):
        distill_video(replace(config, steps=2))


def test_the_command(folders, tmp_path):
    path = tmp_path / "distill.json"
    values = {
        "start": str(folders["start"]),
        "sources": [{"kind": "shards", "folder": "clips"}],
        "dmd": {"steps": 2, "fake_updates": 1, "guidance": 1},
        "steps": 1,
        "decay_steps": 0,
        "batch_size": 1,
        "sheet_clips": 1,
    }
    path.write_text(json.dumps(values))
    arguments = [
        "distill",
        str(path),
        "--run",
        str(tmp_path / "run"),
        "--data",
        str(folders["clips"].parent),
        "--quiet",
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert str(tmp_path / "run" / "model") in result.output
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["dmd_steps"] == 2
    assert load_file(tmp_path / "run/model/backbone/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dmd": {"step": 4}}, "'step' is unknown"),
        ({"dmd": {"steps": 4.5}}, "must be a whole number"),
        ({"dmd": {"steps": 0}}, "steps and fake_updates"),
        ({"dmd": {"steps": float("inf")}}, "the field 'dmd' .* of a wrong kind"),
        ({"dmd": {"seed": -1}}, "seed is -1 but must be a whole number of at least 0"),
        ({"dmd": {"guidance": float("inf")}}, "guidance and clip_norm must be positive and finite"),
        ({"start": None}, "the field 'start' is None, of a wrong kind"),
        ({"seed": -1}, "seed is -1 but must be a whole number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan but must be positive and finite"),
        ({"stage": "camera"}, "'stage' is unknown"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"start": "nowhere"}, "no backbone/"),
        ({"sources": []}, "sources is empty"),
    ],
)
def test_wrong_fields_are_refused(folders, tmp_path, values, message):
    path = tmp_path / "distill.json"
    usual = {"start": str(folders["start"]), "sources": [{"kind": "shards", "folder": str(folders["clips"])}]}
    path.write_text(json.dumps(usual | values))
    with pytest.raises(InputError, match=message):
        read_distillation_config(path, tmp_path / "run")
