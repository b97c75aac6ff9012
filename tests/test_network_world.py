"""The whole loop with tiny random networks of both layouts: photo -> guidance -> retrieval -> network -> memories."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import run_command
from test_world import FlatDepth, frame_hashes
from tiny_networks import FRAMES, HEIGHT, WIDTH, write_paper_model
from worldstereo.errors import InputError
from worldstereo.images import load_picture
from worldstereo.models.text_encoder import save_prompt_embeddings
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, PUBLISHED_CAMERAS, camera_inputs, memory_inputs
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions
from worldstereo.pipelines.world import Settings, WorldPipeline, create_generator
from worldstereo.pipelines.world_folder import World

HUB = Path(__file__).parent / "data" / "parity" / "hub"
SETTINGS = Settings(trajectories=("orbit-right:8", "orbit-right:16"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = {name: f"{HUB}:{name}" for name in ("worldstereo-camera", "worldstereo-memory-dmd")}
    return names | {"paper": str(write_paper_model(tmp_path_factory.mktemp("model")))}


KINDS = ["worldstereo-camera", "worldstereo-memory-dmd", "paper"]


def pipeline_of(model: str, **options) -> WorldPipeline:
    if "camera" in model:
        options.setdefault("steps", 2)
    return WorldPipeline(create_generator(model, GeneratorOptions(**options)), FlatDepth())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_makes_a_world(models, kind, room_photo, tmp_path):
    pipeline = pipeline_of(models[kind])
    assert isinstance(pipeline.generator, VideoGenerator)
    world = pipeline(room_photo, tmp_path / "w", SETTINGS)
    assert world.is_done
    before = len(world.initial_bank()[0])
    for clip in world.clips:
        assert clip.frames.shape == (FRAMES, 3, HEIGHT, WIDTH)
        assert torch.equal(clip.frames[0], world.picture)
        assert clip.frames.std() > 0.01
    assert before == 1
    references = json.loads((world.clips[1].folder / "references.json").read_text())
    assert any(name.startswith("000-orbit-right-8/") for name in references["references"])
    again = pipeline_of(models[kind])(room_photo, tmp_path / "again", SETTINGS)
    assert frame_hashes(world.folder) == frame_hashes(again.folder)
    other = pipeline_of(models[kind])(room_photo, tmp_path / "other", replace(SETTINGS, seed=1))
    assert not torch.equal(world.clips[0].frames, other.clips[0].frames)


@pytest.mark.parametrize("kind", ["worldstereo-memory-dmd", "paper"])
def test_a_stopped_run_goes_on_to_the_same_world(models, kind, room_photo, tmp_path):
    whole = pipeline_of(models[kind])(room_photo, tmp_path / "whole", SETTINGS)
    pipeline = pipeline_of(models[kind])

    def stop(what: str, share: float) -> None:
        if what.startswith("clip 2") and share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(room_photo, tmp_path / "stopped", SETTINGS, stop)
    stopped = World(tmp_path / "stopped")
    assert [clip.is_done for clip in stopped.clips] == [True, False]
    resumed = pipeline_of(models[kind])(room_photo, tmp_path / "stopped", SETTINGS)
    assert frame_hashes(whole.folder) == frame_hashes(resumed.folder)


@pytest.fixture(scope="module")
def conditions(models, room_photo, tmp_path_factory) -> dict[str, ClipConditions]:
    """What each generator was given for the second clip."""
    given: dict[str, ClipConditions] = {}
    for kind in ("worldstereo-memory-dmd", "paper"):
        pipeline = pipeline_of(models[kind])
        generate = pipeline.generator.generate

        def watched(conditions, on_progress, kind=kind, generate=generate):
            given[kind] = conditions
            return generate(conditions, on_progress)

        pipeline.generator.generate = watched
        pipeline(room_photo, tmp_path_factory.mktemp("w") / "w", SETTINGS)
    return given


@pytest.mark.parametrize("kind", ["worldstereo-memory-dmd", "paper"])
def test_guidance_and_references_change_the_clip(models, conditions, kind):
    generator, given = pipeline_of(models[kind]).generator, conditions[kind]

    def frames(conditions: ClipConditions) -> torch.Tensor:
        return generator.generate(conditions, lambda done, total: None)

    usual = frames(given)
    assert torch.equal(usual, frames(given))
    darker = replace(given, guidance=replace(given.guidance, rgb=given.guidance.rgb * 0.5))
    holes = replace(given, guidance=replace(given.guidance, hole_mask=~given.guidance.hole_mask))
    flipped = replace(given, references=replace(given.references, frames=given.references.frames.flip(-1)))
    none = replace(given, references=replace(given.references, for_target=torch.full((FRAMES,), -1)))
    seed = replace(given, seed=given.seed + 1)
    for name, changed in {"render": darker, "mask": holes, "frames": flipped, "none": none, "seed": seed}.items():
        assert (frames(changed) - usual)[1:].abs().max() > 1e-4, name


def test_references_come_with_the_target_that_asked_first(conditions):
    given = conditions["worldstereo-memory-dmd"]
    count = 3
    references = replace(
        given.references,
        frames=torch.rand(count, 3, HEIGHT, WIDTH),
        cameras=given.cameras[:count],
        for_target=torch.tensor([2, 0, 2, 0, -1]),
    )
    inputs = memory_inputs(replace(given, references=references), PUBLISHED_CAMERAS)
    assert inputs.reference_index.tolist() == [0, 1]  # frame 0 asks for nothing
    assert torch.equal(inputs.references, references.frames[[0, 2]])
    nobody = replace(references, for_target=torch.tensor([1, -1, -1, -1, -1]))
    alone = memory_inputs(replace(given, references=nobody), PUBLISHED_CAMERAS)
    assert alone.reference_index.tolist() == [0]
    assert torch.equal(alone.references[0], given.image)
    torch.testing.assert_close(alone.reference_poses, alone.target_poses[:1])


def test_the_published_ray_grid_is_a_named_quirk(conditions):
    given = conditions["worldstereo-memory-dmd"]
    published = camera_inputs(given, PUBLISHED_CAMERAS)
    centred = camera_inputs(given, replace(PUBLISHED_CAMERAS, ray_grid="centred"))
    assert not torch.allclose(published.rays, centred.rays)
    torch.testing.assert_close(published.rays[:, :3, :, 1:].mean(), centred.rays[:, :3, :, :-1].mean())
    assert torch.equal(published.render[0], given.image)
    assert not published.hole_mask[0].any()
    assert (published.render.permute(0, 2, 3, 1)[published.hole_mask] == 0.5).all()
    own = camera_inputs(given, OWN_CAMERAS)
    assert own.rays[:, :3].norm(dim=1) == pytest.approx(1.0, abs=1e-5)


# Sizes, options and refusals


def test_the_photo_is_cropped_to_the_models_shape_or_squeezed(models, room_photo):
    pipeline = pipeline_of(models["paper"])
    picture = load_picture(room_photo)
    wide = replace(picture, rgb=picture.rgb[:, 40:152])  # 288×112
    cropped, _ = pipeline.start(wide, SETTINGS)
    squeezed, _ = pipeline.start(wide, replace(SETTINGS, squeeze=True))
    for begun in (cropped, squeezed):
        assert (begun.camera.width, begun.camera.height) == (WIDTH, HEIGHT)
    square, stretched = cropped.camera.intrinsics[0], squeezed.camera.intrinsics[0]
    assert float(square[0, 0]) == pytest.approx(float(square[1, 1]), rel=1e-3)
    assert float(stretched[0, 0] / stretched[1, 1]) == pytest.approx((WIDTH / HEIGHT) / (288 / 112), rel=1e-3)
    upright = replace(picture, rgb=picture.rgb.transpose(1, 2))
    begun, _ = pipeline.start(upright, SETTINGS)
    assert (begun.camera.width, begun.camera.height) == (HEIGHT, WIDTH)


def test_wishes_that_cannot_be_met_are_named(models, room_photo, tmp_path):
    pipeline = pipeline_of(models["paper"])
    for change, match in (
        ({"frames": 21}, f"--frames 21: .* makes {FRAMES}"),
        ({"short_side": 480}, f"--short-side 480: .* makes clips of {WIDTH}×{HEIGHT}"),
    ):
        with pytest.raises(InputError, match=match):
            pipeline(room_photo, tmp_path / "w", replace(SETTINGS, **change))
    assert not (tmp_path / "w").exists()
    with pytest.raises(InputError, match="--model warp: has no network"):
        create_generator("warp", GeneratorOptions(steps=3))
    with pytest.raises(InputError, match="--prompt 'a cat': this model has no text encoder and knows only"):
        pipeline_of(models["paper"], prompt="a cat")(room_photo, tmp_path / "w", SETTINGS)


def test_another_option_is_another_world(models, room_photo, tmp_path):
    pipeline_of(models["paper"])(room_photo, tmp_path / "w", replace(SETTINGS, trajectories=("pan-left:5",)))
    with pytest.raises(InputError, match="another options"):
        pipeline_of(models["paper"], steps=3)(room_photo, tmp_path / "w", SETTINGS)


def test_other_prompt_embeddings_of_the_same_name_are_another_world(models, room_photo, tmp_path):
    path, settings = tmp_path / "prompt.safetensors", replace(SETTINGS, trajectories=("pan-left:5",))
    save_prompt_embeddings(path, torch.zeros(2, 4, 16), ["", ""])
    pipeline_of(models["paper"], prompt_embeddings=str(path))(room_photo, tmp_path / "w", settings)
    save_prompt_embeddings(path, torch.ones(2, 4, 16), ["", ""])
    with pytest.raises(InputError, match=r"other contents of .*prompt\.safetensors"):
        pipeline_of(models["paper"], prompt_embeddings=str(path))(room_photo, tmp_path / "w", settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("negative_prompt", None),
        ("num_inference_steps", 0),
        ("num_inference_steps", "many"),
        ("scheduler", "unipc"),
        ("scheduler", {}),
        ("latent_cond_mode", "full_vae"),
        ("scale_map", [[HEIGHT + 8, WIDTH]]),
    ],
)
def test_a_field_that_no_clip_can_be_made_with_is_named_before_any_is(tmp_path, field, value):
    folder = write_paper_model(tmp_path / "m", **{field: value})
    with pytest.raises(InputError, match=rf"config\.json: the field '{field}' "):
        create_generator(str(folder))


def test_prompt_embeddings_of_another_width_are_named(models, tmp_path):
    path = tmp_path / "prompt.safetensors"
    save_prompt_embeddings(path, torch.zeros(2, 4, 24), ["", ""])
    with pytest.raises(InputError, match=r"prompt\.safetensors: .* width of 24 but this model's text tokens have 16"):
        create_generator(models["paper"], GeneratorOptions(prompt_embeddings=str(path)))


def test_condition_latents_can_be_those_of_the_filled_render(models, room_photo, tmp_path):
    settings = replace(SETTINGS, trajectories=("orbit-right:8",))
    folder = write_paper_model(tmp_path / "m", latent_cond_mode="filled_render")
    filled = pipeline_of(str(folder))(room_photo, tmp_path / "w", settings)
    grey = pipeline_of(models["paper"])(room_photo, tmp_path / "grey", settings)
    assert not torch.equal(filled.clips[0].frames, grey.clips[0].frames)


def test_a_distilled_paper_model_and_its_missing_parts(models, room_photo, tmp_path):
    dmd = {"dmd_start_steps": 250, "dmd_end_steps": 1000, "dmd_steps": 2, "gen_shift": 5.0}
    folder = write_paper_model(tmp_path / "m", **dmd)
    world = pipeline_of(str(folder))(room_photo, tmp_path / "w", replace(SETTINGS, trajectories=("pan-left:5",)))
    assert world.is_done
    shutil.rmtree(folder / "stereo")
    assert pipeline_of(str(folder)).generator.frames == FRAMES
    shutil.rmtree(folder / "autoencoder")
    with pytest.raises(InputError, match="neither the folder autoencoder/ nor a base_model"):
        create_generator(str(folder))


@pytest.mark.parametrize("extra", [[], ["--offload", "group"]])
def test_the_real_command(models, room_photo, tmp_path, extra):
    out = tmp_path / "w"
    arguments = ["generate", room_photo, "--out", out, "--model", models["paper"], "-t", "orbit-right:8", "--quiet"]
    done = run_command(*arguments, *extra)
    assert done.returncode == 0, done.stderr
    assert World(out).is_done
    assert done.stdout.count("licence") == 1
    if not extra:
        extended = run_command("extend", out, "-t", "pan-left:5", "--quiet")
        assert extended.returncode == 0, extended.stderr
        assert len(World(out).clips) == 2
        assert "Traceback" not in extended.stderr


def test_an_unknown_model_is_one_sentence(room_photo, tmp_path):
    failed = run_command("generate", room_photo, "--out", tmp_path / "w", "--model", "nowhere", "--quiet")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "nowhere" in failed.stderr
    offline = ["--model", "nobody/nothing:at-all", "--offline", "--quiet"]
    failed = run_command("generate", room_photo, "--out", tmp_path / "w", *offline)
    assert failed.returncode == 2
    assert "nobody/nothing:at-all" in failed.stderr
    assert not (tmp_path / "w").exists()


def test_the_background_of_renders_is_a_named_switch(models, conditions):
    given = conditions["paper"]
    grey, filled = (pipeline_of(models["paper"], render_background=b).generator for b in ("grey", "filled"))
    assert (grey._inputs(given).render.permute(0, 2, 3, 1)[grey._inputs(given).hole_mask] == 0.5).all()
    assert torch.equal(filled._inputs(given).render, given.filled_render())
    assert torch.equal(filled._inputs(given).hole_mask, grey._inputs(given).hole_mask)
