"""The chain of nano's training: shipped recipes, sizes, stopping, going on and the folder it ends with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from test_train_video import logged, made_clip
from worldstereo.cli import app
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.references import References
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.hub import ModelSource
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.transformer import KeyframeTransformer
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, render_guidance
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.world import create_generator
from worldstereo.training.autoencoder_config import AutoencoderTrainingConfig
from worldstereo.training.distillation_config import DistillationConfig
from worldstereo.training.nano_chain import NANO_CHAIN, result_folder, stage_config, train_nano
from worldstereo.training.video_config import VideoTrainingConfig

RECIPES = Path(__file__).parents[1] / "src/worldstereo/weights/nano/recipes"
TINY_CLIPS = {"width": 48, "height": 32, "frames": 3, "trajectories": 2, "steps_per_world": 4}
TINY_BRANCH = {"dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 1}
TINY_PARTS = {
    "backbone": {"num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 16, "freq_dim": 32, "ffn_dim": 64},
    "control": TINY_BRANCH | {"mid_channels": 16},
    "stereo": TINY_BRANCH,
}
TINY_CODEC = {
    "latent_channels": 8,
    "encoder_channels": [16, 16, 24],
    "encoder_blocks": [1, 0, 1],
    "decoder_channels": [16, 16, 24],
    "decoder_blocks": [1, 1, 0],
}


def recipe(name: str) -> dict[str, Any]:
    return json.loads((RECIPES / f"{name}.json").read_text())


def write_tiny_recipes(folder: Path) -> Path:
    """The shipped recipes, with two steps of little clips and networks."""
    folder.mkdir()
    for name in NANO_CHAIN:
        values = recipe(name)
        values |= {"steps": 2, "warmup_steps": 1, "decay_steps": 1, "batch_size": 1}
        if name == "autoencoder":
            values |= {"network": TINY_CODEC, "procedural_count": 6, "crop": 32, "normalisation_frames": 4}
            values |= {"held_out_procedural": 0}
        else:
            values |= {"sources": [{"kind": "procedural", "options": TINY_CLIPS}], "sheet_clips": 1}
            del values["samples"]
        if name == "distill":
            values["dmd"] |= {"fake_updates": 1, "steps": 2}
        elif name != "autoencoder":
            values["sheet_steps"] = 1
        if "model" in values:
            values["model"] |= {"nframe": 3, "scale_map": [[32, 48]], "num_inference_steps": 2}
        for part in TINY_PARTS.keys() & values.keys():
            layers = {"num_layers": 2, "prediction": "residual"} if part == "backbone" else {}
            values[part] = TINY_PARTS[part] | layers
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def clip_conditions() -> ClipConditions:
    """Some points to be seen, and the first frame as a reference of the others."""
    clip = made_clip(3)
    random = torch.Generator().manual_seed(0)
    points = torch.randn(50, 3, generator=random) + torch.tensor([0.0, 0.0, 5.0])
    cloud = PointCloud(points, torch.rand(50, 3, generator=random))
    return ClipConditions(
        cameras=clip.cameras,
        image=clip.frames[0],
        guidance=render_guidance(GlobalGeometricMemory(cloud, cloud[:0]), clip.cameras, OWN_CAMERAS),
        references=References(
            frames=clip.frames[:1],
            cameras=clip.cameras[:1],
            names=("first",),
            for_target=torch.tensor([-1, 0, 0]),
            coverage=torch.tensor([0.0, 0.5, 0.5]),
            cloud=cloud,
        ),
        seed=0,
    )


# The shipped recipes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_shipped_recipes_are_configurations(tmp_path, device) -> None:
    (tmp_path / "data" / "hololens_000").mkdir(parents=True)
    for part in ("backbone", "control"):  # of the teacher
        (tmp_path / "made" / part).mkdir(parents=True)
    previous: Any = None
    for name in NANO_CHAIN:
        made = tmp_path / ("autoencoder" if name == "backbone-small" else "made")
        config = stage_config(name, RECIPES, tmp_path / name, made, tmp_path / "data", device, 0.5)
        assert config.steps == round((recipe(name) | (recipe(name)["cuda"] if device == "cuda" else {}))["steps"] / 2)
        assert config.decay_steps <= config.steps
        assert [s.folder for s in config.sources if s.folder] == [tmp_path / "data" / "hololens_000"]
        if isinstance(config, VideoTrainingConfig | DistillationConfig):
            assert config.mixed_precision == "bf16"
            assert isinstance(config, DistillationConfig) or config.lanes == (1 if device == "cuda" else 2)
            size = config.sources[0].options
            assert size["width"] % 16 == size["height"] % 16 == 0  # whole patches of 2 latents of 8 pixels
            assert size["width"] >= previous["width"] or name in ("camera", "stereo-small")
            previous = size
        without = stage_config(name, RECIPES, tmp_path / name, made, None, device)
        assert all(source.folder is None for source in without.sources)
        if isinstance(without, AutoencoderTrainingConfig):
            assert without.procedural_share == 1
            previous = {"width": 0}


def test_all_weights_are_under_40_megabytes(tmp_path) -> None:
    codec, backbone = recipe("autoencoder")["network"], recipe("backbone-small")["backbone"]
    channels = codec["latent_channels"]
    width = backbone["num_attention_heads"] * backbone["attention_head_dim"]
    known = {"conv_out_dim": width, "time_embed_dim": width, "out_channels": width, "in_channels": 2 * channels + 4}
    with torch.device("meta"):
        teacher = KeyframeTransformer(
            **backbone, in_channels=known["in_channels"], out_channels=channels, image_dim=None, added_kv_proj_dim=None
        )
        parts = [
            KeyframeAutoencoder(**codec),
            teacher,
            teacher,  # the student's backbone has its size
            ControlBranch(**known, **recipe("camera")["control"]),
            StereoBranch(**known, latent_channels=channels, **recipe("stereo-small")["stereo"]),
        ]
    megabytes = [2 * sum(value.numel() for value in part.state_dict().values()) / 1e6 for part in parts]
    assert 20 < sum(megabytes) < 40
    assert len(teacher.blocks) == 8
    assert [recipe("camera")["control"]["num_layers"], recipe("stereo-small")["stereo"]["num_layers"]] == [4, 4]


def test_unknown_fields_are_named(tmp_path) -> None:
    recipes = write_tiny_recipes(tmp_path / "recipes")
    path = recipes / "autoencoder.json"
    values = json.loads(path.read_text())
    for wrong in ({"wings": 2}, {"cuda": {"wings": 2}}):
        path.write_text(json.dumps(values | wrong))
        with pytest.raises(InputError, match="the field 'wings' is unknown"):
            train_nano(tmp_path / "run", recipes=recipes)
    path.write_text(json.dumps(values | {"cuda": 3}))
    with pytest.raises(InputError, match="the field 'cuda' is 3"):
        train_nano(tmp_path / "run", recipes=recipes)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        train_nano(tmp_path / "run", data=tmp_path / "nowhere", recipes=recipes)
    with pytest.raises(InputError, match=r"--scale 0\.0: must be positive"):
        train_nano(tmp_path / "run", scale=0.0, recipes=recipes)
    for scale in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"--scale {scale}: must be positive and finite"):
            train_nano(tmp_path / "run", scale=scale, recipes=recipes)
    with pytest.raises(InputError, match=r"--minutes -1\.0: must not be negative"):
        train_nano(tmp_path / "run", minutes=-1.0, recipes=recipes)


# The chain


def test_the_chain_stops_goes_on_and_ends_with_a_model(tmp_path) -> None:
    recipes = write_tiny_recipes(tmp_path / "recipes")
    run = tmp_path / "run"
    arguments = ["train", "nano", "--run", str(run), "--recipes", str(recipes), "--quiet"]
    stopped = CliRunner().invoke(app, [*arguments, "--minutes", "0"])
    assert stopped.exit_code == 0, stopped.output
    assert "autoencoder: step 1 of 2" in stopped.output
    assert "run the same command again" in stopped.output
    assert not (run / "1-backbone-small").exists()
    seen = []
    for name in NANO_CHAIN[:2]:
        state = train_nano(run, minutes=0.0, recipes=recipes, on_stage=seen.append)
        assert state.model is None
        assert state.next_stage == (name if name != "autoencoder" else "backbone-small")
    assert [(report.name, report.step, report.finished) for report in seen] == [
        ("autoencoder", 2, True),
        ("backbone-small", 1, False),
    ]
    seen.clear()
    reported = []
    state = train_nano(run, recipes=recipes, on_stage=seen.append, on_progress=lambda name, _: reported.append(name))
    assert [report.name for report in seen] == reported == list(NANO_CHAIN[1:])
    assert all(report.finished and 0 <= report.busy_share <= 1 and report.samples_per_second > 0 for report in seen)
    for number, name in enumerate(NANO_CHAIN):
        assert [step for step, _ in logged(run / f"{number}-{name}")] == [1, 2]
    calls = json.loads((run / "1-backbone-small" / "stage.json").read_text())["calls"]
    assert [(call["step"], call["device"]) for call in calls] == [(1, "cpu"), (2, "cpu")]
    assert state.next_stage is None
    assert state.model == run / "nano"
    for file in state.model.rglob("*.safetensors"):
        assert file.stat().st_size <= 16e6
    shared = sorted(path.name for path in (state.model / "undistilled").iterdir())
    assert shared == ["backbone", "config.json"]
    frames = {}
    for model in (state.model, f"{state.model}:undistilled", state.model / "undistilled"):
        generator = create_generator(str(model))
        frames[str(model)] = generator.generate(clip_conditions(), lambda done, total: None)
        assert frames[str(model)].shape == (3, 3, 32, 48)
    distilled, *undistilled = frames.values()
    assert torch.equal(*undistilled)
    assert not torch.equal(distilled, undistilled[0])
    teacher = result_folder("stereo", run / "7-stereo")
    for part in ("control", "stereo"):
        for file in (teacher / part).glob("*.safetensors"):
            before, after = load_file(file), load_file(state.model / part / file.name)
            assert all(torch.equal(before[name], after[name]) for name in before)
    again = train_nano(run, recipes=recipes, on_stage=seen.append)
    assert again == state
    assert len(seen) == len(NANO_CHAIN) - 1


def test_the_folder_above() -> None:
    assert ModelSource("owner/name", "nano/undistilled").above() == ModelSource("owner/name", "nano")
    assert ModelSource("owner/name", "undistilled").above() == ModelSource("owner/name")
    assert ModelSource(Path("/a/b")).above() == ModelSource(Path("/a"))
    assert ModelSource(Path("/a/b"), "c").above() == ModelSource(Path("/a/b"))


def test_one_process_only(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        train_nano(tmp_path / "run")
