"""The real command line: end to end on a photo and a panorama, and one sentence for every bad input."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import run_command
from worldstereo.cameras.files import read_cameras
from worldstereo.cli import main
from worldstereo.cli.options import progress
from worldstereo.exporters.ply import read_ply
from worldstereo.pipelines.world_folder import World
from worldstereo.video import read_video

SMALL = ("--model", "warp", "--short-side", 96, "--frames", 4, "--quiet")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line in this process; gives the exit code."""
    monkeypatch.setattr(sys, "argv", ["worldstereo", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_help_answers_without_loading_torch():
    code = "import sys, worldstereo.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert run_command("--help").returncode == 0


@pytest.fixture(scope="module")
def made(room_photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of a photo, made by the real command with its default depth."""
    out = tmp_path_factory.mktemp("cli") / "room.world"
    done = run_command("generate", room_photo, "--out", out, *SMALL, "-t", "orbit-right:6", "-t", "ellipse:0.05x0.05")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert "transformers:" in done.stdout  # the better back-ends within reach
    return out


def test_generate_leaves_clips_a_cloud_and_a_report(made):
    world = World(made)
    assert [clip.is_done for clip in world.clips] == [True, True]
    assert len(read_ply(made / "point_cloud.ply")) == len(world.point_cloud) > 1000
    assert "baseline" in (made / "report.html").read_text()
    video = read_video(world.clips[0].video)
    assert video.shape == (4, 3, 96, 144)
    assert (video - world.clips[0].frames).abs().mean() < 0.03


def test_extend_info_and_every_export(made, tmp_path):
    assert run_command("extend", made, "-t", "pan-left:4", "--start", "0:3", "--quiet").returncode == 0
    world = World(made)
    assert len(world.clips) == 3
    described = run_command("info", made).stdout
    assert described.count("done") == 3
    everything = torch.cat([clip.cameras.cam_from_world for clip in world.clips])
    for form, file in (("colmap", "sparse/0"), ("transforms", "transforms.json")):
        assert run_command("export", made, "-f", form, "-o", tmp_path / form).returncode == 0
        read = read_cameras(tmp_path / form / file)
        torch.testing.assert_close(read.cameras.cam_from_world, everything, atol=1e-5, rtol=1e-5)
        pictures = sorted((tmp_path / form / "images").iterdir())
        assert [Path(name).name for name in read.names] == [picture.name for picture in pictures]
    assert run_command("export", made, "-f", "ply", "-o", tmp_path / "cloud.ply").returncode == 0
    assert len(read_ply(tmp_path / "cloud.ply")) == len(world.point_cloud)
    assert run_command("export", made, "-f", "official", "-o", tmp_path / "scene").returncode == 0
    trajectory = tmp_path / "scene" / "renders" / f"traj_{world.clips[0].name}"
    read = read_cameras(trajectory / "camera.json")
    torch.testing.assert_close(read.cameras.cam_from_world, world.clips[0].cameras.cam_from_world)
    assert read_video(trajectory / "render_mask.mp4").shape == (4, 3, 96, 144)
    again = run_command("export", made, "-f", "ply", "-o", tmp_path / "cloud.ply")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_panorama_is_recognised_and_its_clips_start_inside_it(room_panorama, tmp_path):
    out = tmp_path / "pano.world"
    done = run_command("generate", room_panorama, "--out", out, *SMALL, "-t", "pan-right:40", "-t", "dolly-in:0.1")
    assert done.returncode == 0, done.stderr
    world = World(out)
    assert world.manifest.request.projection == "equirectangular"
    holes = (out / "clips").glob("*/guidance/hole_mask/000.png")
    assert all(np.asarray(Image.open(path)).mean() < 0.25 * 255 for path in holes)
    centers = world.clips[0].cameras.centers
    torch.testing.assert_close(centers, torch.zeros_like(centers), atol=1e-5, rtol=0)


def test_info_names_the_back_ends_and_their_extras():
    said = run_command("info").stdout.replace("\n", "")
    assert "nano" in said
    assert "[exr]" in said


def test_preview_writes_a_page_and_a_picture(room_photo, tmp_path):
    page = tmp_path / "paths.html"
    done = run_command("preview", room_photo, "--out", page, "--preset", "paper", "--short-side", 96)
    assert done.returncode == 0, done.stderr
    assert "orbit-up:45" in done.stdout
    assert done.stderr == "", "libraries have nothing to say, even where torchao is installed"
    assert page.stat().st_size > 10_000
    assert Image.open(page.with_suffix(".png")).size[0] >= 800


def test_extending_takes_the_scale_of_the_depth_file_from_the_world(room_photo, tmp_path):
    with Image.open(room_photo) as photo:
        Image.fromarray(np.full((photo.height, photo.width), 3000, np.uint16)).save(tmp_path / "depth.png")
    depth = ("--depth", tmp_path / "depth.png", "--depth-scale", 0.001)
    made = run_command("generate", room_photo, "--out", tmp_path / "w", *SMALL, *depth, "-t", "dolly-in:0.1")
    assert made.returncode == 0, made.stderr
    longer = run_command("extend", tmp_path / "w", "-t", "truck-right:0.1", "--quiet")
    assert longer.returncode == 0, longer.stderr
    assert len(World(tmp_path / "w").clips) == 2


def test_preview_overwrites_no_photo(room_photo, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(png((64, 64)))
    before = photo.read_bytes()
    for out, said in (("photo.html", "would overwrite"), ("photo.png", "end in .html"), ("page", "end in .html")):
        done = run_command("preview", photo, "--out", tmp_path / out, "-t", "dolly-in:0.1")
        assert done.returncode == 2
        assert said in done.stderr
    assert photo.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_preview_overwrites_no_depth_file(monkeypatch, capsys, room_photo, tmp_path):
    depth = tmp_path / "scene.png"
    depth.write_bytes(png((64, 64), "I;16"))
    before = depth.read_bytes()
    options = ("--depth", depth, "--depth-scale", 0.001, "--out", tmp_path / "scene.html")
    assert run(monkeypatch, "preview", room_photo, *options) == 2
    refused(capsys, "would overwrite")
    assert depth.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [("generate", "."), ("generate", "/"), ("preview", "."), ("reconstruct", "/"), ("evaluate", "depth", "-o", ".")],
    ids=" ".join,
)
def test_a_folder_in_place_of_a_file_is_one_sentence(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    model = ("--model", "warp") if arguments[0] in ("generate", "preview") else ()
    assert run(monkeypatch, *arguments, *model) == 2
    refused(capsys, f"{arguments[-1]}: ")
    assert not list(tmp_path.iterdir())


def test_names_in_brackets_are_shown_as_they_are(monkeypatch, capsys, made, tmp_path):
    world = World(made).save(tmp_path / "w[final]")
    assert run(monkeypatch, "info", world.folder) == 0
    assert "w[final]: world of" in capsys.readouterr().out.replace("\n", "")
    with progress(quiet=False) as on_progress:
        on_progress("a[red].jpg", 1.0)
    assert "a[red].jpg" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise")
def test_stopping_by_hand_says_how_to_go_on(room_photo, tmp_path):
    command = [sys.executable, "-m", "worldstereo", "generate", str(room_photo), "--out", str(tmp_path / "w")]
    process = subprocess.Popen([*command, *map(str, SMALL)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "w" / "world.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in said


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def bad_camera(change: str) -> str:
    extrinsic, intrinsic = [np.eye(4).tolist()] * 2, [[[200, 0, 144], [0, 200, 96], [0, 0, 1]]] * 2
    if change == "rotation":
        extrinsic = [np.diag([2.0, 1, 1, 1]).tolist()] * 2
    if change == "lengths":
        intrinsic = intrinsic[:1]
    return json.dumps({"extrinsic": extrinsic, "intrinsic": intrinsic, "width": 288, "height": 192})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.jpg", b"hello, this is no picture", "text.jpg"),
        ("cut.png", png((300, 200))[:60], "cut.png"),
        ("dot.png", png((1, 1)), "1×1"),
        ("wide.png", png((20_001, 80), "1"), "20001×80"),
    ],
)
def test_a_bad_picture_is_one_sentence(monkeypatch, capsys, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert run(monkeypatch, "generate", tmp_path / name, "--out", tmp_path / "w", *SMALL) == 2
    refused(capsys, said)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preset", "papre"), "paper"),
        (("-t", "orbit-rihgt:30"), "orbit-right"),
        (("-t", "dolly-in:1m"), "metric"),
        (("-t", "pan-left:5", "--preset", "paper"), "one of them"),
        (("--model", "sora"), "sora"),
        (("--depth", "magic"), "magic"),
        (("--depth", "missing.npy"), "missing.npy"),
        (("--depth", "{dir}/small.npy"), "small.npy"),
        (("--depth", "{dir}/nan.npy"), "nan.npy"),
        (("--camera", "{dir}/rotation.json"), "rotation"),
        (("--camera", "{dir}/lengths.json"), "lengths.json"),
        (("--projection", "equirectangular"), "twice as wide"),
        (("--frames", "1"), "--frames"),
        (("--short-side", "97"), "--short-side"),
        (("--out", "{dir}/small.npy"), "small.npy"),
    ],
)
def test_a_bad_option_is_one_sentence(monkeypatch, capsys, room_photo, tmp_path, options, said):
    np.save(tmp_path / "small.npy", np.ones((20, 90), np.float32))
    np.save(tmp_path / "nan.npy", np.full((192, 288), np.nan, np.float32))
    for change in ("rotation", "lengths"):
        (tmp_path / f"{change}.json").write_text(bad_camera(change))
    before = sorted(tmp_path.iterdir())
    options = tuple(option.format(dir=tmp_path) for option in options)
    assert run(monkeypatch, "generate", room_photo, "--out", tmp_path / "w", *SMALL, *options) == 2
    refused(capsys, said)
    assert sorted(tmp_path.iterdir()) == before


def test_the_world_of_another_picture_is_not_overwritten(monkeypatch, capsys, made, tmp_path):
    other = tmp_path / "other.png"
    Image.effect_noise((288, 192), 60).convert("RGB").save(other)
    before = (made / "world.json").read_bytes()
    assert run(monkeypatch, "generate", other, "--out", made, *SMALL) == 2
    refused(capsys, "another picture")
    assert (made / "world.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["extend", "export", "info"])
def test_what_is_no_world_is_named(monkeypatch, capsys, tmp_path, verb):
    options = {"extend": ("-t", "pan-left:4"), "export": ("-f", "ply", "-o", tmp_path / "x.ply"), "info": ()}[verb]
    assert run(monkeypatch, verb, tmp_path, *options) == 2
    refused(capsys, "not a world folder")


def refused(capsys: pytest.CaptureFixture[str], said: str) -> None:
    """One sentence that says `said`, and no traceback."""
    stderr = capsys.readouterr().err.strip()
    assert said in stderr, stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 1, stderr


@pytest.mark.parametrize("verb", ["generate", "preview"])
@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_one_sentence(room_photo, tmp_path, verb, device):
    failed = run_command(verb, room_photo, "--out", tmp_path / "w.html", "--device", device)
    assert failed.returncode == 2
    assert f"--device {device}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "w").exists()
