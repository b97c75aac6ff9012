"""Facts about the video model's training clips: what they are made of, how they are kept and mixed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tiny_networks import FRAMES, HEIGHT, WIDTH, write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import (
    write_colmap_binary,
    write_colmap_text,
    write_official,
    write_official_bank,
    write_realestate10k,
    write_transforms,
)
from worldstereo.cameras.trajectories import SceneScale, parse_trajectory
from worldstereo.data.posed_video import read_posed_video
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.files import write_json
from worldstereo.images import save_depth_png16, save_png
from worldstereo.pipelines.world import Settings, WorldPipeline, create_generator
from worldstereo.training.clip_faults import (
    NO_DEPTH_FAULTS,
    NO_PICTURE_FAULTS,
    DepthFaults,
    PictureFaults,
    keep_some,
    spoil_depth,
    spoil_picture,
)
from worldstereo.training.clip_mixture import ClipMixture, MadeClips, ShardClips, write_clip_shards
from worldstereo.training.clip_recipe import ClipRecipe, ClipWorld, make_clip
from worldstereo.training.posed_clips import PosedClips
from worldstereo.training.procedural_clips import ProceduralClips
from worldstereo.training.training_clip import TrainingClip, clip_from_tensors, clip_to_tensors, collate

CLEAN = ClipRecipe(
    extra_views=0,
    dropped=0.0,
    unfiltered=0.0,
    depth_faults=NO_DEPTH_FAULTS,
    bank=0,
    masked=0.0,
    picture_faults=NO_PICTURE_FAULTS,
    reference_depth_faults=NO_DEPTH_FAULTS,
)
MAKER = ProceduralClips(width=112, height=64, frames=5, trajectories=3, share=(0.1, 0.3))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def world() -> ClipWorld:
    return MAKER.world(3)


@pytest.fixture(scope="module")
def clips(world) -> list[TrainingClip]:
    return [make_clip(world, track, MAKER.recipe, rng(k)) for k, track in enumerate(world.tracks)]


def tensors_of(clip: TrainingClip) -> dict[str, Tensor]:
    return {name: value[0] for name, value in collate([clip]).items()}


def same(one: TrainingClip, other: TrainingClip) -> bool:
    first, second = tensors_of(one), tensors_of(other)
    return one.name == other.name and all(torch.equal(first[name], second[name]) for name in first)


def holes(clip: TrainingClip) -> float:
    return float(clip.inputs.hole_mask[1:].float().mean())


class KnownDepth:
    """A back-end that knows the truth of one picture and nothing of others."""

    name = "known"

    def __init__(self, depth: Tensor, sky: Tensor) -> None:
        self.depth, self.sky = depth, sky

    def estimate(self, image, intrinsics=None, hint=None):
        return DepthPrediction(self.depth, self.sky, None, metric=True, source="known")


def test_a_clip_has_the_conditions_of_inference(tmp_path):
    """The whole loop with a network of the paper's layout, and the recipe without faults: the same tensors."""
    scene = ProceduralScene.sample(3, kind="room")
    start = scene.sample_cameras(1, 0, WIDTH, HEIGHT, (65, 66))
    render = scene.render(start)
    scale = SceneScale(float(render.depth[render.depth > 0].median()))
    cameras = parse_trajectory("orbit-right:6").cameras(start, scale, FRAMES)
    save_png(tmp_path / "photo.png", render.rgb[0])
    write_official(tmp_path / "camera.json", start)
    model = write_paper_model(tmp_path / "model", latent_cond_mode="filled_render")
    pipeline = WorldPipeline(create_generator(str(model)), KnownDepth(render.depth[0], render.sky[0]))
    given = []
    generate = pipeline.generator.generate
    pipeline.generator.generate = lambda conditions, report: given.append(conditions) or generate(conditions, report)
    settings = Settings(trajectories=("orbit-right:6",), camera=tmp_path / "camera.json")
    pipeline(tmp_path / "photo.png", tmp_path / "world", settings)
    expected = pipeline.generator._inputs(given[0])
    torch.testing.assert_close(given[0].cameras.cam_from_world, cameras.cam_from_world, atol=1e-5, rtol=0)

    truth = scene.render(given[0].cameras)
    photo_again = [*range(FRAMES), 0]  # the photo is in the bank, too
    world = ClipWorld(
        name="room",
        frames=(truth.rgb[photo_again] * 255).round().to(torch.uint8),
        depth=torch.cat([render.depth, truth.depth[1:], render.depth]),
        sky=torch.cat([render.sky, truth.sky[1:], render.sky]),
        cameras=given[0].cameras[photo_again],
        tracks=(tuple(range(FRAMES)),),
    )
    clip = make_clip(world, world.tracks[0], replace(CLEAN, bank=1, overlap=(0.1, 1.0), reference_depth=1.0), rng())
    assert (clip.inputs.reference_of_target == 0).all()
    assert ((clip.inputs.filled - expected.filled).abs() > 2e-4).float().mean() < 0.01  # aligned depth: visibility
    for name in tensors_of(clip).keys() - {"frames", "filled"}:
        torch.testing.assert_close(
            getattr(clip.inputs, name),
            getattr(expected, name),
            atol=2e-4,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_with_perfect_depth_the_render_is_the_truth_where_it_is_known(world):
    for track in world.tracks:
        clip = make_clip(world, track, CLEAN, rng())
        known = ~clip.inputs.hole_mask
        known[0] = False
        error = (clip.inputs.render - clip.frames).square().mean(dim=1)[known].mean()
        assert -10 * torch.log10(error) > 20
        assert known[1:].float().mean() > 0.5
        assert torch.equal(clip.inputs.render[0], clip.frames[0])


def test_further_views_close_holes_and_dropping_opens_them(world):
    track = max(world.tracks, key=lambda each: holes(make_clip(world, each, CLEAN, rng())))
    alone = holes(make_clip(world, track, CLEAN, rng()))
    richer = replace(CLEAN, extra_views=4, own_views=1.0)
    shares = {
        dropped: np.mean([holes(make_clip(world, track, replace(richer, dropped=dropped), rng(k))) for k in range(6)])
        for dropped in (0.0, 1.0)
    }
    assert shares[0.0] < shares[1.0] < alone


def test_references_cover_a_third_to_nine_tenths_and_come_from_elsewhere(world):
    recipe = replace(CLEAN, bank=8)
    found = 0
    for seed, track in enumerate(world.tracks):
        clip = make_clip(world, track, recipe, rng(seed))
        assert len(clip.inputs.references) <= 8
        for target, index in zip(track, clip.inputs.reference_of_target.tolist(), strict=True):
            if index >= 0:
                reference = clip.inputs.references[index]
                number = next(k for k in range(len(world.frames)) if torch.equal(world.picture(k), reference))
                assert number not in track
                assert 0.3 <= float(world.coverage[target, number]) <= 0.9
                found += 1
    assert found > len(world.tracks)
    assert all(
        (make_clip(world, t, replace(recipe, masked=1.0), rng()).inputs.reference_of_target == -1).all()
        for t in world.tracks
    )


def test_the_order_of_references_is_random(world):
    recipe = replace(CLEAN, bank=8, overlap=(0.0, 1.0))
    firsts = {
        int(make_clip(world, world.tracks[0], recipe, rng(seed)).inputs.reference_of_target[0]) for seed in range(12)
    }
    assert len(firsts) > 1


@pytest.mark.parametrize(
    "faults",
    [
        replace(NO_DEPTH_FAULTS, bleeding=1.0),
        replace(NO_DEPTH_FAULTS, floaters=1.0),
        replace(NO_DEPTH_FAULTS, noise=0.03),
        replace(NO_DEPTH_FAULTS, scale=0.03),
        replace(NO_DEPTH_FAULTS, shift=0.03),
        DepthFaults(),
    ],
    ids=["bleeding", "floaters", "noise", "scale", "shift", "all"],
)
def test_spoilt_depth_is_other_but_mildly(world, faults):
    depth = world.depth[0].clone()
    depth[10:20, 10:30] = 0
    spoilt = spoil_depth(depth, faults, rng(1))
    assert spoilt.shape == depth.shape
    assert torch.equal(spoilt > 0, depth > 0)
    ratio = (spoilt / depth)[depth > 0]
    assert 0.0 < float((ratio - 1).abs().mean()) < 0.2
    assert 0.85 < float(ratio.median()) < 1.15
    assert torch.equal(spoilt, spoil_depth(depth, faults, rng(1)))


def test_depth_without_faults_or_without_values_stays(world):
    torch.testing.assert_close(spoil_depth(world.depth[0], NO_DEPTH_FAULTS, rng()), world.depth[0])
    nothing = torch.zeros(8, 8)
    assert torch.equal(spoil_depth(nothing, DepthFaults(), rng()), nothing)


@pytest.mark.parametrize("dropped", [0.0, 0.25, 1.0])
def test_as_many_points_are_dropped_as_said(dropped):
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    for seed in range(4):  # both kinds
        assert int(keep_some(points, dropped, rng(seed)).sum()) == round(400 * (1 - dropped))
    assert len(keep_some(points[:0], dropped, rng())) == 0


@pytest.mark.parametrize("faults", [PictureFaults(1.0, 0.0), PictureFaults(0.0, 1.0)], ids=["jitter", "blur"])
def test_spoilt_references_are_other_pictures_of_the_same(world, faults):
    picture = world.picture(0)
    spoilt = spoil_picture(picture, faults, rng(3))
    assert spoilt.shape == picture.shape
    assert 0 <= spoilt.min() <= spoilt.max() <= 1
    assert 0.001 < (spoilt - picture).abs().mean() < 0.25
    assert torch.corrcoef(torch.stack([spoilt.flatten(), picture.flatten()]))[0, 1] > 0.7


def test_blur_takes_away_detail_but_no_light(world):
    picture = world.picture(0)
    blurred = spoil_picture(picture, PictureFaults(0.0, 1.0), rng(3))
    assert blurred.diff(dim=-1).abs().mean() + blurred.diff(dim=-2).abs().mean() < 0.99 * (
        picture.diff(dim=-1).abs().mean() + picture.diff(dim=-2).abs().mean()
    )
    assert abs(float(blurred.mean() - picture.mean())) < 0.01


def test_storage_keeps_what_it_says(clips):
    for clip in clips:
        stored = clip_to_tensors(clip)
        again = clip_from_tensors(clip.name, stored)
        for name, value in tensors_of(clip).items():
            exact = value.dtype != torch.float32 or name in ("rays", "frames", "image")
            torch.testing.assert_close(tensors_of(again)[name], value, atol=0.0 if exact else 0.502 / 255, rtol=0.0)
        assert sum(value.nbytes for value in stored.values()) < 14 * clip.frames.numel()
        assert all(torch.equal(value, clip_to_tensors(again)[name]) for name, value in stored.items())


def test_a_batch_pads_references_with_zeros(clips):
    some = [min(clips, key=lambda c: len(c.inputs.references)), max(clips, key=lambda c: len(c.inputs.references))]
    batch = collate(some)
    most = max(1, len(some[1].inputs.references))
    assert batch["frames"].shape == (2, 5, 3, 64, 112)
    assert batch["references"].shape == batch["reference_pointmaps"].shape == (2, most, 3, 64, 112)
    assert batch["hole_mask"].dtype == torch.bool
    assert batch["rays"].shape == (2, 5, 6, 64, 112)
    for place, clip in enumerate(some):
        count = len(clip.inputs.references)
        assert torch.equal(batch["references"][place, :count], clip.inputs.references)
        assert (batch["references"][place, count:] == 0).all()
        assert (batch["reference_of_target"][place] < max(count, 1)).all()
    assert collate([make_clip_without_references(some[0])])["references"].shape == (1, 1, 3, 64, 112)
    with pytest.raises(InputError, match="at least one clip"):
        collate([])


def make_clip_without_references(clip: TrainingClip) -> TrainingClip:
    inputs = replace(
        clip.inputs,
        references=clip.inputs.references[:0],
        reference_pointmaps=clip.inputs.reference_pointmaps[:0],
        reference_of_target=torch.full_like(clip.inputs.reference_of_target, -1),
    )
    return replace(clip, inputs=inputs)


def test_clips_without_a_condition_or_of_other_sizes_are_refused(clips):
    with pytest.raises(InputError, match="'filled', which is missing"):
        replace(clips[0], inputs=replace(clips[0].inputs, filled=None))
    with pytest.raises(InputError, match="must be equal"):
        replace(clips[0], frames=clips[0].frames[:3])
    shorter = replace(MAKER, frames=3)(3)
    with pytest.raises(InputError, match="different shapes"):
        collate([clips[0], shorter[0]])


def test_a_scene_gives_the_same_clips_again_and_other_seeds_others(world):
    again = MAKER.world(3)
    assert torch.equal(again.frames, world.frames)
    assert again.tracks == world.tracks
    assert len(world.tracks) == 6
    assert world.tracks[3] == world.tracks[0][::-1]
    small = replace(MAKER, trajectories=1, frames=3)
    assert all(same(a, b) for a, b in zip(small(3), small(3), strict=True))
    assert not torch.equal(small.world(5).frames[0], world.frames[0])


def test_paths_keep_clear_of_the_scene(world):
    scene = ProceduralScene.sample(3)
    assert float(scene.distance(world.cameras.centers).min()) > 0.3
    centers = world.cameras.centers
    assert all((centers[list(t)] - centers[t[0]]).norm(dim=1).max() < 10 for t in world.tracks)
    assert ((world.depth > 0) | world.sky).float().mean() > 0.99


def test_shards_go_on_after_a_kill(tmp_path):
    maker = replace(MAKER, trajectories=1, frames=3)
    write_clip_shards(tmp_path, 3, 5, maker)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"shard_{k:05d}.safetensors" for k in range(3)]
    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    times = paths[0].stat().st_mtime_ns, paths[2].stat().st_mtime_ns
    write_clip_shards(tmp_path, 3, 5, maker)
    assert [path.read_bytes() for path in paths] == before
    assert (paths[0].stat().st_mtime_ns, paths[2].stat().st_mtime_ns) == times
    assert all(same(a, b) for a, b in zip(ShardClips(tmp_path).clips(1), stored(maker(6)), strict=True))
    for other in (replace(maker, width=80), maker):
        with pytest.raises(InputError, match="take another folder"):
            write_clip_shards(tmp_path, 3, 5 if other != maker else 6, other)
    paths[1].write_bytes(before[1][: len(before[1]) // 2])
    with pytest.raises(InputError, match=r"shard_00001.*delete it"):
        write_clip_shards(tmp_path, 3, 5, maker)
    with pytest.raises(InputError, match="write_clip_shards"):
        ShardClips(tmp_path / "nothing")


def stored(clips: list[TrainingClip]) -> list[TrainingClip]:
    return [clip_from_tensors(clip.name, clip_to_tensors(clip)) for clip in clips]


def test_batches_depend_on_seed_number_and_step_alone(tmp_path):
    maker = replace(MAKER, trajectories=1, frames=3)
    write_clip_shards(tmp_path, 2, 0, maker)
    sources = [(ShardClips(tmp_path), 3.0), (MadeClips(maker, seed=7, steps_per_world=2), 1.0)]
    forward = [ClipMixture(sources, 3, seed=1).batch(step, step) for step in range(4)]
    mixture = ClipMixture(sources, 3, seed=1)
    backward = {step: mixture.batch(step, step) for step in (3, 1, 0, 2)}
    for step, batch in enumerate(forward):
        assert all(same(a, b) for a, b in zip(batch, backward[step], strict=True))
    names = {clip.name for batch in forward for clip in batch}
    assert any(name.startswith("procedural/7") or name.startswith("procedural/8") for name in names)
    assert any(name.startswith(("procedural/0", "procedural/1")) for name in names)
    other = ClipMixture(sources, 3, seed=2)
    assert any(not same(a, b) for step in range(4) for a, b in zip(other.batch(step, step), forward[step], strict=True))
    for bad in ([], [(sources[0][0], 0.0)], [(sources[0][0], float("nan"))]):
        with pytest.raises(InputError, match="positive weights"):
            ClipMixture(bad, 3, seed=1)


def test_a_step_has_the_same_clips_in_one_batch_and_in_several(clips):
    def make(seed: int) -> list[TrainingClip]:
        return [replace(clip, name=f"{seed}/{clip.name}") for clip in clips[:3]]

    def names(batch_size: int, batches: int) -> list[list[str]]:
        sources = [(MadeClips(make, 0, 2), 2.0), (MadeClips(make, 100, 1), 1.0)]
        mixture = ClipMixture(sources, batch_size, seed=3)
        indices = [(step, range(step * batches, (step + 1) * batches)) for step in range(8)]
        return [[clip.name for index in some for clip in mixture.batch(index, step)] for step, some in indices]

    whole = names(6, 1)
    assert names(3, 2) == names(1, 6) == whole
    assert len({tuple(step) for step in whole}) == 8
    assert {int(name.split("/")[0]) for step in whole for name in step} <= {*range(4), *range(100, 108)}


def test_threads_share_the_worlds_that_one_of_them_makes(clips):
    asked = []

    def make(seed: int) -> list[TrainingClip]:
        asked.append(seed)
        return [replace(clip, name=f"{seed}/{clip.name}") for clip in clips[:3]]

    one_by_one = [ClipMixture([(MadeClips(make, 0, 2, worlds=3), 1.0)], 4, seed=0).batch(i, i) for i in range(12)]
    asked.clear()
    shared = ClipMixture([(MadeClips(make, 0, 2, worlds=3), 1.0)], 4, seed=0)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.batch, range(12), range(12)))
    assert sorted(asked) == sorted(set(asked))
    assert all(same(a, b) for x, y in zip(one_by_one, together, strict=True) for a, b in zip(x, y, strict=True))
    assert len({clip.name.split("/")[0] for clip in together[11]}) > 1
    broken = MadeClips(lambda seed: 1 / 0, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            broken.draw(0, rng())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, world) -> tuple[Path, Cameras]:
    """Nine frames of a path, and their depth, as files."""
    folder = tmp_path_factory.mktemp("video")
    track = [*world.tracks[0], *world.tracks[1][1:]]
    for place, number in enumerate(track):
        save_png(folder / "images" / f"{place:03d}.png", world.picture(number))
        save_depth_png16(folder / "depth" / f"{place:03d}.png", world.depth[number])
    return folder, world.cameras[track]


def rgbd(folder: Path, cameras: Cameras) -> None:
    frames = [
        {"image": f"images/{k:03d}.png", "depth": f"depth/{k:03d}.png", "width": 112, "height": 64}
        | {"K": cameras.intrinsics[k].tolist(), "w2c": cameras.cam_from_world[k].tolist()}
        for k in range(len(cameras))
    ]
    write_json(folder / "cameras.json", {"convention": "opencv w2c", "frames": frames})


def names(cameras: Cameras, prefix: str = "") -> list[str]:
    return [f"{prefix}{k:03d}.png" for k in range(len(cameras))]


LAYOUTS = {
    "rgbd": rgbd,
    "official": lambda folder, cameras: write_official(folder / "camera.json", cameras),
    "official-names": lambda folder, cameras: write_official(folder / "camera.json", cameras, names(cameras)),
    "transforms": lambda folder, cameras: write_transforms(
        folder / "transforms.json", cameras, names(cameras, "images/")
    ),
    "colmap": lambda folder, cameras: write_colmap_binary(folder / "sparse" / "0", cameras, names(cameras)),
    "colmap-text": lambda folder, cameras: write_colmap_text(folder / "sparse", cameras, names(cameras)),
    "bank": lambda folder, cameras: (
        shutil.copytree(folder / "images", folder / "pano_bank" / "images"),
        write_official_bank(folder / "pano_bank" / "cameras.json", cameras, names(cameras)),
        shutil.copytree(folder / "images", folder / "view0" / "traj0"),
        write_official(folder / "view0" / "traj0" / "camera.json", cameras),
    ),
    "realestate10k": lambda folder, cameras: (
        [(folder / "images" / f"{k:03d}.png").rename(folder / "images" / f"{k}.png") for k in range(len(cameras))],
        write_realestate10k(folder / "walk.txt", cameras, "https://example.org/walk"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_posed_videos_are_read_in_every_layout(pictures, world, tmp_path, layout):
    folder, cameras = tmp_path / "walk", pictures[1]
    shutil.copytree(pictures[0], folder)
    LAYOUTS[layout](folder, cameras)
    video = read_posed_video(folder)
    assert (len(video), video.has_depth) == (len(cameras), layout == "rgbd")
    torch.testing.assert_close(video.cameras.cam_from_world, cameras.cam_from_world, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(video.cameras.intrinsics, cameras.intrinsics, atol=1e-2, rtol=1e-4)
    loaded = video.load([4, 0], 112, 64)
    assert torch.equal(loaded.frames[1], world.frames[world.tracks[0][0]])
    assert torch.equal(loaded.frames[0], world.frames[world.tracks[0][4]])
    if video.has_depth:
        true_depth = world.depth[world.tracks[0][0]]
        stored_depth = torch.where(true_depth < 65.534, true_depth, 0.0)  # 16 bits, the largest value is unknown
        torch.testing.assert_close(loaded.depth[1], stored_depth, atol=0.001, rtol=0)
    else:
        assert (loaded.depth == 0).all()


def test_loaded_frames_keep_pictures_cameras_and_depth_together(pictures, tmp_path):
    shutil.copytree(pictures[0], tmp_path / "walk")
    rgbd(tmp_path / "walk", pictures[1])
    square = read_posed_video(tmp_path / "walk").load([2], 40, 40)
    assert square.frames.shape == (1, 3, 40, 40)
    assert square.depth.shape == (1, 40, 40)
    k = square.cameras.intrinsics[0]
    torch.testing.assert_close(k[0, 0], pictures[1].intrinsics[2, 0, 0] * 40 / 64)
    torch.testing.assert_close(k[0, 2], torch.tensor(20.0), atol=0.01, rtol=0)


def test_depth_may_be_named_as_nerfstudio_does_or_be_null_but_nothing_else(pictures, tmp_path):
    folder = tmp_path / "walk"
    shutil.copytree(pictures[0], folder)
    rgbd(folder, pictures[1])
    listing = json.loads((folder / "cameras.json").read_text())
    known = read_posed_video(folder).depths
    for frame in listing["frames"]:
        frame["depth_file_path"] = frame.pop("depth")
    listing["frames"][2] |= {"depth": None, "depth_file_path": None}
    (folder / "cameras.json").write_text(json.dumps(listing))
    assert read_posed_video(folder).depths == (*known[:2], None, *known[3:])
    for wrong in (3, ["a.png"], "", {}):
        listing["frames"][1]["depth"] = wrong
        (folder / "cameras.json").write_text(json.dumps(listing))
        with pytest.raises(InputError, match=r"cameras\.json: frames\[1\]\.depth is .* must be the name of a PNG"):
            read_posed_video(folder)


def test_bad_folders_say_what_is_wrong_and_what_to_do(pictures, tmp_path):
    folder, cameras = tmp_path / "walk", pictures[1]
    shutil.copytree(pictures[0], folder)
    (folder / "notes.txt").mkdir()
    with pytest.raises(InputError, match="holds no camera file"):
        read_posed_video(folder)
    rgbd(folder, cameras)
    (folder / "images" / "004.png").unlink()
    with pytest.raises(InputError, match=r"images/004\.png' is missing.*put it into"):
        read_posed_video(folder)
    Image.new("RGB", (70, 80)).save(folder / "images" / "004.png")
    with pytest.raises(InputError, match=r"004\.png.*70×80"):
        read_posed_video(folder).load([4], 112, 64)
    (folder / "depth" / "000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"000\.png: cannot be read as a depth PNG"):
        read_posed_video(folder).load([0], 112, 64)
    Image.new("I;16", (50, 50)).save(folder / "depth" / "001.png")
    with pytest.raises(InputError, match=r"001\.png: is 50×50 but its picture 112×64"):
        read_posed_video(folder).load([1], 112, 64)
    Image.new("L", (112, 64), 200).save(folder / "depth" / "002.png")
    with pytest.raises(InputError, match=r"002\.png: is uint8 with 2 dimensions, not one channel of uint16"):
        read_posed_video(folder).load([2], 112, 64)
    (folder / "cameras.json").unlink()
    write_official(folder / "camera.json", cameras[:4])
    with pytest.raises(InputError, match="holds exactly 4"):
        read_posed_video(folder)
    (folder / "camera.json").unlink()
    for name in ("a", "b"):
        write_realestate10k(folder / f"{name}.txt", cameras, "https://example.org")
    with pytest.raises(InputError, match=r"a\.txt, b\.txt"):
        read_posed_video(folder)
    shutil.rmtree(folder / "images")
    with pytest.raises(InputError, match="no pictures beside it"):
        read_posed_video(folder / "a.txt")


def test_a_posed_video_becomes_clips(pictures, tmp_path):
    folder = tmp_path / "walk"
    shutil.copytree(pictures[0], folder)
    rgbd(folder, pictures[1])
    video = read_posed_video(folder)
    maker = PosedClips((video,), CLEAN, width=112, height=64, frames=4, strides=(1, 8))
    worlds = [maker.world(seed) for seed in range(6)]
    assert len({world.name for world in worlds}) > 2
    assert all(len(world.frames) == len(video) for world in worlds)  # 4 of the clip, 5 of elsewhere
    clip, back = maker(0)
    assert torch.equal(clip.frames.flip(0), back.frames)
    known = ~clip.inputs.hole_mask
    assert float((clip.inputs.render - clip.frames).square().mean(dim=1)[known].mean()) < 0.01
    assert all(same(a, b) for a, b in zip(maker(0), (clip, back), strict=True))
    with pytest.raises(InputError, match="too few for clips of 13"):
        PosedClips((video,))
    with pytest.raises(InputError, match=r"strides is \(2, 1\) but must be two whole numbers"):
        PosedClips((video,), frames=4, strides=(2, 1))
    with pytest.raises(InputError, match="name a depth back-end"):
        PosedClips((replace(video, depths=(None,) * len(video)),), frames=4)


def test_recipes_and_makers_out_of_range_are_refused():
    for wrong in ({"dropped": 1.5}, {"overlap": (0.9, 0.3)}, {"extra_views": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ClipRecipe(**wrong)
    for wrong in ({"frames": 1}, {"share": (0.0, 1.0)}, {"share": (0.5, 0.1)}, {"width": 0}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))} is "):
            ProceduralClips(**wrong)
