"""Training of the video model and of its autoencoder: what is trained, resumed, logged and exported."""

import json
import os
import shutil
import socket
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import multiprocessing
from typer.testing import CliRunner

from test_nano_depth import die_after_a_checkpoint, write_posed
from tiny_networks import FRAMES, HEIGHT, WIDTH, take_a_tensor_out, write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cli import app
from worldstereo.data.rgbd import RgbdSource
from worldstereo.errors import InputError
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, camera_rays
from worldstereo.pipelines.keyframe_video import KeyframeInputs
from worldstereo.pipelines.world import create_generator
from worldstereo.training.autoencoder import gradient_error, train_autoencoder
from worldstereo.training.autoencoder_config import AutoencoderTrainingConfig, read_autoencoder_config
from worldstereo.training.clip_mixture import write_clip_shards
from worldstereo.training.clip_sources import clip_mixture, in_advance
from worldstereo.training.flow_matching import draw_time, noised, velocity_loss
from worldstereo.training.flow_objective import Draw, FlowObjective, drop_conditions
from worldstereo.training.lanes import open_lanes
from worldstereo.training.model_folder import begin_model
from worldstereo.training.setup import load_for_training
from worldstereo.training.stages import DENOISING_STAGES, STAGES
from worldstereo.training.training_clip import TrainingClip, collate
from worldstereo.training.video import train_video
from worldstereo.training.video_config import ClipSourceConfig, VideoTrainingConfig, read_video_config

SMALL = (48, 32)  # width and height of the clips, smaller than the model's: training may grow
BRANCH = {"dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 2}
BACKBONE = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
    "prediction": "residual",
}


def made_clip(seed: int, frames: int = 3) -> TrainingClip:
    """Smooth moving colours; the right side is a hole in all frames but the first."""
    width, height = SMALL
    rng = np.random.default_rng(seed)
    x = torch.linspace(0, 6, width) + torch.arange(frames)[:, None] * float(rng.uniform(0.2, 0.6))
    wave = 0.5 + 0.4 * torch.sin(x[:, None, None] + torch.tensor([0.0, 1.0, 2.0])[:, None, None] * rng.uniform(1, 2))
    truth = wave.expand(-1, -1, height, -1).contiguous()
    holes = torch.zeros(frames, height, width, dtype=torch.bool)
    holes[1:, :, width // 2 :] = True
    filled = torch.where(holes[:, None], truth.mean(dim=3, keepdim=True), truth)
    poses = torch.eye(4).repeat(frames, 1, 1)
    poses[:, 0, 3] = torch.arange(frames) / 10
    intrinsics = Cameras.from_fov(60.0, width, height).intrinsics.repeat(frames, 1, 1)
    cameras = Cameras(poses, intrinsics, width, height)
    references = int(rng.integers(3))
    inputs = KeyframeInputs(
        image=truth[0],
        render=torch.where(holes[:, None], 0.5, truth),
        hole_mask=holes,
        rays=camera_rays(cameras, OWN_CAMERAS),
        filled=filled,
        references=truth[:references],
        reference_of_target=torch.arange(frames) % (references + 1) - 1,
        target_pointmaps=truth.flip(3),
        reference_pointmaps=truth[:references].flip(3),
    )
    return TrainingClip(f"wave/{seed}", truth, cameras, inputs)


def make(seed: int) -> list[TrainingClip]:
    return [made_clip(3 * seed + place) for place in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("video")
    write_clip_shards(root / "clips", 2, 0, make)
    start = write_paper_model(root / "start", latent_cond_mode="filled_render")
    return {"clips": root / "clips", "start": start, "autoencoder": start / "autoencoder"}


def config_of(folders: dict[str, Path], run: Path, stage: str = "ggm", **changes: Any) -> VideoTrainingConfig:
    values: dict[str, Any] = {
        "run_folder": run,
        "stage": stage,
        "sources": (ClipSourceConfig("shards", folder=folders["clips"]),),
        "start": folders["start"],
        "steps": 2,
        "warmup_steps": 1,
        "decay_steps": 0,
        "batch_size": 2,
        "sheet_clips": 1,
        "sheet_steps": 2,
        "drop_render": 0.3,
    }
    return VideoTrainingConfig(**(values | changes))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = {file: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return {name: value for values in files.values() for name, value in values.items()}


def logged(run: Path, name: str = "total") -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


# Stages


def test_the_table_of_stages() -> None:
    assert {name: stage.trains for name, stage in STAGES.items()} == {
        "backbone": ("backbone",),
        "camera": ("control",),
        "ggm": ("control",),
        "stereo": ("stereo",),
        "distill": ("backbone",),
    }
    for stage in STAGES.values():
        assert set(stage.trains) <= set(stage.parts)
        assert set(stage.needs) <= set(stage.parts)
    assert STAGES["camera"].recipe.extra_views == 0 < STAGES["ggm"].recipe.extra_views
    assert STAGES["ggm"].recipe.bank == 0 < STAGES["stereo"].recipe.bank


@pytest.mark.parametrize("stage", DENOISING_STAGES)
def test_a_stage_changes_what_it_trains_and_nothing_else(folders, tmp_path, stage) -> None:
    seen = []
    config = config_of(folders, tmp_path / "run", stage)
    begun = begin_model(config)
    before = {part: weights_of(begun / part) for part in ("backbone", "control", "stereo", "autoencoder")}
    model = train_video(config, seen.append)
    assert model == begun == tmp_path / "run" / "model"
    assert {path.name for path in model.iterdir() if path.is_dir()} == {*STAGES[stage].parts, "autoencoder"}
    for part in ("autoencoder", *STAGES[stage].parts):
        after = weights_of(model / part)
        same = [torch.equal(after[name], value) for name, value in before[part].items()]
        if part in STAGES[stage].trains:
            assert not all(same)
            assert all(value.dtype == torch.float16 for value in after.values())
        else:
            assert all(same)
            assert len(same) > 10
    assert seen[-1].step == 2
    assert seen[-1].seconds_left == 0
    assert list((tmp_path / "run" / "sheets").glob("*.png"))


def test_frozen_weights_stay_in_memory_too(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", "stereo")
    pipeline = load_for_training(begin_model(config), config, "cpu")
    network = pipeline.network
    network.train_only(*STAGES["stereo"].trains)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    FlowObjective(config, pipeline).loss(network, [made_clip(2), made_clip(1)], 0).backward()
    optimizer.step()
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"stereo"}


# The objective


def test_an_exact_prediction_has_no_loss() -> None:
    torch.manual_seed(0)
    clean, noise, condition = torch.randn(3, 2, 4, 3, 2, 2)
    clean, noise, condition = (x[None] if x.ndim == 4 else x for x in (clean, noise, condition))
    time, weight = torch.tensor([0.3]), torch.ones(1, 3, 2, 2)
    clean, noise, condition = (x.reshape(1, -1, 3, 2, 2) for x in (clean, noise, condition))
    assert velocity_loss(noise - clean, clean, noise, time, weight, False) == 0
    x = noised(clean, noise, time)
    torch.testing.assert_close(x + (1 - time) * (noise - clean), noise)
    torch.testing.assert_close((x - clean) / time, noise - clean)
    wrong = clean + 0.5  # a prediction of clean latents, off by a half
    for t in (0.02, 0.3, 0.9):
        time = torch.tensor([t])
        velocity = (noised(clean, noise, time) - wrong) / time
        loss = velocity_loss(velocity, clean, noise, time, weight, True)
        torch.testing.assert_close(loss, torch.tensor([0.25 / max(t, 0.5) ** 2]), rtol=1e-3, atol=0)


def test_a_new_backbone_that_predicts_residuals_begins_at_the_filled_render(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", "backbone", start=None, **new_model(folders))
    pipeline = load_for_training(begin_model(config), config, "cpu")
    clip = made_clip(1)
    exact = replace(clip, inputs=replace(clip.inputs, filled=clip.frames))
    objective = FlowObjective(replace(config, drop_render=0.0), pipeline)
    assert objective.loss(pipeline.network, [exact], 0) < 1e-8
    assert objective.loss(pipeline.network, [clip], 0) > 1e-3


def new_model(folders: dict[str, Path]) -> dict[str, Any]:
    model = json.loads((folders["start"] / "config.json").read_text())
    return {
        "autoencoder": folders["autoencoder"],
        "backbone": BACKBONE,
        "control": BRANCH | {"mid_channels": 16},
        "stereo": BRANCH,
        "model": {name: value for name, value in model.items() if name not in ("model_type", "negative_prompt")},
    }


def test_holes_can_weigh_more() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 3, 2, 2)
    weight = torch.ones(1, 3, 2, 2)
    weight[:, 1:] = 3
    velocity = noise - clean
    velocity[:, :, 1:] += 1
    loss = velocity_loss(velocity, clean, noise, torch.tensor([0.5]), weight, False)
    torch.testing.assert_close(loss, torch.tensor([6 / 7]))


def test_times_are_logit_normal_with_a_uniform_share() -> None:
    rng = np.random.default_rng(0)
    times = np.array([draw_time(rng, 1.0, 0.5, 0.0) for _ in range(2000)])
    logits = np.log(times / (1 - times))
    assert abs(logits.mean() - 1) < 0.05
    assert abs(logits.std() - 0.5) < 0.05
    uniform = np.array([draw_time(rng, 9.0, 0.0, 0.5) for _ in range(2000)])
    assert abs((uniform < 0.5).mean() - 0.25) < 0.04
    assert uniform.min() > 0
    assert uniform.max() <= 1


def test_conditions_are_missing_at_their_rates(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", drop_text=0.1, drop_render=0.05, drop_rays=0.05)
    objective = FlowObjective(config, load_for_training(begin_model(config), config, "cpu"))
    draws = [objective.draw(number, (1, 1, 1, 1)) for number in range(3000)]
    for name, share in (("text", 0.1), ("render", 0.05), ("rays", 0.05)):
        assert abs(np.mean([name in draw.missing for draw in draws]) - share) < 0.015
    again = objective.draw(7, (1, 1, 1, 1))
    assert (again.time, again.missing) == (draws[7].time, draws[7].missing)
    assert torch.equal(again.noise, draws[7].noise)
    assert len({float(draw.noise) for draw in draws}) > 2990


def test_what_is_missing_is_empty() -> None:
    batch, whole = (collate([made_clip(1), made_clip(2)]) for _ in range(2))
    noise = torch.zeros(1, 1, 1, 1)
    drop_conditions(batch, [Draw(0.5, frozenset({"render"}), noise), Draw(0.5, frozenset({"rays", "text"}), noise)])
    assert batch["hole_mask"][0, 1:].all()
    assert not batch["hole_mask"][0, 0].any()
    for name in ("render", "filled"):
        assert (batch[name][0, 1:] == 0.5).all()
        assert torch.equal(batch[name][0, 0], whole["image"][0])
        assert torch.equal(batch[name][1], whole[name][1])
    assert not batch["rays"][1].any()
    assert torch.equal(batch["rays"][0], whole["rays"][0])


def test_without_pointmaps_nothing_says_where_references_lie() -> None:
    batch, whole = (collate([made_clip(1), made_clip(2)]) for _ in range(2))
    drop_conditions(batch, [Draw(0.5, frozenset({"pointmaps"}), torch.zeros(1, 1, 1, 1))])
    for name in ("target_pointmaps", "reference_pointmaps"):
        assert (batch[name][0] == 0.5).all()
        assert torch.equal(batch[name][1], whole[name][1])
    known = ~batch["hole_mask"][0, :, None].expand(-1, 3, -1, -1)
    assert torch.equal(batch["filled"][0][known], whole["render"][0][known])
    assert torch.equal(batch["references"], whole["references"])


def test_two_passes_of_one_clip_are_one_pass_of_two(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", "stereo")
    pipeline = load_for_training(begin_model(config), config, "cpu")
    network, objective = pipeline.network, FlowObjective(config, pipeline)
    network.train_only("stereo")
    clips = [made_clip(4), made_clip(2)]
    together = objective.loss(network, clips, 6)
    together.backward()
    gradients = [parameter.grad.clone() for parameter in network.stereo.parameters()]
    network.zero_grad()
    apart = [objective.loss(network, [clip], 6 + place) for place, clip in enumerate(clips)]
    sum(loss / 2 for loss in apart).backward()
    torch.testing.assert_close(sum(apart) / 2, together)
    for parameter, gradient in zip(network.stereo.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-3)


# Runs


def test_a_killed_run_goes_on_as_if_it_had_not_been(folders, tmp_path, monkeypatch) -> None:
    changes = {"steps": 6, "checkpoint_seconds": 0.0, "drop_text": 0.5, "batch_size": 1}
    whole = train_video(config_of(folders, tmp_path / "whole", **changes))
    config = config_of(folders, tmp_path / "parts", **changes)
    loss = FlowObjective.loss

    def killed(objective: FlowObjective, network: Any, clips: Any, first: int) -> torch.Tensor:
        if first == 3:
            raise KeyboardInterrupt
        return loss(objective, network, clips, first)

    monkeypatch.setattr(FlowObjective, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_video(config)
    monkeypatch.undo()
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "total": 9.0}\n{"ste')  # of steps after the last checkpoint
    parts = train_video(replace(config, loaders=1))
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert [step for step, _ in logged(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match="another optimizer"):
        train_video(replace(config, optimizer="adamw"))
    for one, other in zip(weights_of(whole / "control").values(), weights_of(parts / "control").values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="another stage"):
        train_video(replace(config, stage="stereo"))


def test_a_run_killed_between_checkpoint_and_model_still_gives_the_model(folders, tmp_path, monkeypatch) -> None:
    rates = {"optimizer": "adamw", "adam_learning_rate": 0.05}
    whole = train_video(config_of(folders, tmp_path / "whole", **rates))
    config = config_of(folders, tmp_path / "killed", **rates)
    begun = weights_of(begin_model(config) / "control")
    die_after_a_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_video(config)
    monkeypatch.undo()
    left = weights_of(tmp_path / "killed" / "model" / "control")
    assert all(torch.equal(left[name], value) for name, value in begun.items())
    model = train_video(config)
    for file in (whole / "control").iterdir():
        assert (model / "control" / file.name).read_bytes() == file.read_bytes()
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def copied_start(folders: dict[str, Path], folder: Path) -> Path:
    """The same model elsewhere, whose backbone has other values."""
    shutil.copytree(folders["start"], folder)
    (file,) = (folder / "backbone").glob("*.safetensors")
    save_file({name: value + 0.1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    return folder


def test_a_run_goes_on_only_with_what_it_began_with(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", "camera", steps=1)
    train_video(config)
    with pytest.raises(InputError, match=r"^stage: the run in .*run began with 'camera', not with 'ggm'; choose"):
        train_video(replace(config, stage="ggm"))
    with pytest.raises(InputError, match=r"^start: the files of .*other are not those .* began with \(.*start\); choo"):
        train_video(replace(config, start=copied_start(folders, tmp_path / "other")))
    with pytest.raises(InputError, match=r"^control\.num_layers: the run in .*run began with None, not with 3; choose"):
        train_video(replace(config, control={"num_layers": 3}))
    moved = shutil.copytree(folders["start"], tmp_path / "moved")
    train_video(replace(config, start=moved, steps=2))
    assert [step for step, _ in logged(tmp_path / "run")] == [1, 2]
    record = tmp_path / "run" / "beginning.json"
    record.write_text("[]")
    with pytest.raises(InputError, match=r"beginning\.json: is damaged; choose another run folder"):
        train_video(config)


def test_a_run_from_before_beginnings_were_kept_goes_on(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "run", "camera", steps=1)
    train_video(config)
    (tmp_path / "run" / "beginning.json").unlink()
    train_video(replace(config, stage="ggm", steps=2, start=tmp_path / "gone"))
    assert [step for step, _ in logged(tmp_path / "run")] == [1, 2]


def test_a_wrong_model_config_can_be_corrected(folders, tmp_path) -> None:
    whole = {"start": None, "steps": 1, **new_model(folders)}
    config = config_of(folders, tmp_path / "run", "backbone", **whole)
    without = {name: value for name, value in config.model.items() if name != "nframe"}
    with pytest.raises(InputError, match=r"^model: the field 'nframe' is missing"):
        train_video(replace(config, model=without))
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(InputError, match="the field 'scheduler' is missing"):  # seen when the model is loaded
        train_video(replace(config, model={name: x for name, x in config.model.items() if name != "scheduler"}))
    model = train_video(config)
    assert json.loads((model / "config.json").read_text())["scheduler"] == config.model["scheduler"]
    with pytest.raises(InputError, match=r"^autoencoder: .*nowhere is no autoencoder's folder"):
        train_video(replace(config, run_folder=tmp_path / "other", autoencoder=tmp_path / "nowhere"))
    for fields in ({"num_attention_heads": 0}, {"num_attention_heads": -2}, {"text_dim": "a"}):
        with pytest.raises(InputError, match=r"^backbone: "):
            train_video(replace(config, run_folder=tmp_path / "other", backbone=BACKBONE | fields))
    assert not (tmp_path / "other" / "model").exists()


def test_passes_and_batches_are_alike_in_a_whole_run(folders, tmp_path) -> None:
    """Two passes of one clip a step, against one of two: the same clips, and new worlds in the same steps."""
    options = {"width": 48, "height": 32, "frames": 3, "trajectories": 1, "steps_per_world": 2}
    sources = (
        ClipSourceConfig("shards", folder=folders["clips"], weight=0.5),
        ClipSourceConfig("procedural", options=options),
    )
    runs = {"passes": (1, 2), "batch": (2, 1)}
    for name, (size, passes) in runs.items():
        changes = {"batch_size": size, "accumulation": passes, "steps": 4, "optimizer": "adamw"}
        train_video(config_of(folders, tmp_path / name, sources=sources, samples=sources[:1], **changes))
    for figure in ("total", "gradient_norm"):
        one, other = (dict(logged(tmp_path / name, figure)) for name in runs)
        assert one == pytest.approx(other, rel=1e-3)
        assert len(one) == 4


def test_lanes_share_a_batch_and_change_nothing(folders, tmp_path) -> None:
    for name, lanes in {"one": 1, "two": 2}.items():
        train_video(config_of(folders, tmp_path / name, "stereo", batch_size=3, lanes=lanes, steps=3))
    for figure in ("total", "gradient_norm"):
        one, two = (dict(logged(tmp_path / name, figure)) for name in ("one", "two"))
        assert one == pytest.approx(two, rel=1e-3)
        assert len(two) == 3


def test_lanes_are_for_one_process_on_a_cpu(folders, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="lanes is 2 but must be 1 on cuda"):
        config_of(folders, tmp_path / "gpu", lanes=2, device="cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="lanes is 2 but must be 1 where several processes train"):
        train_video(config_of(folders, tmp_path / "several", lanes=2))


@given(st.integers(1, 4), st.integers(0, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_lanes_cut_a_batch_evenly(lanes, count, first) -> None:
    before = torch.get_num_threads()
    with open_lanes(lanes) as opened:
        shares = opened.shares(first, range(count))
        assert opened.map(lambda share: sum(share[1]), shares) == [sum(some) for _, some in shares]
    assert torch.get_num_threads() == before
    assert [item for _, some in shares for item in some] == list(range(count))
    assert all(some[0] == number - first for number, some in shares)
    assert not shares or max(len(some) for _, some in shares) - min(len(some) for _, some in shares) <= 1


def test_two_processes_are_two_passes(folders, tmp_path) -> None:
    config = config_of(folders, tmp_path / "passes", "stereo", batch_size=1, accumulation=2)
    train_video(config)
    alike = replace(config, run_folder=tmp_path / "processes", accumulation=1)
    server = "forkserver"  # imports once for all processes
    multiprocessing.get_context(server).set_forkserver_preload(["worldstereo.training.video"])
    multiprocessing.start_processes(one_process, (2, free_port(), alike), 2, start_method=server)
    for figure in ("total", "gradient_norm"):
        expected, found = (dict(logged(tmp_path / name, figure)) for name in ("passes", "processes"))
        assert found == pytest.approx(expected, rel=1e-3)
        assert len(found) == 2


def one_process(rank: int, processes: int, port: int, config: VideoTrainingConfig) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    train_video(config)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_figures_and_pictures_go_to_tensorboard_if_there_is_one(folders, tmp_path, monkeypatch) -> None:
    noted: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (Path(folder), purge_step) == (tmp_path / "run" / "tensorboard", 1)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            noted.append((name, step))

        def add_image(self, name: str, picture: np.ndarray, step: int) -> None:
            assert picture.shape[0] == 3
            noted.append((name, step))

        def flush(self) -> None: ...

    module = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", Writer, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train_video(config_of(folders, tmp_path / "run"))
    assert {("total", 1), ("total", 2), ("samples", 2), ("sample_psnr_holes", 2)} <= set(noted)


def test_one_clip_is_learnt_by_heart_and_the_model_makes_clips(folders, tmp_path) -> None:
    config = config_of(
        folders,
        tmp_path / "run",
        "backbone",
        start=None,
        steps=40,
        batch_size=4,
        drop_render=0.0,
        uniform_time=0.0,
        time_mean=1.5,
        largest_file="20KB",
        **new_model(folders),
    )
    model = train_video(config)
    losses = [loss for _, loss in logged(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    assert len(list((model / "backbone").glob("*.safetensors"))) > 1
    figures = logged(tmp_path / "run", "sample_psnr_holes")
    assert len(figures) == 1
    config = config_of(folders, tmp_path / "control", "camera", start=model, control=new_model(folders)["control"])
    model = train_video(config)
    config = config_of(folders, tmp_path / "stereo", "stereo", start=model, stereo=BRANCH, mixed_precision="bf16")
    model = train_video(replace(config, gradient_checkpointing=True))
    generator = create_generator(str(model))
    assert generator.frames == FRAMES
    inputs = made_clip(1, FRAMES).inputs
    rows = [torch.nn.functional.interpolate(x, size=(HEIGHT, WIDTH)) for x in (inputs.render, inputs.rays)]
    holes = torch.nn.functional.interpolate(inputs.hole_mask[None].float(), size=(HEIGHT, WIDTH))[0] > 0.5
    maps = torch.zeros(1, 3, HEIGHT, WIDTH)
    frames = generator._pipeline(
        KeyframeInputs(
            rows[0][0],
            rows[0],
            holes,
            rows[1],
            filled=rows[0],
            references=rows[0][:1],
            reference_of_target=torch.tensor([-1, 0, 0, 0, 0]),
            target_pointmaps=rows[0],
            reference_pointmaps=maps,
        )
    )
    assert frames.shape == (FRAMES, 3, HEIGHT, WIDTH)
    assert frames.isfinite().all()


def test_a_batch_without_any_reference_is_no_error(folders, tmp_path, monkeypatch) -> None:
    alone = made_clip(1)
    none = replace(alone.inputs, reference_of_target=torch.full((3,), -1))
    monkeypatch.setattr(
        "worldstereo.training.clip_mixture.ClipMixture.batch", lambda self, index, step: [replace(alone, inputs=none)]
    )
    train_video(config_of(folders, tmp_path / "run", "stereo", steps=1))
    assert logged(tmp_path / "run", "gradient_norm")[0][1] == 0


def test_a_loss_that_is_not_finite_ends_the_run(folders, tmp_path, monkeypatch) -> None:
    loss = FlowObjective.loss
    monkeypatch.setattr(FlowObjective, "loss", lambda *arguments: loss(*arguments) * torch.nan)
    with pytest.raises(InputError, match="not finite at step 1"):
        train_video(config_of(folders, tmp_path / "run", checkpoint_seconds=0.0))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_every_kind_of_source_gives_clips(folders, tmp_path) -> None:
    cameras = write_posed(tmp_path / "walk", 8) / "cameras.json"
    cameras.write_text(json.dumps(json.loads(cameras.read_text()) | {"convention": "opencv-w2c"}))
    sizes = {"width": 48, "height": 32, "frames": 3}
    sources = (
        ClipSourceConfig("shards", folder=folders["clips"]),
        ClipSourceConfig("procedural", options=sizes | {"trajectories": 1, "share": [0.1, 0.3]}),
        ClipSourceConfig("posed", folder=tmp_path / "walk", options=sizes | {"strides": [1, 2], "seed": 3}),
    )
    for source in sources:
        (clip,) = clip_mixture([source], STAGES["stereo"].recipe, 1, 0, "cpu").batch(5, 5)
        assert clip.frames.shape == (3, 3, 32, 48)
    wrong = ClipSourceConfig("procedural", options={"speed": 2})
    with pytest.raises(InputError, match="procedural one has a wrong option"):
        clip_mixture([wrong], STAGES["stereo"].recipe, 1, 0, "cpu")


@pytest.mark.parametrize(
    "option",
    [
        {"seed": -1},
        {"steps_per_world": 0},
        {"height": 0},
        {"frames": 1},
        {"share": [0.5, 0.1]},
    ],
)
def test_a_wrong_option_of_a_source_is_named(option) -> None:
    source = ClipSourceConfig("procedural", options=option)
    with pytest.raises(InputError, match=f"^sources, the procedural one: {next(iter(option))} is .* but must be"):
        clip_mixture([source], STAGES["stereo"].recipe, 1, 0, "cpu")


def test_clips_made_ahead_come_in_order() -> None:
    assert list(in_advance(lambda index: index**2, range(3, 20, 4), 2)) == [index**2 for index in range(3, 20, 4)]


# Configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "distil"}, "stage is 'distil' but must be one of backbone, camera, ggm, stereo"),
        ({"start": None}, "start is missing"),
        ({"stage": "backbone", "start": None}, "autoencoder or model is missing"),
        ({"sources": ()}, "sources is empty"),
        ({"lanes": 0}, "lanes is 0 but must be a whole number of at least 1"),
        ({"accumulation": 0}, "accumulation is 0 but must be a whole number of at least 1"),
        ({"seed": -1}, "seed is -1 but must be a whole number of at least 0"),
        ({"drop_text": 1.5}, "drop_text is 1.5 but must be between 0 and 1"),
        ({"hole_weight": -1.0}, "hole_weight is -1.0 but must be finite and at least 0"),
        ({"learning_rate": -1.0}, "^learning_rate is -1.0 but must be finite and at least 0"),
        ({"adam_learning_rate": float("nan")}, "adam_learning_rate is nan but must be finite and at least 0"),
        ({"time_mean": float("nan")}, "time_mean is nan but must be between -100 and 100"),
        ({"largest_file": "15"}, "largest_file is '15' but must be a size such as '15MB'"),
        ({"decay_steps": 3}, "decay_steps is 3 but must be at most steps, 2"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16'"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
    ],
)
def test_bad_settings_are_named(folders, tmp_path, change, message) -> None:
    with pytest.raises(InputError, match=message):
        config_of(folders, tmp_path / "run", **change)


def test_what_does_not_fit_the_start_is_named(folders, tmp_path) -> None:
    missing = {"stage": "stereo", "start": tmp_path / "nowhere"}
    with pytest.raises(InputError, match=r"nowhere is no model folder"):
        train_video(config_of(folders, tmp_path / "a", **missing))
    bare = new_model(folders)
    with pytest.raises(InputError, match="backbone: no such network can be made"):
        train_video(config_of(folders, tmp_path / "b", "backbone", start=None, **(bare | {"backbone": {"layers": 2}})))
    with pytest.raises(InputError, match="backbone is missing"):
        train_video(config_of(folders, tmp_path / "c", "backbone", start=None, **(bare | {"backbone": {}})))
    assert not (tmp_path / "c" / "model").exists()
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda: this computer has no such device"):
            train_video(config_of(folders, tmp_path / "d", device="cuda"))


def test_a_new_branch_does_not_copy_a_backbone_that_lacks_a_tensor(tmp_path) -> None:
    start = write_paper_model(tmp_path / "start")
    take_a_tensor_out(start / "backbone")
    shutil.rmtree(start / "control")
    sources = {"sources": (ClipSourceConfig("shards", folder=tmp_path),), "start": start}
    with pytest.raises(InputError, match=r"backbone: the weights of this KeyframeTransformer lack [\w.]+; fetch"):
        begin_model(VideoTrainingConfig(tmp_path / "run", "camera", control=BRANCH, **sources))
    assert not (tmp_path / "run" / "model").exists()


def test_a_config_file_and_its_mistakes(folders, tmp_path) -> None:
    path = tmp_path / "config.json"
    values = {
        "stage": "camera",
        "start": "nano",
        "sources": [{"kind": "shards", "folder": "clips"}, {"kind": "procedural", "options": {"frames": 5}}],
        "time_mean": 1,
        "steps": 10,
        "decay_steps": 4,
        "control": BRANCH,
    }
    path.write_text(json.dumps(values))
    config = read_video_config(path, tmp_path / "run", tmp_path / "data")
    assert config.start == tmp_path / "data" / "nano"
    assert config.sources[0].folder == tmp_path / "data" / "clips"
    assert config.sources[1].options == {"frames": 5}
    assert config.time_mean == 1.0
    assert read_video_config(path, tmp_path / "run", None, "cpu", {"stage": "ggm"}).stage == "ggm"
    for change, message in (
        ({"stepps": 1}, "the field 'stepps' is unknown"),
        ({"steps": "many"}, "the field 'steps' is 'many', of a wrong kind"),
        ({"steps": True}, "the field 'steps' is True, of a wrong kind"),
        ({"sources": [{"kind": "films"}]}, "kind is 'films'"),
        ({"sources": [{"kind": "shards"}]}, "'shards' has no folder"),
        ({"sources": [{"kind": "procedural", "wait": 1}]}, "the field 'sources' .* of a wrong kind"),
        ({"sources": [{"kind": "procedural", "weight": float("nan")}]}, "a source's weight is nan but must be"),
        ({"learning_rate": 10**400}, "the field 'learning_rate' .* of a wrong kind"),
        ({"steps": 3}, "config.json: decay_steps is 4"),
    ):
        path.write_text(json.dumps(values | change))
        with pytest.raises(InputError, match=message):
            read_video_config(path, tmp_path / "run")
    path.write_text(json.dumps({name: value for name, value in values.items() if name != "sources"}))
    with pytest.raises(InputError, match=r"config\.json: the field 'sources' is missing; add it"):
        read_video_config(path, tmp_path / "run")


def test_options_of_a_wrong_kind_are_named(tmp_path) -> None:
    """In a process of its own: in this one, the checks of types that tests switch on would find them first."""
    wrong = [{"width": "a"}, {"seed": "x"}, {"steps_per_world": "x"}, {"share": [0.1]}, {"share": "x"}, {"frames": 2.5}]
    path = tmp_path / "config.json"
    path.write_text(json.dumps([None, *wrong]))
    script = """if True:
        import json, sys
        from worldstereo.errors import InputError
        from worldstereo.training.clip_sources import clip_mixture
        from worldstereo.training.stages import STAGES
        from worldstereo.training.video_config import ClipSourceConfig

        for options in json.load(open(sys.argv[1])):
            try:
                source = ClipSourceConfig("procedural", options=options)
                clip_mixture([source], STAGES["ggm"].recipe, 1, 0, "cpu")
            except InputError as error:
                print(error)
    """
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    first, *others = result.stdout.splitlines()
    assert first == "a source's options are None but must be an object of fields"
    for line, option in zip(others, wrong, strict=True):
        assert line.startswith(f"sources, the procedural one: {next(iter(option))} is "), line


def test_the_command_trains_a_stage(folders, tmp_path) -> None:
    path = tmp_path / "config.json"
    sources = [{"kind": "shards", "folder": str(folders["clips"])}]
    values = {"stage": "camera", "start": str(folders["start"]), "sources": sources, "steps": 1, "decay_steps": 0}
    path.write_text(json.dumps(values | {"batch_size": 1, "sheet_clips": 1, "sheet_steps": 2}))
    arguments = ["train", "video", str(path), "--run", str(tmp_path / "run"), "--stage", "ggm", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "model" / "control" / "config.json").is_file()


# The autoencoder


def autoencoder_config(tmp_path: Path, run: str, **changes: Any) -> AutoencoderTrainingConfig:
    folder = tmp_path / "walk"
    if not folder.is_dir():
        write_posed(folder, 12)
        for file in (folder / "images").iterdir():
            smooth = np.asarray(Image.open(file).resize((12, 8)).resize((96, 64), Image.Resampling.BICUBIC))
            Image.fromarray(smooth).save(file)
    values: dict[str, Any] = {
        "run_folder": tmp_path / run,
        "network": {
            "latent_channels": 8,
            "encoder_channels": [16, 16, 24],
            "encoder_blocks": [1, 0, 1],
            "decoder_channels": [16, 16, 24],
            "decoder_blocks": [1, 1, 0],
        },
        "sources": (RgbdSource(folder, 1.0, ((0.9, 1.0),)),),
        "procedural_share": 0.0,
        "crop": 32,
        "batch_size": 4,
        "steps": 4,
        "warmup_steps": 1,
        "decay_steps": 0,
        "normalisation_frames": 8,
        "held_out_procedural": 0,
    }
    return AutoencoderTrainingConfig(**(values | changes))


def test_the_autoencoder_learns_and_its_export_encodes(tmp_path) -> None:
    folder = train_autoencoder(autoencoder_config(tmp_path, "run", steps=60, learning_rate=4e-3, ema_decay=0.9))
    losses = [loss for _, loss in logged(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    (step, psnr), *_ = logged(tmp_path / "run", "held_out_psnr")
    assert step == 60
    assert psnr > 10
    assert list((tmp_path / "run" / "sheets").glob("*.png"))
    codec = KeyframeAutoencoder.from_pretrained(folder).eval()
    assert codec.dtype == torch.float32
    frames = torch.tensor(np.asarray(Image.open(tmp_path / "walk/images/0.png"))).permute(2, 0, 1)[None] / 255
    latents = codec.encode(frames)
    assert abs(float(latents.mean())) < 0.5
    assert 0.5 < float(latents.std()) < 1.5
    assert (codec.decode(latents) - frames).square().mean() < 0.01


def test_the_autoencoder_goes_on_where_it_stopped(tmp_path) -> None:
    whole = train_autoencoder(autoencoder_config(tmp_path, "whole"))
    train_autoencoder(autoencoder_config(tmp_path, "parts", steps=2))
    parts = train_autoencoder(autoencoder_config(tmp_path, "parts"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    for one, other in zip(weights_of(whole).values(), weights_of(parts).values(), strict=True):
        assert torch.equal(one, other)


def test_an_autoencoder_killed_between_checkpoint_and_weights_is_still_made(tmp_path, monkeypatch) -> None:
    whole = train_autoencoder(autoencoder_config(tmp_path, "whole", steps=2))
    die_after_a_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(autoencoder_config(tmp_path, "killed", steps=2))
    monkeypatch.undo()
    again = train_autoencoder(autoencoder_config(tmp_path, "killed", steps=2))
    for file in whole.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_gradient_errors_see_edges_and_not_shades() -> None:
    assert gradient_error(torch.full((1, 3, 16, 16), 0.3)) == 0
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    assert gradient_error(edge) == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 6, rel=1e-5)


def test_bad_settings_of_the_autoencoder_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="sources is empty"):
        autoencoder_config(tmp_path, "run", sources=())
    with pytest.raises(InputError, match="crop is 0 but must be a whole number"):
        autoencoder_config(tmp_path, "run", crop=0)
    with pytest.raises(InputError, match="procedural_count is 0 but must be a whole number of at least 1"):
        autoencoder_config(tmp_path, "run", procedural_share=0.5, procedural_count=0)
    with pytest.raises(InputError, match="network: no such autoencoder"):
        train_autoencoder(autoencoder_config(tmp_path, "run", network={"wings": 2}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"sources": [{"folder": "walk", "weight": 2}], "crop": 64}))
    config = read_autoencoder_config(path, tmp_path / "run", tmp_path)
    assert config.sources[0].folder == tmp_path / "walk"
    path.write_text(json.dumps({"crop": "wide"}))
    with pytest.raises(InputError, match="'crop' is 'wide', of a wrong kind"):
        read_autoencoder_config(path, tmp_path / "run")
