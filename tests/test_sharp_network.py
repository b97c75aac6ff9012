"""The generator that shows a small network's content at the user's size, and the shipped model by its name."""

import inspect
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from test_world import FlatDepth, frame_hashes
from tiny_networks import FRAMES, HEIGHT, WIDTH, write_paper_model
from worldstereo.cli import main
from worldstereo.cli.generate import generate
from worldstereo.cli.preview import preview
from worldstereo.errors import InputError
from worldstereo.evaluation.rungs import without_references
from worldstereo.images import load_png, save_png
from worldstereo.memory.spatial_stereo import SpatialStereoMemory
from worldstereo.models.hub import DEFAULT_MODEL, SHIPPED_MODELS, ModelSource
from worldstereo.pipelines.clip_inputs import shrink_conditions
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions
from worldstereo.pipelines.sharp_network import SharpGenerator
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import Settings, WorldPipeline, create_generator
from worldstereo.pipelines.world_folder import World
from worldstereo.training.nano_chain import UNDISTILLED

SHORT_SIDE = 128
SETTINGS = Settings(trajectories=("orbit-right:12", "orbit-right:20"))
SIZES = [[HEIGHT, WIDTH], [WIDTH, HEIGHT], [80, 80]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    values = {"latent_cond_mode": "filled_render", "scale_map": SIZES, "negative_prompt": "ugly"}
    return write_paper_model(folder, output_short_side=SHORT_SIDE, **values)


@pytest.fixture
def generator(model: Path) -> SharpGenerator:
    made = create_generator(str(model))
    assert isinstance(made, SharpGenerator)
    assert isinstance(made, VideoGenerator)
    return made


@pytest.fixture(scope="module")
def world(model: Path, room_photo: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    pipeline = WorldPipeline(create_generator(str(model)), FlatDepth())
    return pipeline(room_photo, tmp_path_factory.mktemp("world") / "w", SETTINGS)


def pictures(folder: Path) -> torch.Tensor:
    return torch.stack([load_png(path) for path in sorted(folder.glob("*.png"))])


def test_the_loop_makes_clips_that_are_the_guidance_where_it_knows(world, room_photo, tmp_path):
    assert world.is_done
    for clip in world.clips:
        assert clip.frames.shape == (FRAMES, 3, SHORT_SIDE, 192)
        assert torch.equal(clip.frames[0], world.picture)
        guidance, holes = pictures(clip.folder / "guidance/rgb"), pictures(clip.folder / "guidance/hole_mask") > 0.5
        assert 0.01 < holes[1:].float().mean() < 0.9
        difference = (clip.frames - guidance)[1:][~holes[1:]].abs()
        assert difference.max() < 1.01 / 255  # one rounds halves up, the other to even
        assert difference.mean() < 1e-4
    warp = WorldPipeline(WarpGenerator(), FlatDepth())
    settings = replace(SETTINGS, frames=FRAMES, short_side=SHORT_SIDE)
    baseline = warp(room_photo, tmp_path / "warp", settings).clips[0]
    ours, holes = world.clips[0], pictures(world.clips[0].folder / "guidance/hole_mask") > 0.5
    assert torch.equal(baseline.cameras.intrinsics, ours.cameras.intrinsics)  # framed alike
    assert (baseline.frames - ours.frames)[1:][holes[1:]].abs().mean() > 0.01
    references = json.loads((world.clips[1].folder / "references.json").read_text())["references"]
    assert any(name.startswith("000-") for name in references)


def test_a_stopped_run_goes_on_to_the_same_world(world, model, room_photo, tmp_path):
    def stop(what: str, share: float) -> None:
        if what.startswith("clip 2") and share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorldPipeline(create_generator(str(model)), FlatDepth())(room_photo, tmp_path / "w", SETTINGS, stop)
    resumed = WorldPipeline(create_generator(str(model)), FlatDepth())(room_photo, tmp_path / "w", SETTINGS)
    assert frame_hashes(world.folder) == frame_hashes(resumed.folder)


@pytest.mark.parametrize(
    ("picture", "size", "network"),
    [
        ((1600, 900), (224, 128), (WIDTH, HEIGHT)),
        ((300, 200), (192, 128), (WIDTH, HEIGHT)),
        ((200, 300), (128, 192), (HEIGHT, WIDTH)),
        ((500, 500), (128, 128), (80, 80)),
        ((440, 400), (144, 128), (80, 80)),
        ((6000, 700), (240, 128), (WIDTH, HEIGHT)),
    ],
)
def test_clips_have_the_pictures_shape_and_the_network_the_nearest_of_its_own(generator, picture, size, network):
    assert generator.clip_size(*picture, None) == size == WarpGenerator().clip_size(*picture, SHORT_SIDE)
    assert generator.network_size(*size) == network
    assert min(generator.clip_size(*picture, 96)) == 96


def test_a_very_long_photo_is_flown_through_too(generator, tmp_path):
    gradient = torch.linspace(0.1, 0.9, 640).expand(3, 80, 640)
    save_png(tmp_path / "long.png", gradient)
    one = replace(SETTINGS, trajectories=("pan-left:8",), short_side=64)
    world = WorldPipeline(generator, FlatDepth())(tmp_path / "long.png", tmp_path / "w", one)
    assert world.clips[0].frames.shape == (FRAMES, 3, 64, 128)


def conditions_of(world: World, generator: SharpGenerator) -> ClipConditions:
    """As of the second clip, with the first picture as its only reference."""
    clip, memory = world.clips[1], world.memory
    bank = SpatialStereoMemory(*world.initial_bank())
    references = bank.retrieve(clip.cameras, memory.cloud).with_depth(FlatDepth())
    guidance = generator.render_guidance(memory, clip.cameras)
    return ClipConditions(clip.cameras, world.picture, guidance, references, seed=0)


def test_the_network_is_shown_everything_at_its_size_with_true_cameras(world, generator):
    given = conditions_of(world, generator)
    small = shrink_conditions(given, 96, 80)  # stretched
    assert small.image.shape == (3, 80, 96)
    assert small.guidance.rgb.shape == (FRAMES, 3, 80, 96)
    assert small.references.frames.shape[2:] == (80, 96)
    assert small.references.for_target is given.references.for_target
    points = world.point_cloud.points[::50]
    for large_cameras, small_cameras in (
        (given.cameras, small.cameras),
        (given.references.cameras, small.references.cameras),
    ):
        large, reduced = large_cameras.project(points)[0], small_cameras.project(points)[0]
        scale = torch.tensor([96 / large_cameras.width, 80 / large_cameras.height])
        torch.testing.assert_close(large * scale, reduced, rtol=1e-4, atol=1e-2)
    assert given.references.depth is not None
    assert set(small.references.depth.unique().tolist()) <= set(given.references.depth.unique().tolist())
    none = without_references(given.references).resized(96, 80)
    assert none.frames.shape == (0, 3, 80, 96)
    assert none.depth.shape == (0, 80, 96)


def test_what_the_network_makes_shows_in_holes_alone(world, generator):
    given = conditions_of(world, generator)
    steps = []
    frames = generator.generate(given, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert torch.equal(frames[0], given.image)
    assert torch.equal(frames, generator.generate(given, lambda done, total: None))
    other = generator.generate(replace(given, seed=1), lambda done, total: None)
    changed = (other != frames).any(dim=1)
    assert changed[1:].any()
    assert not (changed & ~given.guidance.hole_mask)[1:].any()


@pytest.mark.parametrize("value", [100, 48, "480", 480.0, True])
def test_an_output_size_that_is_none_is_named(model, tmp_path, value):
    shutil.copytree(model, tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"output_short_side": value}))
    with pytest.raises(InputError, match=r"config\.json: the field 'output_short_side' is"):
        create_generator(str(tmp_path / "m"))


# The shipped model by its name


@pytest.fixture
def nano(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of the shipped one: distilled, with its teacher beside it."""
    folder = shutil.copytree(model, tmp_path / "weights" / "nano")
    teacher = json.loads((model / "config.json").read_text())
    shutil.copytree(folder / "backbone", folder / UNDISTILLED / "backbone")
    (folder / UNDISTILLED / "config.json").write_text(json.dumps(teacher | {"shares_parts": True}))
    student = {"dmd_start_steps": 250, "dmd_end_steps": 1000, "dmd_steps": 2, "gen_shift": 5.0}
    (folder / "config.json").write_text(json.dumps(teacher | student))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    monkeypatch.setitem(SHIPPED_MODELS, "nano", folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["worldstereo", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_nano_by_name_makes_extends_and_previews_worlds(nano, room_photo, tmp_path, monkeypatch, capsys):
    out, same = tmp_path / "w", ("--model", "nano", "--short-side", 64)
    assert run(monkeypatch, "generate", room_photo, "--out", out, *same, "-t", "orbit-right:6", "--quiet") == 0
    assert "nano: licence apache-2.0" in capsys.readouterr().out
    request = World(out).manifest.request
    assert (request.model, request.frames, request.size) == ("nano", FRAMES, (96, 64))
    assert run(monkeypatch, "extend", out, "-t", "pan-left:4", "--quiet") == 0
    assert [clip.frames.shape for clip in World(out).clips] == [(FRAMES, 3, 64, 96)] * 2
    assert run(monkeypatch, "preview", room_photo, "--out", tmp_path / "p.html", *same, "-t", "orbit-right:6") == 0
    assert (tmp_path / "p.html").exists()
    assert run(monkeypatch, "generate", room_photo, "--out", tmp_path / "x", "--model", "nano", "--frames", 21) == 2
    assert f"--frames 21: nano makes {FRAMES}" in capsys.readouterr().err


def test_a_shipped_name_goes_before_a_folder_of_the_name(nano, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nano").mkdir()
    assert ModelSource.parse("nano") == ModelSource(nano)
    assert ModelSource.parse(f"nano:{UNDISTILLED}") == ModelSource(nano, UNDISTILLED)
    assert ModelSource.parse("./nano") == ModelSource(Path("nano"))
    teacher = create_generator(f"nano:{UNDISTILLED}", GeneratorOptions(steps=3))
    assert isinstance(teacher, SharpGenerator)
    assert (teacher.name, teacher.frames) == (f"nano:{UNDISTILLED}", FRAMES)
    with pytest.raises(InputError, match=r"has no subfolder 'teacher'; choose one of: .*undistilled"):
        create_generator("nano:teacher")


def test_without_its_weights_nano_is_refused_in_one_sentence(room_photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SHIPPED_MODELS, "nano", tmp_path / "nothing")
    for name in ("nano", f"nano:{UNDISTILLED}"):
        assert run(monkeypatch, "generate", room_photo, "--out", tmp_path / "w", "--model", name) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"worldstereo: model {name}: its weights are not part of this installation")
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "w").exists()
    assert run(monkeypatch, "info") == 0
    assert "its weights are not in this" in capsys.readouterr().out


def test_there_is_one_default_for_every_verb():
    for verb in (generate, preview, WorldPipeline.from_pretrained):
        assert inspect.signature(verb).parameters["model"].default == DEFAULT_MODEL


def test_the_shipped_weights_are_small_and_load():
    files = list(SHIPPED_MODELS["nano"].rglob("*.safetensors"))
    assert max(path.stat().st_size for path in files) <= 16e6
    assert sum(path.stat().st_size for path in files) < 40e6
    assert not any("_name_or_path" in path.read_text() for path in SHIPPED_MODELS["nano"].rglob("config.json"))
    student, teacher = create_generator("nano"), create_generator(f"nano:{UNDISTILLED}")
    assert student.frames == teacher.frames == 13
    assert student.licence == "nano: licence apache-2.0"
    assert student.clip_size(640, 427, None) == (720, 480)
