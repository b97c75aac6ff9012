"""Facts about exported worlds: every format, read by others, puts the same scene before the same cameras."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from test_cli import refused, run
from test_splat_files import accessor_values
from test_world import SMALL, FlatDepth
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_official
from worldstereo.errors import InputError
from worldstereo.exporters.export import FORMATS, export_world
from worldstereo.exporters.glb import read_glb
from worldstereo.exporters.gltf_splats import read_gltf_splats
from worldstereo.exporters.ply import read_ply_with_normals
from worldstereo.exporters.splat_ply import read_splat_ply
from worldstereo.exporters.spz import read_spz
from worldstereo.exporters.world import finish, finish_once
from worldstereo.exporters.world_parts import fused_cloud, mesh_of, outdated
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import WorldPipeline
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.posed_frames import PosedFrames

TOLERANCE = 0.1  # pixels


@pytest.fixture(scope="module")
def bare(room_photo: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of two clips without a reconstruction."""
    folder = tmp_path_factory.mktemp("export") / "w"
    return WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, folder, SMALL)


@pytest.fixture(scope="module")
def world(bare: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with a cloud, splats and a mesh, whose points, means and vertices are those of the memory's cloud."""
    made = bare.save(tmp_path_factory.mktemp("export") / "reconstructed")
    cloud = made.point_cloud
    count = len(cloud)
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    folder = ReconstructionFolder(made.folder / "reconstruction")
    folder.begin(PosedFrames.of_world(made).names, ())
    folder.prepare("cloud", {})
    folder.write_cloud(FusedCloud(cloud.points, cloud.colors, normals, torch.ones(count)), cloud[:0])
    folder.finish("cloud", {})
    folder.write_mesh(TriangleMesh(cloud.points, torch.arange(count - count % 3).reshape(-1, 3), cloud.colors))
    splats = GaussianSplats(
        means=cloud.points,
        scales=torch.rand(count, 3, generator=generator) * 0.05 + 0.01,
        rotations=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        opacities=torch.rand(count, generator=generator) * 0.9 + 0.05,
        colors=cloud.colors,
    )
    folder.write_splats(splats)
    return made


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The world in every format."""
    suffixes = {
        "ply": ".ply",
        "splat-ply": ".ply",
        "spz": ".spz",
        "glb": ".glb",
        "gltf-splats": ".glb",
        "cameras": ".json",
    }
    folder = tmp_path_factory.mktemp("formats")
    paths = {name: folder / f"{name}{suffixes.get(name, '')}" for name in FORMATS}
    for name, path in paths.items():
        export_world(world, name, path)
    return paths


@pytest.fixture(scope="module")
def truth(world: World) -> tuple[torch.Tensor, torch.Tensor, Cameras]:
    """Pixels [f, p, 2] of the cloud in all frames, z-depths [f, p], and the cameras."""
    cameras = Cameras.cat([clip.cameras for clip in world.clips])
    return *cameras.project(world.point_cloud.points), cameras


def assert_agree(pixels: np.ndarray, truth: tuple[torch.Tensor, torch.Tensor, Cameras]) -> None:
    """All pixels [f, p, 2] of points that a frame can see are where they ought to be."""
    expected, depths, cameras = truth
    margin = torch.tensor([cameras.width, cameras.height])
    visible = (depths > 0.1) & ((expected > -margin) & (expected < 2 * margin)).all(dim=2)
    assert visible.float().mean() > 0.5
    error = np.linalg.norm(np.asarray(pixels) - expected.numpy(), axis=2)[visible.numpy()]
    assert error.max() < TOLERANCE


def pinhole(camera_points: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    x, y, z = camera_points
    return np.stack([fx * x / z + cx, fy * y / z + cy], axis=1)


def colmap_text(folder: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], np.ndarray]:
    """Name → rotation, translation, parameters; and the points: by the letter of COLMAP's documentation."""

    def table(name: str) -> list[list[str]]:
        return [line.split() for line in (folder / name).read_text().splitlines() if not line.startswith("#")]

    lenses = {row[0]: np.array(row[4:], float) for row in table("cameras.txt")}
    images = {}
    for row in table("images.txt")[::2]:
        w, x, y, z = map(float, row[1:5])
        rotation = np.array(
            [
                [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
            ]
        )
        images[row[9]] = (rotation, np.array(row[5:8], float), lenses[row[8]])
    return images, np.array([row[1:4] for row in table("points3D.txt")], float)


def through_colmap(exported: dict[str, Path], points: np.ndarray) -> np.ndarray:
    images, _ = colmap_text(exported["colmap-text"] / "sparse" / "0")
    return np.stack([pinhole(r @ points.T + t[:, None], *k) for r, t, k in images.values()])


def test_colmap_text_read_by_hand(exported, truth):
    images, points = colmap_text(exported["colmap-text"] / "sparse" / "0")
    assert sorted(images) == sorted(path.name for path in (exported["colmap-text"] / "images").iterdir())
    assert_agree(through_colmap(exported, points), truth)


PYCOLMAP = """
import sys, zlib
import numpy as np
import pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
points = np.array([p.xyz for _, p in sorted(model.points3D.items())])
pixels = []
for image in sorted(model.images.values(), key=lambda image: image.name):
    local = points @ image.cam_from_world().rotation.matrix().T + image.cam_from_world().translation
    pixels.append(model.cameras[image.camera_id].img_from_cam(local))
model.update_point_3d_errors()
errors = [p.error for p in model.points3D.values() if p.track.length()]
np.savez(sys.argv[2], pixels=np.stack(pixels), errors=errors)
"""


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed")
def test_colmap_binary_read_by_pycolmap(exported, truth, tmp_path):
    out = tmp_path / "pixels.npz"
    command = [sys.executable, "-c", PYCOLMAP, exported["colmap"] / "sparse" / "0", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    assert_agree(found["pixels"], truth)
    assert len(found["errors"]) > 1000
    assert found["errors"].max() < TOLERANCE


def test_tracks_lie_on_pixels_of_the_points_colour(world, exported):
    """What COLMAP is told of the frames is in the frames: shifted by a few pixels it would not fit so well."""
    folder = exported["colmap-text"]
    lines = (folder / "sparse" / "0" / "images.txt").read_text().splitlines()[2:]
    colors = world.point_cloud.colors
    errors = {0: [], 6: []}
    for head, body in zip(lines[::2], lines[1::2], strict=True):
        picture = torch.from_numpy(np.array(Image.open(folder / "images" / head.split()[9]))).float() / 255
        seen = torch.tensor(np.array(body.split(), float).reshape(-1, 3))
        for shift, found in errors.items():
            column, row = (seen[:, 0] + shift).long().clamp(max=picture.shape[1] - 1), seen[:, 1].long()
            found.append((picture[row, column] - colors[seen[:, 2].long() - 1]).abs().mean(dim=1))
    here, shifted = (float(torch.cat(found).mean()) for found in errors.values())
    assert here < 0.04
    assert shifted > 1.5 * here


def test_transforms_json_in_the_conventions_of_nerfstudio(exported, truth):
    """Camera-to-world with OpenGL axes: the camera looks along its −z, its y is up; the cloud lies in that world."""
    trimesh = pytest.importorskip("trimesh")
    folder = exported["transforms"]
    value = json.loads((folder / "transforms.json").read_text())
    points = np.asarray(trimesh.load(folder / value["ply_file_path"]).vertices)
    pixels = []
    for frame in value["frames"]:
        assert (folder / frame["file_path"]).is_file()
        x, y, z, _ = np.linalg.inv(frame["transform_matrix"]) @ np.column_stack([points, np.ones(len(points))]).T
        pixels.append(pinhole(np.stack([x, -y, -z]), *(frame[name] for name in ("fl_x", "fl_y", "cx", "cy"))))
    assert_agree(np.stack(pixels), truth)


def test_official_camera_files(world, exported, truth):
    points = np.column_stack([world.point_cloud.points.numpy(), np.ones(len(world.point_cloud))])

    def pixels(path: Path) -> list[np.ndarray]:
        value = json.loads(path.read_text())
        local = [(np.array(pose) @ points.T)[:3] for pose in value["extrinsic"]]
        return [pinhole(x, k[0][0], k[1][1], k[0][2], k[1][2]) for x, k in zip(local, value["intrinsic"], strict=True)]

    assert_agree(np.stack(pixels(exported["cameras"])), truth)
    renders = exported["official"] / "renders"
    scenes = [pixels(renders / f"traj_{clip.name}" / "camera.json") for clip in world.clips]
    assert_agree(np.stack([frame for scene in scenes for frame in scene]), truth)
    names = json.loads(exported["cameras"].read_text())["image_names"]
    assert all((world.folder / name).is_file() for name in names)


def test_world_mirror_finds_a_prior_for_every_picture_and_we_its_results(world, exported, truth):
    """It sorts pictures by file name, matches priors by stem, or drops them all, and numbers results in that order."""
    folder = exported["world-mirror"]
    files = sorted((folder / "images").iterdir())
    value = json.loads((folder / "cameras.json").read_text())
    poses = {entry["camera_id"]: np.linalg.inv(entry["matrix"]) for entry in value["extrinsics"]}
    lenses = {entry["camera_id"]: entry["matrix"] for entry in value["intrinsics"]}
    assert set(poses) == set(lenses) == {file.stem for file in files}
    assert value["num_cameras"] == len(files) == 1 + sum(len(clip.cameras) for clip in world.clips)
    assert {Image.open(file).size for file in files} == {(world.manifest.width, world.manifest.height)}
    numbers = json.loads((folder / "name_map.json").read_text())
    points = np.column_stack([world.point_cloud.points.numpy(), np.ones(len(world.point_cloud))])
    pixels = []
    for clip in world.clips:
        for frame in sorted((clip.folder / "frames").iterdir()):
            shown = files[int(numbers[f"{clip.name}/{frame.stem}"])]
            assert shown.read_bytes() == frame.read_bytes()
            k = lenses[shown.stem]
            pixels.append(pinhole((poses[shown.stem] @ points.T)[:3], k[0][0], k[1][1], k[0][2], k[1][2]))
    assert_agree(np.stack(pixels), truth)
    taken = np.asarray(Image.open(files[int(numbers["input"])])) / 255
    assert np.abs(taken - world.frame("input").permute(1, 2, 0).numpy()).max() < 0.003


def glb_points(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions back in OpenCV axes (x, −y, −z) and the attributes, by the letter of the glTF specification."""
    content = path.read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    document, binary = json.loads(content[20 : 20 + size]), content[28 + size :]
    named = document["meshes"][0]["primitives"][0]["attributes"]
    values = {name.split(":")[-1]: accessor_values(document, binary, index) for name, index in named.items()}
    return values["POSITION"] * [1, -1, -1], values


def test_splats_and_mesh_lie_on_the_cloud_in_the_readers_of_others(exported, truth):
    gsply, trimesh = pytest.importorskip("gsply"), pytest.importorskip("trimesh")
    from gsply.spz import read_spz as read_spz_by_gsply

    mesh = trimesh.load_scene(exported["glb"], process=False).to_geometry()
    places = {
        "ply": np.asarray(trimesh.load(exported["ply"]).vertices),
        "splat-ply": np.asarray(gsply.plyread(str(exported["splat-ply"])).means),
        "spz": np.asarray(read_spz_by_gsply(str(exported["spz"])).means) * [1, -1, -1],
        "glb": np.asarray(mesh.vertices) * [1, -1, -1],
        "gltf-splats": glb_points(exported["gltf-splats"])[0],
    }
    for points in places.values():
        assert_agree(through_colmap(exported, points), truth)


def test_our_own_readers_agree_with_each_other(world, exported):
    points, colors = world.point_cloud.points, world.point_cloud.colors
    cloud, normals = read_ply_with_normals(exported["ply"])
    assert normals is not None
    mesh = read_glb(exported["glb"])
    files = [read(exported[name]).splats for name, read in
             (("splat-ply", read_splat_ply), ("spz", read_spz), ("gltf-splats", read_gltf_splats))]  # fmt: skip
    for places in (cloud.points, mesh.vertices, *(splats.means for splats in files)):
        torch.testing.assert_close(places, points, atol=1e-5, rtol=1e-5)
    for found in (cloud.colors, mesh.colors, *(splats.colors for splats in files)):
        torch.testing.assert_close(found, colors, atol=0.004, rtol=0)


def test_without_a_reconstruction_the_cloud_is_the_memorys_and_the_rest_is_refused(bare, tmp_path):
    export_world(bare, "ply", tmp_path / "cloud.ply")
    cloud, normals = read_ply_with_normals(tmp_path / "cloud.ply")
    assert torch.equal(cloud.points, bare.point_cloud.points)
    assert normals is None
    for format, what in (("splat-ply", "splats"), ("spz", "splats"), ("gltf-splats", "splats"), ("glb", "mesh")):
        with pytest.raises(InputError, match=f"has no {what} yet; run 'worldstereo reconstruct"):
            export_world(bare, format, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["cloud.ply"]


def test_nothing_is_overwritten_and_nothing_half_written(world, bare, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    for format in FORMATS:
        with pytest.raises(InputError, match="exists already; choose another"):
            export_world(world, format, tmp_path / "there")
    with pytest.raises(InputError, match="unknown; known: ply, splat-ply"):
        export_world(world, "obj", tmp_path / "x")
    monkeypatch.setattr("worldstereo.exporters.export.best_cloud", lambda world: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_world(bare, "colmap", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_command_writes_and_refuses_in_one_sentence(monkeypatch, capsys, world, bare, tmp_path):
    assert run(monkeypatch, "export", world.folder, "-f", "spz", "-o", tmp_path / "a.spz") == 0
    assert len(read_spz(tmp_path / "a.spz").splats) == len(world.point_cloud)
    assert run(monkeypatch, "export", bare.folder, "-f", "glb", "-o", tmp_path / "m.glb") == 2
    refused(capsys, "run 'worldstereo reconstruct")
    assert not (tmp_path / "m.glb").exists()


def test_a_cloud_that_lacks_a_clip_gives_way_to_the_memorys_and_the_command_says_so(
    monkeypatch, capsys, world, tmp_path
):
    old = world.save(tmp_path / "old")
    record = ReconstructionFolder(old.folder / "reconstruction")
    kept = tuple(name for name in record.names if not name.startswith(old.clips[1].name))
    record.begin(kept, ())
    assert outdated(old).startswith(f"the reconstruction was made before clip {old.clips[1].name}; run")
    assert run(monkeypatch, "export", old.folder, "-f", "ply", "-o", tmp_path / "cloud.ply") == 0
    assert f"note: the reconstruction was made before clip {old.clips[1].name}" in capsys.readouterr().out
    assert read_ply_with_normals(tmp_path / "cloud.ply")[1] is None
    record.begin((*kept, f"{old.clips[1].name}-003"), ())  # as --kept-only leaves it
    assert outdated(old) == ""
    assert fused_cloud(old) is not None
    (old.clips[1].folder / "done").unlink()
    record.begin(kept, ())
    assert outdated(old) == ""


def test_the_viewer_shows_the_points_first_where_the_splats_lack_a_clip(world, tmp_path):
    from worldstereo.cli.view import _content

    assert _content(world).kinds == ("splats", "mesh", "points")
    old = world.save(tmp_path / "old")
    ReconstructionFolder(old.folder / "reconstruction").begin(("input",), ())
    content = _content(old)
    assert content.kinds == ("points", "splats", "mesh")
    assert "was made before clips" in content.note
    assert torch.equal(content.cloud.points, old.point_cloud.points)


def test_frames_that_do_not_fit_their_cameras_are_refused_by_the_clips_name(bare, tmp_path):
    broken = bare.save(tmp_path / "broken")
    first, second = broken.clips
    (first.folder / "frames" / "003.png").rename(second.folder / "frames" / "004.png")
    for format in ("cameras", "colmap", "transforms", "world-mirror"):
        with pytest.raises(InputError, match=f"^clip {first.name}: .*003.png is missing"):
            export_world(broken, format, tmp_path / "x")
    (second.folder / "frames" / "004.png").rename(first.folder / "frames" / "003.png")
    write_official(second.folder / "cameras.json", second.cameras.resized(72, 48))
    for format in ("cameras", "colmap", "transforms", "world-mirror"):
        with pytest.raises(InputError, match=f"^clip {second.name}: its cameras are of 72×48"):
            export_world(broken, format, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_names_that_no_file_can_have_are_refused(bare, tmp_path):
    for format in ("cameras", "colmap"):
        with pytest.raises(InputError, match="cannot be written"):
            export_world(bare, format, tmp_path / ("x" * 300))


def test_damage_is_told_once(world, tmp_path):
    damaged = world.save(tmp_path / "damaged")
    (damaged.folder / "reconstruction" / "mesh.safetensors").write_bytes(b"no")
    with pytest.raises(InputError) as told:
        mesh_of(damaged)
    assert str(told.value).count("is damaged") == 1


def test_the_report_is_written_anew_after_a_reconstruction(world, tmp_path):
    seen = world.save(tmp_path / "seen")
    finish(seen)
    report, record = seen.folder / "report.html", seen.folder / "reconstruction" / "reconstruction.json"
    before = report.stat().st_mtime_ns
    finish_once(seen)
    assert report.stat().st_mtime_ns == before
    os.utime(record, ns=(before + 1, before + 1))
    finish_once(seen)
    assert report.stat().st_mtime_ns > before


def test_a_damaged_record_of_a_clip_is_named_by_the_report(bare, tmp_path):
    damaged = bare.save(tmp_path / "damaged")
    (damaged.clips[1].folder / "update.json").write_text("{}")
    with pytest.raises(InputError, match=r"update\.json: the field 'seconds' is missing; delete .*done"):
        finish(damaged)


def test_the_command_offers_every_format():
    from worldstereo.cli.export import Format

    assert [choice.value for choice in Format] == list(FORMATS)
