"""Captures in the layouts of their owners, each written here as its documentation says, from one exact scene."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from box_room import look, see_room
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_colmap_binary
from worldstereo.cameras.rotations import quaternion_from_matrix
from worldstereo.data.captures import Capture, find_captures, read_capture
from worldstereo.errors import InputError
from worldstereo.evaluation.surfaces import capture_surface
from worldstereo.exporters.ply import write_ply
from worldstereo.files import write_json
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.images import save_png

COUNT = 4


def path(width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> Cameras:
    """Cameras that go aside and turn, with these intrinsics (pixel centres at +0.5)."""
    poses = Cameras.cat([look(0.2 * k, 3.0 * k, width, height) for k in range(COUNT)])
    k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return Cameras(poses.cam_from_world, k.expand(COUNT, 3, 3).clone(), width, height)


def depth_png(file: Path, depth: torch.Tensor, per_unit: float) -> None:
    Image.fromarray((depth * per_unit).round().numpy().astype(np.uint16)).save(file)


def same_cameras(found: Cameras, true: Cameras, tolerance: float = 1e-4) -> None:
    assert (found.width, found.height) == (true.width, true.height)
    assert torch.allclose(found.cam_from_world, true.cam_from_world, atol=tolerance)
    assert torch.allclose(found.intrinsics, true.intrinsics, rtol=tolerance, atol=0.01)


def on_the_room(points: torch.Tensor, tolerance: float) -> None:
    """The points lie on the walls of the room or on the box in it."""
    walls = [
        (points[:, axis] - place).abs()
        for axis, places in enumerate(((-3, 3), (-1.5, 1.5), (-2, 5)))
        for place in places
    ]
    low, high = torch.tensor([-0.6, 0.2, 2.0]), torch.tensor([0.5, 1.5, 3.0])
    box = torch.maximum(low - points, points - high).amax(dim=1).abs()
    distance = torch.stack([*walls, box]).amin(dim=0)
    assert float(distance.quantile(0.98)) < tolerance


# 7-Scenes


def write_seven_scenes(folder: Path) -> Cameras:
    cameras = path(160, 120, 585 / 4, 585 / 4, 80.0, 60.0)
    pictures, depth = see_room(cameras)
    for k in range(COUNT):
        name = f"frame-{k:06d}"
        save_png(folder / f"{name}.color.png", pictures[k])
        holed = depth[k].clone()
        holed[:5] = 65.535  # 65535, unknown
        depth_png(folder / f"{name}.depth.png", holed, 1000)
        np.savetxt(folder / f"{name}.pose.txt", cameras.world_from_cam[k].numpy(), delimiter="\t")
    return cameras


def test_seven_scenes(tmp_path):
    cameras = write_seven_scenes(tmp_path / "chess" / "seq-01")
    capture = find_captures(tmp_path)["chess/seq-01"]
    assert capture.layout == "7-Scenes"
    same_cameras(capture.video.cameras, cameras)
    loaded = capture.video.load([1], 160, 120)
    assert bool((loaded.depth[0, :5] == 0).all())
    assert torch.allclose(loaded.depth[0, 5:], see_room(cameras[1])[1][0, 5:], atol=1e-3)
    on_the_room(capture_surface(capture).points, 0.01)


def test_lost_poses_of_seven_scenes_are_left_out(tmp_path):
    write_seven_scenes(tmp_path / "seq-01")
    (tmp_path / "seq-01" / "frame-000002.pose.txt").write_text("nan " * 16)
    assert len(read_capture(tmp_path / "seq-01").video) == COUNT - 1
    (tmp_path / "seq-01" / "frame-000001.depth.png").unlink()
    with pytest.raises(InputError, match=r"frame-000001\.depth\.png: no such file"):
        read_capture(tmp_path / "seq-01")


# TUM RGB-D


def write_tum(folder: Path) -> Cameras:
    """Intrinsics of freiburg1, whose numbers count from the middle of the first pixel."""
    cameras = path(640, 480, 517.3, 516.5, 319.1, 255.8)
    pictures, depth = see_room(cameras)
    lines = {"rgb": ["# color images"], "depth": ["# depth maps"], "groundtruth": ["# timestamp tx ty tz qx qy qz qw"]}
    quaternions = quaternion_from_matrix(cameras.world_from_cam[:, :3, :3])
    for k in range(COUNT):
        stamp = 1305031452.0 + 0.1 * k
        save_png(folder / "rgb" / f"{stamp:.6f}.png", pictures[k])
        lines["rgb"].append(f"{stamp:.6f} rgb/{stamp:.6f}.png")
        (folder / "depth").mkdir(exist_ok=True)
        depth_png(folder / "depth" / f"{stamp + 0.011:.6f}.png", depth[k], 5000)
        lines["depth"].append(f"{stamp + 0.011:.6f} depth/{stamp + 0.011:.6f}.png")
        w, x, y, z = quaternions[k].tolist()
        tx, ty, tz = cameras.centers[k].tolist()
        lines["groundtruth"].append(f"{stamp - 0.008:.4f} {tx} {ty} {tz} {x} {y} {z} {w}")
    lines["rgb"].append(f"{1305031453.9:.6f} rgb/nobody-has-depth.png")
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return cameras


def test_tum_rgbd(tmp_path):
    folder = tmp_path / "rgbd_dataset_freiburg1_desk"
    cameras = write_tum(folder)
    capture = read_capture(folder)
    assert capture.layout == "TUM RGB-D"
    assert len(capture.video) == COUNT  # the picture without depth is left out
    same_cameras(capture.video.cameras, cameras)
    loaded = capture.video.load([2], 640, 480)
    assert torch.allclose(loaded.depth[0], see_room(cameras[2])[1][0], atol=2e-4)
    on_the_room(capture_surface(capture).points, 0.02)
    (folder / "depth.txt").write_text("1305031452.0 depth/x.png\nhello\n")
    with pytest.raises(InputError, match=r"depth\.txt: line 2 must have 2 entries"):
        read_capture(folder)


# Tanks and Temples


def write_tanks_and_temples(folder: Path) -> Cameras:
    """Poses are in another frame than the scan, as of a COLMAP run; the transform leads to the scan's."""
    focal = 160 * 21 / 35
    cameras = path(160, 90, focal, focal, 80.0, 45.0)
    pictures, depth = see_room(cameras)
    turn = look(0.0, 40.0).cam_from_world[0, :3, :3]
    scale, shift = 2.5, torch.tensor([1.0, -2.0, 0.5])
    there = cameras.transformed(turn.T, -(turn.T @ shift) / scale, 1 / scale)
    log = []
    for k in range(COUNT):
        save_png(folder / f"{k + 1:06d}.png", pictures[k])
        log.append(f"{k} {k} 0")
        log += [" ".join(f"{v:.9g}" for v in row) for row in there.world_from_cam[k].tolist()]
    (folder / f"{folder.name}_COLMAP_SfM.log").write_text("\n".join(log) + "\n")
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * turn, shift
    np.savetxt(folder / f"{folder.name}_trans.txt", matrix.numpy())
    points = cameras.unproject(depth).view(-1, 3)[::7]
    write_ply(folder / f"{folder.name}.ply", PointCloud(points, torch.full_like(points, 0.5)))
    return cameras


def test_tanks_and_temples(tmp_path):
    cameras = write_tanks_and_temples(tmp_path / "Ignatius")
    capture = find_captures(tmp_path)["Ignatius"]
    assert capture.layout == "Tanks and Temples"
    assert capture.is_dense
    same_cameras(capture.video.cameras, cameras)
    surface = capture_surface(capture)
    assert surface.is_dense
    on_the_room(surface.points, 1e-3)


def test_tanks_and_temples_without_its_transform(tmp_path):
    write_tanks_and_temples(tmp_path / "Ignatius")
    (tmp_path / "Ignatius" / "Ignatius_trans.txt").unlink()
    with pytest.raises(InputError, match="Ignatius_trans"):
        read_capture(tmp_path / "Ignatius")
    (tmp_path / "Ignatius" / "000001.png").unlink()
    with pytest.raises(InputError, match="has 4 poses but there are 3 pictures"):
        read_capture(tmp_path / "Ignatius")


# DTU


def write_dtu(root: Path) -> Cameras:
    """Projections of 1600×1200 that count from the middle of the first pixel, pictures at a tenth of that."""
    cameras = path(160, 120, 289.2, 288.1, 82.3, 61.9)
    pictures, depth = see_room(cameras)
    (root / "Calibration" / "cal18").mkdir(parents=True)
    to_full = np.diag([10.0, 10.0, 1.0])
    to_middle = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    for k in range(COUNT):
        save_png(root / "Rectified" / "scan9" / f"rect_{k + 1:03d}_max.png", pictures[k])
        save_png(root / "Rectified" / "scan9" / f"rect_{k + 1:03d}_3_r5000.png", 0.5 * pictures[k])
        intrinsics = to_middle @ to_full @ cameras.intrinsics[k].double().numpy()
        projection = 3.0 * intrinsics @ cameras.cam_from_world[k, :3].double().numpy()  # any scale says the same
        np.savetxt(root / "Calibration" / "cal18" / f"pos_{k + 1:03d}.txt", projection)
    points = cameras.unproject(depth).view(-1, 3)[::7]
    (root / "Points" / "stl").mkdir(parents=True)
    write_ply(root / "Points" / "stl" / "stl009_total.ply", PointCloud(points, torch.full_like(points, 0.5)))
    return cameras


def test_dtu(tmp_path):
    cameras = write_dtu(tmp_path / "SampleSet")
    capture = find_captures(tmp_path / "SampleSet")["Rectified/scan9"]
    assert capture.layout == "DTU"
    assert {picture.name for picture in capture.video.pictures} == {f"rect_{k + 1:03d}_max.png" for k in range(COUNT)}
    same_cameras(capture.video.cameras, cameras)
    on_the_room(capture_surface(capture).points, 1e-3)
    (tmp_path / "SampleSet" / "Calibration" / "cal18" / "pos_002.txt").write_text("1 2 three")
    with pytest.raises(InputError, match=r"pos_002\.txt: must hold numbers"):
        read_capture(tmp_path / "SampleSet" / "Rectified" / "scan9")


# COLMAP, as MipNeRF360 comes


def write_mip_nerf_360(folder: Path) -> Cameras:
    cameras = path(160, 100, 130.0, 130.0, 80.0, 50.0)
    pictures, depth = see_room(cameras)
    names = [f"DSC0{7956 + k}.png" for k in range(COUNT)]
    for name, picture in zip(names, pictures, strict=True):
        save_png(folder / "images" / name, picture)
        save_png(folder / "images_2" / name, picture)
    write_colmap_binary(folder / "sparse" / "0", cameras, names, cameras.unproject(depth).view(-1, 3)[::97])
    np.save(folder / "poses_bounds.npy", np.zeros((COUNT, 17)))
    return cameras


def test_mip_nerf_360(tmp_path):
    cameras = write_mip_nerf_360(tmp_path / "360_v2" / "garden")
    capture = find_captures(tmp_path)["360_v2/garden"]
    assert capture.layout == "COLMAP"
    same_cameras(capture.video.cameras, cameras)
    surface = capture_surface(capture)
    assert not surface.is_dense
    on_the_room(surface.points, 1e-3)


# All


def test_our_own_layout_and_several_at_once(tmp_path):
    write_seven_scenes(tmp_path / "chess" / "seq-01")
    write_dtu(tmp_path / "dtu")
    cameras = path(160, 120, 150.0, 150.0, 80.0, 60.0)
    pictures, depth = see_room(cameras)
    frames = []
    for k in range(COUNT):
        save_png(tmp_path / "own" / f"{k}.png", pictures[k])
        pose = {"K": cameras.intrinsics[k].tolist(), "w2c": cameras.cam_from_world[k].tolist()}
        frames.append({"image": f"{k}.png", "width": 160, "height": 120, **pose})
    write_json(tmp_path / "own" / "cameras.json", {"convention": "opencv-w2c", "frames": frames})
    np.savez(tmp_path / "own" / "points.npz", xyz=cameras.unproject(depth).view(-1, 3)[::50].numpy())
    found = find_captures(tmp_path)
    assert {place: capture.layout for place, capture in found.items()} == {
        "chess/seq-01": "7-Scenes",
        "dtu/Rectified/scan9": "DTU",
        "own": "posed pictures",
    }
    assert isinstance(found["own"], Capture)
    on_the_room(capture_surface(found["own"]).points, 1e-3)


@pytest.mark.parametrize(
    ("here", "name"), [("Rectified/scan9", "."), ("Rectified", "scan9"), ("Calibration", "../Rectified")]
)
def test_a_capture_is_known_however_it_is_named(tmp_path, monkeypatch, here, name):
    write_dtu(tmp_path)
    monkeypatch.chdir(tmp_path / here)
    (capture,) = find_captures(name).values()
    assert capture.layout == "DTU"
    assert capture.is_dense
    assert capture.points.is_file()


def test_the_calibration_goes_by_the_folder_s_name_from_within_it(tmp_path, monkeypatch):
    folder = tmp_path / "rgbd_dataset_freiburg1_desk"
    cameras = write_tum(folder)
    monkeypatch.chdir(folder)
    same_cameras(read_capture(".").video.cameras, cameras)


def test_what_is_no_capture_is_said(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_captures(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no posed captures"):
        find_captures(tmp_path)
    with pytest.raises(InputError, match="is no capture of a known layout"):
        read_capture(tmp_path)
