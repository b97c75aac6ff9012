"""The ladder: which pixels count as what, what each row is given, and the command."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from box_room import look, see_room
from conftest import run_command
from tiny_networks import FRAMES, HEIGHT, WIDTH, write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cli import app
from worldstereo.errors import InputError
from worldstereo.evaluation import ladder
from worldstereo.evaluation.baselines import ConstantDepth, NearestFrame, WarpedReferences
from worldstereo.evaluation.ladder import LadderConfig, evaluate_ladder, trained_on
from worldstereo.evaluation.ladder_clips import LadderClip, find_captures, split_capture
from worldstereo.evaluation.report_table import Mean, markdown_table, paired
from worldstereo.evaluation.reprojection import View, sample, seen_in
from worldstereo.evaluation.revisits import Crossing, fly, revisit_figures
from worldstereo.evaluation.rungs import RUNGS, find_makers
from worldstereo.files import write_json
from worldstereo.image_metrics import psnr
from worldstereo.images import save_depth_png16, save_png
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.keyframe_video import KeyframeVideoPipeline
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.training.clip_recipe import ClipWorld

WALL, FOV = 4.0, 70.0
RUNG = {rung.name: rung for rung in RUNGS}
BASELINES = [rung.name for rung in RUNGS if not rung.learned]


def wall_world(places: list[float], width: int = WIDTH, height: int = HEIGHT) -> ClipWorld:
    """A painted wall at z = 4, seen by cameras at (x, 0, 0) that look straight at it."""
    cameras = Cameras.cat([look(x, 0.0, width, height, FOV) for x in places])
    depth = torch.full((len(places), height, width), WALL)
    points = cameras.unproject(depth)
    waves = torch.sin(points @ torch.tensor([[2.0, 1.0, 3.0], [1.5, 3.0, 1.0], [0.0, 0.0, 0.0]]))
    frames = (255 * (0.5 + 0.4 * waves)).round().to(torch.uint8).permute(0, 3, 1, 2)
    return ClipWorld("wall", frames, depth, torch.zeros_like(depth, dtype=torch.bool), cameras, ())


def wall_clip(name: str = "wall") -> LadderClip:
    """From x = 0 to 2 the wall comes in from the right. A view at 1 grew the cloud, one at 1.5 is a reference only."""
    world = wall_world([0.0, 0.5, 1.0, 1.5, 2.0, 1.0, 1.5])
    return LadderClip(world, tuple(range(FRAMES)), ((5,), (6,)), "wall", "exact")


def conditions(clip: LadderClip, name: str) -> ClipConditions:
    return ladder._conditions(clip, RUNG[name], WarpGenerator(), 0)


# Reprojection and regions


def test_what_another_view_shows_by_exact_depth():
    one, other = look(-0.4, 8.0), look(0.7, -5.0)
    (picture, depth), (other_picture, other_depth) = see_room(one), see_room(other)
    nowhere = torch.zeros_like(depth[0], dtype=torch.bool)
    pixels, seen = seen_in(View(one, depth[0], nowhere), View(other, other_depth[0], nowhere))
    points = one.unproject(depth)[0].flatten(0, 1)
    z = other.project(points)[1][0].view_as(depth[0])
    inside = (pixels[..., 0] > 0) & (pixels[..., 0] < 128) & (pixels[..., 1] > 0) & (pixels[..., 1] < 80)
    truth = sample(other_depth.expand(3, -1, -1), pixels)[0]
    hidden = inside & (truth < 0.9 * z)  # something stands in front of it
    assert int(hidden.sum()) > 50
    assert float(seen[hidden].float().mean()) < 0.1  # at the very rim the 3×3 pixels hold both depths
    assert float(seen[inside & ~hidden].float().mean()) > 0.97
    assert not bool(seen[~inside].any())
    error = (sample(other_picture[0], pixels) - picture[0]).abs().mean(dim=0)[seen]
    assert float(error.median()) < 0.01


def test_sky_is_shown_by_sky_however_far_the_other_stands():
    depth = torch.zeros(80, 128)
    depth[40:] = 5.0
    views = [View(look(x, 0.0), depth, depth == 0) for x in (0.0, 50.0)]
    _, seen = seen_in(*views)
    assert bool(seen[:39].all())
    assert not bool(seen[40:].any())


def test_regions_of_the_wall():
    """At x = 2 the frame ends at 4.8. The first frame shows up to 2.8, the cloud up to 3.8, the reference to 4.3."""
    clip = wall_clip()
    columns = clip.cameras[4].unproject(torch.full((1, HEIGHT, WIDTH), WALL))[0, HEIGHT // 2, :, 0]
    reach = WALL * math.tan(math.radians(FOV / 2))
    edges = {"first": reach, "cloud": 1 + reach, "reference": 1.5 + reach}
    assert clip.references.names[int(clip.references.for_target[4])] == "6"
    expected = {
        "known": columns < edges["first"],
        "seen": (columns > edges["first"]) & (columns < edges["reference"]),
        "referred": (columns > edges["cloud"]) & (columns < edges["reference"]),
        "unseen": columns > edges["reference"],
    }
    for name, region in clip.regions.items():
        wrong = (region[4] ^ expected[name])[2:-2]  # the cloud does not grow in the last rows
        assert int(wrong.sum(dim=1).max()) <= 3, name  # a hole begins within a pixel or two of the exact place
        assert int(expected[name].sum()) > 3
        assert not bool(region[0].any())


# Baselines


def test_a_wall_is_what_constant_depth_is_right_about():
    clip = wall_clip()
    given = conditions(clip, "constant depth")
    frames = ConstantDepth().generate(given, lambda done, steps: None)
    assert torch.equal(frames[0], clip.frames[0])
    assert psnr(frames, clip.frames, clip.regions["known"]) > 35
    assert psnr(frames, clip.frames, clip.regions["unseen"]) < 25


def test_the_nearest_frame_is_a_copy():
    clip = wall_clip()
    frames = NearestFrame().generate(conditions(clip, "nearest frame"), lambda done, steps: None)
    assert torch.equal(frames[4], clip.world.picture(6))
    assert torch.equal(NearestFrame().generate(conditions(clip, "pull-push"), lambda *_: None)[4], clip.frames[0])


def test_pull_push_is_the_filled_render_and_references_better_it():
    clip = wall_clip()
    given = conditions(clip, "pull-push")
    filled = WarpGenerator().generate(given, lambda done, steps: None)
    assert torch.equal(filled, given.filled_render())
    warped = WarpedReferences().generate(conditions(clip, "warped references"), lambda done, steps: None)
    region = clip.regions["referred"]
    assert psnr(warped, clip.frames, region) > psnr(filled, clip.frames, region) + 3


# What rows are given


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with its teacher."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    few = {"dmd_steps": 2, "dmd_start_steps": 250, "dmd_end_steps": 1000, "gen_shift": 5.0}
    write_paper_model(folder, latent_cond_mode="filled_render", **few)
    shutil.copytree(folder / "backbone", folder / "undistilled" / "backbone")
    config = json.loads((folder / "config.json").read_text())
    for name in few:
        del config[name]
    (folder / "undistilled" / "config.json").write_text(json.dumps(config | {"shares_parts": True}))
    return folder


def test_each_row_is_given_what_its_name_says(model, monkeypatch):
    given = []
    monkeypatch.setattr(
        KeyframeVideoPipeline,
        "__call__",
        lambda self, inputs, *args, **kwargs: (
            given.append((inputs, kwargs["seed"], self.sampling.steps)) or inputs.render.clone()
        ),
    )
    clip, makers = wall_clip(), find_makers(str(model))
    assert makers.rungs == RUNGS
    assert (makers.width, makers.height, makers.frames) == (WIDTH, HEIGHT, FRAMES)
    learned = [rung for rung in RUNGS if rung.learned]
    for rung in learned:
        generator = makers.create[rung.maker]()
        generator.generate(ladder._conditions(clip, rung, generator, 7), lambda done, steps: None)
    camera, ggm, without, full, few = (inputs for inputs, _, _ in given)
    assert [seed for _, seed, _ in given] == [7] * 5
    assert [steps for _, _, steps in given] == [2, 2, 2, 2, 2]
    first, grown = (c.render_sharp(clip.cameras) for c in (clip.first_cloud, clip.grown_cloud))
    assert torch.equal(camera.hole_mask[1:], first.hole_mask[1:])
    for inputs in (ggm, without, full, few):
        assert torch.equal(inputs.hole_mask[1:], grown.hole_mask[1:])
    assert int(camera.hole_mask.sum()) > int(ggm.hole_mask.sum())
    for inputs in (camera, ggm):
        assert (inputs.reference_of_target == -1).all()
        assert len(inputs.references) == 0
    for inputs in (without, full, few):
        assert torch.equal(inputs.references, clip.references.frames)
        assert torch.equal(inputs.reference_of_target, clip.references.for_target)
    assert bool((without.target_pointmaps == 0.5).all())
    assert bool((without.reference_pointmaps == 0.5).all())
    assert torch.equal(without.filled, ggm.filled)
    assert not torch.equal(full.filled, ggm.filled)
    assert float(full.target_pointmaps.std()) > 0.05
    for name in ("filled", "target_pointmaps", "reference_pointmaps", "render", "rays"):
        assert torch.equal(getattr(full, name), getattr(few, name))


def test_rows_of_what_there_is_not_are_skipped(model, tmp_path):
    teacher = write_paper_model(tmp_path / "teacher", latent_cond_mode="filled_render")
    makers = find_makers(str(teacher))
    assert makers.skipped == {"4 steps": f"{teacher} is not distilled"}
    shutil.rmtree(teacher / "stereo")
    assert [r.name for r in find_makers(str(teacher)).rungs] == [*BASELINES, "camera only", "+ GGM"]
    student = tmp_path / "student"
    shutil.copytree(model, student)
    shutil.rmtree(student / "undistilled")
    assert [r.name for r in find_makers(str(student)).rungs] == [*BASELINES, "4 steps"]


# Revisits


class Painter(WarpGenerator):
    """Shows what it is told to, and remembers what it was given."""

    def __init__(self, clips: list[torch.Tensor]) -> None:
        super().__init__()
        self.clips, self.given = list(clips), []

    def generate(self, conditions, on_progress):
        self.given.append(conditions)
        on_progress(1, 1)
        return self.clips[len(self.given) - 1]


@pytest.fixture(scope="module")
def crossing() -> Crossing:
    """A turn to the right in the room with a box, and the same turn from farther and farther to the left and back."""
    frames, views = [], []
    for side in (0.0, 0.6):
        cameras = Cameras.cat([look(-side * math.sin(math.pi * k / 4), 12.0 * k) for k in range(FRAMES)])
        pictures, depth = see_room(cameras)
        frames.append((pictures * 255).round() / 255)
        views.append(tuple(View(cameras[k], depth[k], depth[k] == 0) for k in range(FRAMES)))
    return Crossing((frames[0], frames[1]), (views[0], views[1]))


def test_revisits_of_the_truth_of_another_painting_and_of_a_wrong_place(crossing):
    first, second = crossing.frames
    truth = revisit_figures(first, second, crossing)
    assert truth["revisit"] > 30
    assert truth["revisit_invented"] > 30
    darker = revisit_figures(0.9 * first, 0.9 * second, crossing)
    assert darker["revisit"] > truth["revisit"]  # consistent with itself, whatever the truth is
    other = revisit_figures(first, 0.5 * second, crossing)
    assert other["revisit"] < 15
    assert revisit_figures(first, second.roll(9, 3), crossing)["revisit"] < truth["revisit"] - 5
    for match in crossing.matches:
        assert not bool((match.invented & ~match.shared).any())
    assert crossing.matches[-1].earlier == FRAMES - 1  # where the paths meet


def test_only_rows_with_memory_remember_the_first_clip(crossing):
    holes = {}
    for name in ("camera only", "+ GGM", "full"):
        painter, progress = Painter(list(crossing.frames)), []
        made = fly(painter, RUNG[name], crossing, 3, lambda done, steps, p=progress: p.append((done, steps)))
        assert all(torch.equal(a, b) for a, b in zip(made, crossing.frames, strict=True))
        assert progress == [(1, 2), (2, 2)]
        assert [given.seed for given in painter.given] == [3, 4]
        holes[name] = [int(given.guidance.hole_mask.sum()) for given in painter.given]
        names = painter.given[1].references.names
        assert any(each.startswith("0/") for each in names) is (name == "full")
    assert holes["camera only"][0] == holes["+ GGM"][0]
    assert holes["+ GGM"][1] == holes["full"][1] < 0.3 * holes["camera only"][1]


# Reports


def test_means_and_paired_differences():
    mean = Mean.of([1.0, 2.0, None, 3.0])
    assert (mean.value, mean.count) == (2, 3)
    assert mean.error == pytest.approx(1 / math.sqrt(3))
    assert mean.text(2) == "2.00 ± 0.58"
    assert Mean.of([None]) is None
    assert Mean.of([4.0]).text(1, signed=True) == "+4.0"
    difference = paired([1.0, None, 5.0], [0.0, 3.0, 2.0])
    assert (difference.value, difference.count, difference.error) == (2, 2, pytest.approx(1))
    assert markdown_table(["", "a"], [["x", "1"]]) == "|  | a |\n| --- | ---: |\n| x | 1 |"


# Captures


def write_capture(folder: Path, count: int, with_depth: bool = True) -> Path:
    cameras = Cameras.cat([look(0.1 * k, 2.0 * k) for k in range(count)])
    pictures, depth = see_room(cameras)
    frames = []
    for k in range(count):
        save_png(folder / f"{k}.png", pictures[k])
        save_depth_png16(folder / f"{k}_depth.png", depth[k])
        known = {"depth": f"{k}_depth.png"} if with_depth else {}
        pose = {"K": cameras.intrinsics[k].tolist(), "w2c": cameras.cam_from_world[k].tolist()}
        frames.append({"image": f"{k}.png", "width": 128, "height": 80, **pose, **known})
    write_json(folder / "cameras.json", {"convention": "opencv-w2c", "frames": frames})
    return folder


def turning(count: int, degrees: float) -> Cameras:
    return Cameras.cat([look(0.1 * k, degrees * k) for k in range(count)])


def test_clip_and_memory_of_a_capture_share_no_frame():
    for count in (4, 5, 8, 11, 16, 20, 27, 63):
        targets, memory = split_capture(turning(count, 1.0), 13)
        assert not set(targets) & set(memory)
        assert len(set(memory)) == len(memory) >= 1
        assert max(*targets, *memory) < count
        assert len(targets) == 13 or 2 * count < 39
    assert split_capture(turning(11, 1.0), 13) == ([0, 1, 3, 4, 6, 7, 9, 10], [2, 5, 8])
    with pytest.raises(InputError, match="needs four"):
        split_capture(turning(3, 1.0), 13)


def test_clips_of_captures_do_not_turn_away():
    """Twelve steps of 4, 2 or 1 frames turn by 30° at most; where nothing does, the run that turns least is taken."""
    assert split_capture(turning(63, 0.5), 13)[0] == list(range(0, 49, 4))
    assert split_capture(turning(63, 1.2), 13)[0] == list(range(0, 25, 2))
    assert split_capture(turning(63, 2.4), 13)[0] == list(range(13))
    wild = Cameras.cat([turning(20, 15.0), turning(20, 4.0)])
    assert split_capture(wild, 13)[0] == list(range(20, 33))


def test_captures_that_the_recipes_train_on_are_known():
    assert {"hololens_000", "opensfm_lund27"} <= trained_on()
    assert "strecha_fountain_p11" not in trained_on()


# The whole


@pytest.fixture(scope="module")
def walls() -> Iterator[None]:
    """Walls instead of procedural scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "procedural_clip", lambda number, *size: wall_clip())
        yield


@pytest.fixture(scope="module")
def whole(model, walls, tmp_path_factory) -> Path:
    """The results of a run that was not stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert evaluate_ladder(LadderConfig(str(model), out, scenes=2, revisits=False)) == out / "ladder.md"
    return out


def without_seconds(path: Path) -> dict:
    result = json.loads(path.read_text())
    for row in result["rows"].values():
        row.pop("seconds", None)
    return result


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(model, whole, tmp_path):
    def stop(what: str, share: float) -> None:
        if "2 of 2" in what and "camera" in what:
            raise KeyboardInterrupt

    stopped = LadderConfig(str(model), tmp_path / "stopped", scenes=2, revisits=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate_ladder(stopped, stop)
    first = tmp_path / "stopped" / "clips" / "procedural-900000000.json"
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    before, shares = first.stat().st_mtime_ns, []
    evaluate_ladder(stopped, lambda what, share: shares.append(share))
    assert first.stat().st_mtime_ns == before
    assert shares == sorted(shares)
    assert shares[0] == 0.5
    for path in (whole / "clips").iterdir():
        assert without_seconds(path) == without_seconds(tmp_path / "stopped" / "clips" / path.name)


def test_tables_say_what_they_were_made_with(whole):
    text, figures = (whole / "ladder.md").read_text(), json.loads((whole / "ladder.json").read_text())
    for words in ("worldstereo 0", "torch 2", "seed: 0", "2 clips", "± 0.00", "worldstereo evaluate ladder --model"):
        assert words in text
    (one,) = figures["sets"]
    assert list(one["rows"]) == [rung.name for rung in RUNGS]
    full = one["rows"]["full"]
    expected = full["figures"]["psnr_seen"]["mean"] - one["rows"]["pull-push"]["figures"]["psnr_seen"]["mean"]
    assert full["differences"]["pull-push"]["psnr_seen"]["mean"] == pytest.approx(expected)
    assert "+ GGM" in full["differences"]
    sheets = {path.name for path in (whole / "sheets").iterdir()}
    assert sheets == {f"procedural-{900_000_000 + k}.png" for k in range(2)}
    assert (whole / "wall.png").is_file()


def test_captures_with_and_without_depth(model, tmp_path):
    write_capture(tmp_path / "data" / "room", 9)
    write_capture(tmp_path / "data" / "more" / "hololens_000", 6, with_depth=False)
    write_capture(tmp_path / "data" / "short", 3)
    assert list(find_captures(tmp_path / "data")) == ["more/hololens_000", "room", "short"]
    config = LadderConfig(str(model), tmp_path / "out", data=tmp_path / "data", scenes=0)
    text = evaluate_ladder(config).read_text()
    figures = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert {s["set"]: s["clips"] for s in figures["sets"]} == {
        "captures, trained on": ["hololens_000"],
        "captures, unseen": ["room"],
    }
    assert "Depth: stored" in text
    assert "Depth: nano" in text
    assert "short: a capture of 3 frames is too short" in text
    rows = figures["sets"][1]["rows"]
    assert rows["pull-push"]["figures"]["psnr_known"]["mean"] > 20


def test_the_command_on_a_scene_with_revisits(model, tmp_path):
    done = run_command("evaluate", "ladder", "--model", model, "--scenes", 1, "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "| full |" in done.stdout
    (one,) = json.loads((tmp_path / "out" / "ladder.json").read_text())["sets"]
    assert one["set"] == "procedural, held out"
    assert one["clips"] == ["procedural-900000000"]
    assert list(one["rows"]["truth"]["figures"]) == ["revisit", "revisit_invented"]
    assert "revisit_invented" in one["rows"]["full"]["differences"]["camera only"]


def test_what_cannot_be_evaluated_is_said(model, whole, tmp_path):
    def said(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["evaluate", "ladder", *map(str, arguments), "--quiet"])
        assert isinstance(result.exception, InputError)
        return str(result.exception)

    out = tmp_path / "out"
    assert "no folder" in said("--model", tmp_path / "nothing", "-o", out)
    assert "nothing to evaluate" in said("--model", model, "--scenes", 0, "-o", out)
    assert "no such folder" in said("--model", model, "--data", tmp_path / "nothing", "-o", out)
    (tmp_path / "empty").mkdir()
    assert "no posed captures" in said("--model", model, "--data", tmp_path / "empty", "-o", out)
    assert "with seed 0, not 1" in said("--model", model, "--no-revisits", "--seed", 1, "-o", whole)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").write_text("mine")
    assert "something else than a ladder" in said("--model", model, "-o", tmp_path / "other")
