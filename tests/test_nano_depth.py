"""Nano depth: the network's contract, the data it reads, its training and its measurement."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from worldstereo.cameras.cameras import Cameras
from worldstereo.data.rgbd import RgbdFrame, RgbdSource, read_rgbd_folder, split_held_out
from worldstereo.depth.base import DepthPrediction
from worldstereo.depth.nano import NanoDepth, load_depth_network, reduce_hint, working_size
from worldstereo.depth.upsampling import upsample_answers
from worldstereo.errors import InputError
from worldstereo.evaluation.depth import DepthEvaluationConfig, evaluate_depth
from worldstereo.evaluation.depth_metrics import (
    align_scale,
    align_scale_and_shift,
    depth_errors,
    fit_disparity,
    median_ratio,
    normal_error_degrees,
)
from worldstereo.locks import locked
from worldstereo.models.depth_network import DepthNetwork, DepthNetworkConfig, assumed_rays, fill_unknown
from worldstereo.training.depth import train_depth
from worldstereo.training.depth_config import DepthTrainingConfig, read_training_config
from worldstereo.training.depth_losses import depth_loss
from worldstereo.training.depth_samples import draw_batch, draw_hint
from worldstereo.training.loop import TrainingState
from worldstereo.training.muon import Muon, orthogonalized
from worldstereo.training.painted_skies import paint_sky

TINY = DepthNetworkConfig(
    widths=(8, 8, 16, 16, 16), blocks=(0, 1, 1, 1, 1), attention_blocks=1, decoder_widths=(16, 8, 8, 8)
)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def plane_frame(width: int = 96, height: int = 64, name: str = "plane") -> RgbdFrame:
    """A floor under a wall: depth known everywhere, a hole in a corner."""
    camera = Cameras.from_fov(60.0, width, height)
    rays = camera.pixel_rays()[0]
    floor = 0.5 / rays[..., 1].clamp(min=1e-3)
    depth = torch.minimum(floor, torch.full_like(floor, 4.0))
    depth[:8, :8] = 0
    generator = torch.Generator().manual_seed(3)
    image = (torch.rand(3, height, width, generator=generator) * 60 + 120 * (floor < 4)).to(torch.uint8)
    return RgbdFrame(name, image, depth, torch.zeros_like(depth, dtype=torch.bool), camera.intrinsics[0])


def write_posed(folder: Path, count: int) -> Path:
    """A posed folder of `count` frames."""
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    frames = []
    for i in range(count):
        frame = plane_frame(name=str(i))
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(folder / f"images/{i}.png")
        millimetres = (frame.depth.numpy() * 1000).round().astype(np.uint16)
        Image.fromarray(millimetres).save(folder / f"depth/{i}.png")
        k = frame.intrinsics.tolist()
        frames.append({"image": f"images/{i}.png", "depth": f"depth/{i}.png", "width": 96, "height": 64, "K": k})
        frames[-1]["w2c"] = torch.eye(4).tolist()
    (folder / "cameras.json").write_text(json.dumps({"convention": "w2c OpenCV", "frames": frames}))
    return folder


# --- the network


def test_network_size_is_within_the_budget():
    parameters = sum(p.numel() for p in DepthNetwork().parameters())
    assert 2 * parameters < 12e6  # float16 bytes


def test_network_refuses_sides_that_are_no_multiples_of_32():
    with pytest.raises(InputError, match="multiples of 32"):
        DepthNetwork(TINY)(torch.zeros(1, 3, 32, 40), torch.zeros(1, 2, 32, 40), torch.zeros(1, 32, 40))


def test_hinted_depth_scales_with_the_hint():
    torch.manual_seed(0)
    network = DepthNetwork(TINY)
    image, rays = torch.rand(1, 3, 64, 96), assumed_rays(96, 64)[None]
    hint = torch.rand(1, 64, 96) + 1
    hint[:, :, 40:] = 0
    with torch.no_grad():
        once, _ = network(image, rays, hint)
        tenfold, _ = network(image, rays, 10 * hint)
    assert torch.allclose(tenfold - once, torch.tensor(10.0).log().expand_as(once), atol=1e-4)
    known = hint > 0
    assert float((once[known] - hint[known].log()).mean()) == pytest.approx(0, abs=1e-4)


def test_depth_without_hint_has_mean_log_zero():
    torch.manual_seed(0)
    with torch.no_grad():
        log_depth, _ = DepthNetwork(TINY)(torch.rand(2, 3, 64, 96), torch.zeros(2, 2, 64, 96), torch.zeros(2, 64, 96))
    assert log_depth.mean(dim=(1, 2)).abs().max() < 1e-5
    assert log_depth.std() > 1e-3


@pytest.mark.parametrize("size", [(64, 96), (37, 51), (1, 5)])
def test_fill_keeps_what_is_known_and_stays_within_its_range(size):
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(2, *size, generator=generator)
    known = torch.rand(2, *size, generator=generator) < 0.3
    known[:, 0, 0] = True
    filled = fill_unknown(values, known)
    assert torch.allclose(filled[known], values[known], atol=1e-6)
    for one, mask, given in zip(filled, known, values, strict=True):
        assert one.min() >= given[mask].min() - 1e-5
        assert one.max() <= given[mask].max() + 1e-5
    constant = fill_unknown(torch.full_like(values, 0.7), known)
    assert torch.allclose(constant, torch.full_like(values, 0.7), atol=1e-6)
    assert fill_unknown(values, torch.zeros_like(known)).abs().max() == 0


# --- the data


def test_posed_folder_reads_millimetres_and_intrinsics(tmp_path):
    frames = read_rgbd_folder(write_posed(tmp_path / "walk", 2))
    truth = plane_frame()
    assert len(frames) == 2
    assert torch.allclose(frames[0].depth, truth.depth, atol=6e-4)
    assert torch.equal(frames[0].image, truth.image)
    assert torch.equal(frames[0].intrinsics, truth.intrinsics)


def test_nothing_and_a_full_step_count_are_unknown_depth(tmp_path):
    folder = write_posed(tmp_path / "walk", 1)
    steps = np.asarray(Image.open(folder / "depth/0.png")).copy()
    steps[:4], steps[4:8] = 0, 65535
    Image.fromarray(steps).save(folder / "depth/0.png")
    depth = read_rgbd_folder(folder)[0].depth
    assert (depth[:8] == 0).all()
    assert (depth[8:] > 0).all()


def test_reduced_frames_keep_the_field_of_view_and_never_mix_depths(tmp_path):
    full, small = (read_rgbd_folder(write_posed(tmp_path / str(s), 1), s)[0] for s in (96, 48))
    assert small.image.shape == (3, 32, 48)
    assert torch.allclose(small.intrinsics[:2] * 2, full.intrinsics[:2])
    assert set(small.depth.flatten().tolist()) <= set(full.depth.flatten().tolist())


def test_points_become_sparse_depth_and_hidden_points_do_not(tmp_path):
    write_posed(tmp_path, 1)
    listing = json.loads((tmp_path / "cameras.json").read_text())
    del listing["frames"][0]["depth"]
    (tmp_path / "cameras.json").write_text(json.dumps(listing))
    np.savez(tmp_path / "points.npz", xyz=np.array([[0, 0, 2], [0.02, 0, 5], [1, 0.5, 3], [0, 0, -1]], np.float32))
    depth = read_rgbd_folder(tmp_path)[0].depth
    assert sorted(depth[depth > 0].tolist()) == [2.0, 3.0]
    assert depth[32, 48] == 2.0


def test_eight_bit_depth_is_smoothed_within_its_rounding(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    exact = torch.linspace(2.0, 3.0, 64).expand(48, 64)
    step = 9.99547 / 255
    code = (exact / step - 0.5).round()
    Image.fromarray(code.to(torch.uint8).numpy()).save(tmp_path / "depth/7.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "rgb/7.jpg")
    k = Cameras.from_fov(60.0, 64, 48).intrinsics[0].tolist()
    (tmp_path / "meta.json").write_text(json.dumps({"width": 64, "height": 48, "K": k}))
    depth = read_rgbd_folder(tmp_path)[0].depth
    coarse = (code + 0.5) * step
    assert (depth - coarse).abs().max() <= step / 2 + 1e-5
    assert (depth - exact).abs().mean() < 0.8 * (coarse - exact).abs().mean()


@pytest.mark.parametrize("damage", ["nothing", "no_depth", "size", "camera", "picture"])
def test_bad_folders_are_refused(tmp_path, damage):
    if damage != "nothing":
        write_posed(tmp_path, 1)
    if damage == "no_depth":
        (tmp_path / "depth/0.png").unlink()
    if damage == "size":
        Image.fromarray(np.ones((9, 9), np.uint16)).save(tmp_path / "depth/0.png")
    if damage == "camera":
        (tmp_path / "cameras.json").write_text(json.dumps({"frames": [{"image": "images/0.png"}]}))
    if damage == "picture":
        (tmp_path / "images/0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=str(tmp_path.name)):
        read_rgbd_folder(tmp_path)


@pytest.mark.parametrize("matrix", [None, [[1, 0], [0, 1]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]], "K"])
def test_a_stated_camera_must_be_one(tmp_path, matrix):
    (tmp_path / "meta.json").write_text(json.dumps({"K": matrix} if matrix else {}))
    with pytest.raises(InputError, match=r"meta\.json: 'K' must be"):
        read_rgbd_folder(tmp_path)


def test_held_out_frames_are_apart_from_training():
    frames = [plane_frame(32, 32, str(i)) for i in range(40)]
    training, held_out = split_held_out(frames, ((0.25, 0.5), (0.9, 1.0)), margin=2)
    assert [f.name for f in held_out] == [str(i) for i in (*range(10, 20), *range(36, 40))]
    names = {int(f.name) for f in training}
    assert names == set(range(40)) - set(range(8, 22)) - set(range(34, 40))


# --- samples and losses


def test_samples_depend_on_the_generator_alone_and_rays_match_the_geometry():
    frames = [plane_frame()] * 3
    once, again = (draw_batch(frames, 64, 64, 0.5, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(once.image, again.image)
    assert torch.equal(once.hint, again.hint)
    floor_seen = 0
    for seed in range(20):
        batch = draw_batch(frames[:1], 96, 64, 0.0, np.random.default_rng(seed))
        rays, depth = batch.rays[0], batch.depth[0]
        if torch.equal(rays, assumed_rays(96, 64)):
            continue
        floor = (depth > 0) & (depth < 3.5)
        points = torch.stack([rays[0] * depth, rays[1] * depth, depth], dim=-1)[floor]
        if len(points) < 200:
            continue
        floor_seen += 1
        centred = points - points.mean(dim=0)
        flatness = torch.linalg.svdvals(centred)
        assert flatness[2] / flatness[0] < 0.02  # still a plane, whatever turn, zoom and mirror
    assert floor_seen > 3


def test_painted_skies_differ_and_leave_all_else_alone():
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    share = torch.zeros(48, 64)
    share[:20] = 1.0
    skies = []
    for seed in range(40):
        painted, again = (paint_sky(image, share, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(painted, again)
        assert torch.equal(painted[:, 20:], image[:, 20:])
        assert painted.min() >= 0
        assert painted.max() <= 1
        skies.append(painted[:, :20].reshape(3, -1))
    brightness = torch.stack([sky.mean() for sky in skies])
    blueness = torch.stack([(sky[2] - sky[0]).mean() for sky in skies])
    assert brightness.min() < 0.35
    assert brightness.max() > 0.85
    assert blueness.min() < -0.1
    assert blueness.max() > 0.2
    texture = torch.stack([sky.std(dim=1).max() for sky in skies])
    assert texture.min() < 0.06
    assert texture.max() > 0.15


def test_about_half_of_the_samples_with_a_sky_get_another_one():
    frame = plane_frame()
    dark = replace(frame, image=torch.full_like(frame.image, 25), depth=frame.depth * 0)
    seen = []
    for sky in (torch.ones_like(frame.sky), torch.zeros_like(frame.sky)):
        batch = draw_batch([replace(dark, sky=sky)] * 200, 32, 32, 0.0, np.random.default_rng(1))
        seen.append(float((batch.image.flatten(1).mean(dim=1) > 0.4).float().mean()))
    under_sky, on_ground = seen
    assert 0.25 < under_sky < 0.55
    assert on_ground < 0.05


def test_hints_are_parts_of_the_depth():
    depth = plane_frame().depth
    shares = []
    for seed in range(40):
        hint = draw_hint(depth, np.random.default_rng(seed))
        known = hint > 0
        assert not bool((known & (depth == 0)).any())
        if bool(known.any()):
            assert (hint[known] / depth[known]).log().abs().max() < 0.25
        shares.append(float(known.float().mean()))
    assert min(shares) < 0.02
    assert max(shares) > 0.5


def test_loss_is_zero_for_the_truth_and_ignores_scale_only_without_a_hint():
    frame = plane_frame()
    depth = frame.depth[None].repeat(2, 1, 1)
    log_depth = torch.where(depth > 0, depth, 1.0).log()
    logit = torch.full_like(depth, -20.0)
    sky = torch.zeros_like(depth, dtype=torch.bool)
    free, hinted = torch.tensor([False, False]), torch.tensor([True, True])
    assert float(depth_loss(log_depth, logit, depth, sky, hinted)["total"]) < 1e-5
    assert float(depth_loss(log_depth + 1, logit, depth, sky, free)["total"]) < 1e-5
    assert float(depth_loss(log_depth + 1, logit, depth, sky, hinted)["scale"]) == pytest.approx(1, abs=1e-4)
    bent = log_depth + 0.1 * torch.linspace(-1, 1, depth.shape[2])
    assert float(depth_loss(bent, logit, depth, sky, free)["gradient"]) > 1e-3
    assert float(depth_loss(log_depth, -logit, depth, sky, free)["sky"]) > 10


# --- training


def training_config(tmp_path: Path, steps: int, run: str) -> DepthTrainingConfig:
    folder = tmp_path / "walk"
    if not folder.is_dir():
        write_posed(folder, 3)
    return DepthTrainingConfig(
        run_folder=tmp_path / run,
        sources=(RgbdSource(folder),),
        procedural_share=0.0,
        steps=steps,
        decay_steps=0,
        warmup_steps=1,
        batch_pixels=25_000,
        growth=((0, 0.5),),
        learning_rate=2e-3,
        network=TINY,
    )


def test_resumed_training_gives_the_same_weights(tmp_path):
    seen = []
    whole = train_depth(training_config(tmp_path, 4, "whole"), seen.append)
    train_depth(training_config(tmp_path, 2, "parts"))
    parts = train_depth(training_config(tmp_path, 4, "parts"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert seen[-1].step == 4
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 4
    with pytest.raises(InputError, match="another network"):
        train_depth(
            DepthTrainingConfig(**{**vars(training_config(tmp_path, 4, "whole")), "network": DepthNetworkConfig()})
        )


def die_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is undone, a run ends as soon as its first checkpoint is written."""
    save = TrainingState.save

    def killed(state: TrainingState, path: Path) -> None:
        save(state, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", killed)


def test_a_run_killed_between_checkpoint_and_weights_still_gives_the_weights(tmp_path, monkeypatch):
    whole = train_depth(training_config(tmp_path, 2, "whole"))
    die_after_a_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_depth(training_config(tmp_path, 2, "killed"))
    assert not (tmp_path / "killed" / "weights").exists()
    monkeypatch.undo()
    weights = train_depth(training_config(tmp_path, 2, "killed"))
    for file in ("model.safetensors", "config.json"):
        assert (weights / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"hello world, this is no checkpoint",
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: bytes(len(whole)),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    config = training_config(tmp_path, 1, "run")
    train_depth(config)
    path = config.run_folder / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"checkpoint\.pt: is no checkpoint, or a damaged one \(\w+\); choose another"):
        train_depth(config)


@pytest.mark.parametrize("field", ["step", "network", "average", "optimizers"])
def test_a_checkpoint_without_a_field_is_one_sentence(tmp_path, field):
    config = training_config(tmp_path, 1, "run")
    train_depth(config)
    path = config.run_folder / "checkpoint.pt"
    values = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in values.items() if name != field}, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt: is no checkpoint, or a damaged one"):
        train_depth(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate is -1.0 but must be finite and at least 0"),
        ({"adam_learning_rate": float("nan")}, "adam_learning_rate is nan but must be finite and at least 0"),
        ({"seed": -1}, "seed is -1 but must be a whole number of at least 0"),
        ({"procedural_share": 0.5, "procedural_count": 0}, "procedural_count is 0 but must be a whole number"),
        ({"growth": ((0, float("nan")),)}, "growth must begin with step 0 and have finite factors"),
    ],
)
def test_numbers_that_no_run_can_have_are_named(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        replace(training_config(tmp_path, 1, "run"), **change)


def test_a_run_folder_belongs_to_one_run(tmp_path):
    """A second one would overwrite the first one's checkpoints; it is refused before it changes a file."""
    config = training_config(tmp_path, 1, "run")
    train_depth(config)
    before = {path: path.read_bytes() for path in config.run_folder.rglob("*") if path.is_file()}
    with locked(config.run_folder / "training.lock", wait=False), pytest.raises(InputError, match="another process"):
        train_depth(replace(config, steps=2))
    assert {path: path.read_bytes() for path in config.run_folder.rglob("*") if path.is_file()} == before
    assert train_depth(replace(config, steps=2)).is_dir()


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_training_lowers_the_loss(tmp_path, mixed_precision):
    config = replace(training_config(tmp_path, 30, "run"), mixed_precision=mixed_precision)
    train_depth(config)
    frame = plane_frame()
    losses = []
    torch.manual_seed(config.seed)
    for network in (DepthNetwork(TINY), load_depth_network(tmp_path / "run" / "weights")):
        batch = draw_batch([frame] * 8, 96, 64, 0.0, np.random.default_rng(99))
        with torch.no_grad():
            log_depth, sky = network(batch.image, batch.rays, batch.hint)
            free = torch.zeros(8, dtype=torch.bool)
            losses.append(float(depth_loss(log_depth, sky, batch.depth, batch.sky, free)["total"]))
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "change",
    [
        {"procedural_share": 1.5},
        {"sources": ()},
        {"steps": 0},
        {"decay_steps": 9},
        {"growth": ((1, 0.5),)},
        {"mixed_precision": "fp8"},
    ],
)
def test_bad_training_settings_are_refused(tmp_path, change):
    with pytest.raises(InputError):
        replace(training_config(tmp_path, 4, "run"), **change)


def test_recipe_is_read_and_mistakes_are_named(tmp_path):
    import worldstereo

    recipe = Path(worldstereo.__file__).parent / "weights" / "nano-depth" / "training.json"
    config = read_training_config(recipe, tmp_path / "run", tmp_path)
    assert config.sources[0].folder == tmp_path / "nyuv2_train"
    assert config.sources[0].held_out
    forbidden = ("middlebury", "strecha", "re10k", "photos", "panoramas", "official")
    assert not any(name in str(source.folder.name) for source in config.sources for name in forbidden)
    for values, message in (({"stepps": 3}, "stepps"), ({"steps": "many"}, "wrong kind"), ([], "JSON object")):
        (tmp_path / "bad.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=message):
            read_training_config(tmp_path / "bad.json", tmp_path / "run")


def test_directions_made_orthogonal_in_bfloat16_are_nearly_the_same():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    exact, coarse = orthogonalized(matrices), orthogonalized(matrices.bfloat16()).float()
    assert (coarse - exact).norm() < 0.06 * exact.norm()


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_muon_updates_are_orthogonal_and_descend(compute_dtype):
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix[None])[0])
    assert values.min() > 0.6
    assert values.max() < 1.3
    several = torch.stack([matrix, 3 * matrix.flip(0)])
    assert torch.allclose(orthogonalized(several.mT), orthogonalized(several).mT, atol=1e-5)
    assert torch.allclose(orthogonalized(several)[:1], orthogonalized(matrix[None]), atol=1e-5)
    weight = torch.nn.Parameter(torch.zeros(4, 2, 3, 3))
    target = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    optimizer = Muon([weight], lr=0.05, compute_dtype=compute_dtype)
    for _ in range(200):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).square().mean() < 0.02 * target.square().mean()


# --- inference


@pytest.fixture(scope="module")
def estimator() -> NanoDepth:
    """The shipped network; PyTorch settles its number of threads, on which rounding depends, in the first call."""
    loaded = NanoDepth.load()
    loaded.estimate(torch.zeros(3, 64, 64))
    return loaded


def test_shipped_weights_are_small_and_load(estimator):
    import worldstereo

    path = Path(worldstereo.__file__).parent / "weights" / "nano-depth" / "model.safetensors"
    assert path.stat().st_size < 12e6
    assert estimator.name == "nano"


@pytest.mark.parametrize("size", [(64, 64), (45, 200), (300, 90), (192, 320)])
def test_any_size_gives_a_valid_prediction(estimator, size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    prediction = estimator.estimate(image)
    assert isinstance(prediction, DepthPrediction)
    assert prediction.depth.shape == size
    assert not prediction.metric
    again = estimator.estimate(image)
    assert torch.equal(prediction.depth, again.depth)


def test_hint_sets_the_scale_and_is_kept(estimator):
    frame = plane_frame(160, 96)
    image = frame.image.float() / 255
    hint = torch.where(torch.arange(160) < 60, frame.depth, 0.0) * 7
    prediction = estimator.estimate(image, frame.intrinsics, hint)
    assert not prediction.metric  # the scale is the hint's, whatever that is
    known = hint > 0
    assert torch.allclose(prediction.depth[known], hint[known], rtol=1e-3)
    rest = (frame.depth > 0) & ~known
    ratio = prediction.depth[rest] / (7 * frame.depth[rest])
    assert 0.6 < float(ratio.median()) < 1.6


def test_working_size_is_near_the_wish():
    for height, width in [(192, 320), (1024, 683), (500, 741), (100, 1000), (5, 5)]:
        rows, columns = working_size(height, width, 320 * 192)
        assert rows % 32 == 0
        assert columns % 32 == 0
        assert 0.5 < rows * columns / (320 * 192) < 2.01


def test_sparse_hints_survive_reduction():
    hint = torch.zeros(400, 600)
    hint[13, 57], hint[399, 599], hint[200, 300] = 3.0, 5.0, 2.0
    small = reduce_hint(hint, 32, 64)
    assert sorted(small[small > 0].tolist()) == [2.0, 3.0, 5.0]


def test_enlarged_planes_stay_planes():
    camera = Cameras.from_fov(70.0, 64, 32)
    rays = camera.pixel_rays()[0]
    normal = torch.tensor([0.3, 0.5, 0.4])
    small = -(rays @ normal).clamp(min=1e-3).log()
    large_rays = camera.resized(256, 128).pixel_rays()[0]
    truth = -(large_rays @ normal).clamp(min=1e-3).log()
    grey = torch.full((3, 128, 256), 0.5)
    enlarged, logit = upsample_answers(small, 0 * small + 3, grey, grey[:, ::4, ::4])
    torch.testing.assert_close(logit, torch.full((128, 256), 3.0))
    inside = truth < 1.5
    assert (enlarged - truth)[inside].abs().max() < 2e-3


def test_enlarged_edges_are_sharp_and_follow_the_picture():
    picture = torch.full((3, 128, 256), 0.1)
    edge = 101  # inside a small pixel: 4 full ones wide
    picture[:, :, edge:] = 0.9
    small_picture = torch.nn.functional.interpolate(picture[None], size=(32, 64), mode="area")[0]
    small = torch.where(torch.arange(64) < 25, 0.0, 1.2).expand(32, 64).contiguous()
    enlarged, logit = upsample_answers(small, 5 * small - 3, picture, small_picture)
    floating = ((enlarged > 0.1) & (enlarged < 1.1)).float().mean()
    assert floating == 0
    truth = torch.where(torch.arange(256) < edge, 0.0, 1.2).expand(128, 256)
    assert ((enlarged - truth).abs() > 0.1).float().mean() < 0.01
    assert ((logit > 0) != (truth > 0.6)).float().mean() < 0.01


def test_broken_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_depth_network(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"network": TINY.to_dict()}))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="no weights of the nano depth network"):
        load_depth_network(tmp_path)


# --- measurement


def test_metrics_in_closed_form():
    truth = torch.tensor([1.0, 2.0, 4.0, 5.0])
    errors = depth_errors(truth * torch.tensor([1.0, 1.1, 1.3, 0.7]), truth)
    assert errors.abs_rel == pytest.approx(0.7 / 4, abs=1e-6)
    assert errors.delta_1 == 0.5
    assert torch.allclose(align_scale(truth * 3, truth), truth)
    assert torch.allclose(align_scale_and_shift(2.5 / truth + 0.3, truth), truth, rtol=1e-4)


def test_scale_and_shift_are_found_in_any_unit():
    truth = torch.linspace(1, 9, 101, dtype=torch.float64)
    for unit, shift in ((1.0, 0.0), (1e-6, 0.0), (1e4, 0.0), (1.0, 20.0)):
        aligned = align_scale_and_shift((unit / truth + shift), truth)
        assert torch.allclose(aligned.double(), truth, rtol=1e-5)
    level = align_scale_and_shift(torch.full_like(truth, 3.0), truth)
    assert torch.allclose(level.double(), 1 / (1 / truth).mean())


def test_the_median_ratio_of_an_even_number_is_between_the_middle_two():
    depth = torch.tensor([1.0, 1.0, 1.0, 1.0])
    assert median_ratio(depth, torch.tensor([1.0, 4.0, 2.0, 9.0])) == pytest.approx(3.0)
    assert median_ratio(depth[:3], torch.tensor([1.0, 4.0, 2.0])) == pytest.approx(2.0)


def test_plane_rival_is_exact_on_a_plane():
    camera = Cameras.from_fov(60.0, 40, 30)
    rays = camera.pixel_rays()[0]
    truth = 2 / (rays @ torch.tensor([0.2, 0.4, 1.0]))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 30), torch.linspace(-1, 1, 40), indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y], dim=-1).view(-1, 3)
    assert torch.allclose(fit_disparity(basis, basis, truth.flatten()), truth.flatten(), rtol=1e-3)


def test_normal_error_is_the_angle_between_planes():
    camera = Cameras.from_fov(60.0, 64, 48)
    rays = camera.pixel_rays()[0]
    known = torch.ones(48, 64, dtype=torch.bool)
    facing = torch.full((48, 64), 2.0)
    angle = torch.deg2rad(torch.tensor(20.0))
    turned = 2 / (rays[..., 0] * angle.sin() + angle.cos())
    assert normal_error_degrees(5 * turned, facing, rays, known) == pytest.approx(20, abs=0.1)
    assert normal_error_degrees(3 * facing, facing, rays, known) < 0.05


class Oracle:
    """Knows the scene of `plane_frame`, up to scale and shift of disparity."""

    name = "oracle"

    def estimate(self, image, intrinsics=None, hint=None):
        truth = plane_frame().depth
        depth = truth if hint is not None else torch.where(truth > 0, 1 / (3 / truth.clamp(min=1e-3) + 0.2), 0.0)
        return DepthPrediction(depth, torch.zeros_like(depth, dtype=torch.bool), intrinsics, False, "oracle")


def test_evaluation_tells_the_truth_from_the_rivals(tmp_path):
    source = RgbdSource(write_posed(tmp_path / "walk", 2))
    config = DepthEvaluationConfig((source,), procedural_count=0, hints=(0.0, 0.3))
    result = evaluate_depth(config, Oracle())
    figures = {(row.method, row.hint): row for row in result.rows}
    assert figures["oracle", 0.0].abs_rel < 1e-3
    assert figures["oracle", 0.3].abs_rel < 1e-3
    for rival in ("constant", "plane"):
        assert figures[rival, 0.0].abs_rel > 0.05
        assert figures[rival, 0.3].abs_rel > 0.05
    assert figures["plane", 0.0].abs_rel < figures["constant", 0.0].abs_rel
    assert result.table().count("\n") == len(result.rows) + 1
    assert json.dumps(result.to_json())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real frames are not beside the repository")
@pytest.mark.parametrize("capture", ["pi3_room8", "open3d_rgbd5"])
def test_shipped_weights_beat_the_rivals_on_unseen_real_frames(estimator, capture):
    config = DepthEvaluationConfig((RgbdSource(SHARED / capture),), procedural_count=0, hints=(0.0, 0.05))
    figures = {(row.method, row.hint): row for row in evaluate_depth(config, estimator).rows}
    for hint in (0.0, 0.05):
        for rival in ("constant", "plane"):
            assert figures["nano", hint].abs_rel < 0.92 * figures[rival, hint].abs_rel
