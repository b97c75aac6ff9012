"""Facts about the points of COLMAP models and who sees them: bytes by hand, pycolmap, tracks, damaged files."""

import importlib.util
import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import (
    Observations,
    read_cameras,
    read_colmap_points,
    write_colmap_binary,
    write_colmap_text,
)
from worldstereo.errors import InputError
from worldstereo.exporters.colmap import observe, read_colmap_cloud
from worldstereo.geometry.point_cloud import PointCloud

WRITERS = {"binary": write_colmap_binary, "text": write_colmap_text}


def three_cameras() -> Cameras:
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([-0.2, 0.0, 0.2])
    return Cameras.from_fov(70.0, 64, 48).with_poses(poses)


def cloud(count: int = 500) -> PointCloud:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 1.5, 1.0]) - torch.tensor([1.0, 0.75, -2.0])
    return PointCloud(points, torch.randint(0, 256, (count, 3), generator=generator) / 255)


NAMES = ["a.png", "b.png", "sub/c.png"]
SEEN = Observations(
    torch.tensor([2, 0, 0, 1]),
    torch.tensor([1, 1, 3, 3]),
    torch.tensor([[5.5, 6.0], [1.0, 2.0], [3.0, 4.0], [7.0, 8.0]]),
)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("observations", [None, SEEN])
def test_points_come_back_and_cameras_are_read_past_the_observations(tmp_path, kind, observations):
    points = cloud()
    WRITERS[kind](tmp_path, three_cameras(), NAMES, points.points, points.colors, observations)
    back = read_colmap_points(tmp_path)
    torch.testing.assert_close(back.points, points.points, atol=0, rtol=1e-7)
    assert torch.equal(back.colors, points.colors)
    expected = torch.zeros(500, dtype=torch.int64)
    if observations is not None:
        expected[1] = expected[3] = 2
    assert torch.equal(back.track_lengths, expected)
    read = read_cameras(tmp_path)
    assert list(read.names) == NAMES
    torch.testing.assert_close(read.cameras.cam_from_world, three_cameras().cam_from_world)
    assert torch.equal(read_colmap_cloud(tmp_path).points, back.points)


def test_tracks_have_the_bytes_that_the_format_describes(tmp_path):
    points = cloud(5)
    write_colmap_binary(tmp_path / "b", three_cameras(), NAMES, points.points, points.colors, SEEN)
    content = (tmp_path / "b" / "points3D.bin").read_bytes()
    assert len(content) == 8 + 5 * 51 + 4 * 8
    second = 8 + 51  # the second point: number 2, seen by image 1 first in its list, and by image 3
    assert struct.unpack_from("<Q3d3BdQ4I", content, second)[0] == 2
    assert struct.unpack_from("<Q4I", content, second + 43) == (2, 1, 0, 3, 0)
    fourth = second + 51 + 16 + 51
    assert struct.unpack_from("<Q4I", content, fourth + 43) == (2, 1, 1, 2, 0)
    images = (tmp_path / "b" / "images.bin").read_bytes()
    first = 8 + struct.calcsize("<I7dI") + len("a.png") + 1
    assert struct.unpack_from("<QddQddQ", images, first) == (2, 1.0, 2.0, 2, 3.0, 4.0, 4)
    write_colmap_text(tmp_path / "t", three_cameras(), NAMES, points.points, points.colors, SEEN)
    lines = (tmp_path / "t" / "images.txt").read_text().splitlines()
    assert lines[3] == "1 2 2 3 4 4"
    lines = (tmp_path / "t" / "points3D.txt").read_text().splitlines()
    assert lines[3].endswith(" 0 1 0 3 0")


def test_points_of_other_programs(tmp_path):
    """Numbers in any order, comments, errors, tracks."""
    (tmp_path / "points3D.txt").write_text(
        "# POINT3D_ID ...\n\n63390 1.67 0.01 -2.5 115 121 122 1.33 16 6542 15 7345 6 6714\n3 1e-1 2 3 0 0 255 -1\n"
    )
    back = read_colmap_points(tmp_path)
    torch.testing.assert_close(back.points, torch.tensor([[1.67, 0.01, -2.5], [0.1, 2, 3]]))
    assert back.track_lengths.tolist() == [3, 0]
    assert (back.colors[0] * 255).tolist() == [115, 121, 122]


def test_a_point_is_seen_where_nothing_hides_it():
    """A wall at z = 4 with a smaller board at z = 2 before it: of the wall, cameras see what the board leaves free."""
    x, y = torch.meshgrid(torch.linspace(-3, 3, 400), torch.linspace(-2.2, 2.2, 300), indexing="ij")
    wall = torch.stack([x, y, torch.full_like(x, 4.0)], dim=-1).reshape(-1, 3)
    x, y = torch.meshgrid(torch.linspace(-0.5, 0.5, 120), torch.linspace(-0.4, 0.4, 100), indexing="ij")
    board = torch.stack([x, y, torch.full_like(x, 2.0)], dim=-1).reshape(-1, 3)
    points = torch.cat([wall, board])
    cameras = three_cameras()
    seen = observe(PointCloud(points, torch.zeros_like(points)), cameras, limit=30_000)
    assert 5_000 < len(seen.point.unique()) <= 30_000
    pixels, _ = cameras.project(points)
    torch.testing.assert_close(seen.pixels, pixels[seen.image, seen.point])
    # The line from camera to wall point crosses z = 2 half way.
    crossing = (cameras.centers[seen.image] + points[seen.point]) / 2
    behind = (crossing[:, 0].abs() < 0.45) & (crossing[:, 1].abs() < 0.35) & (points[seen.point, 2] == 4)
    assert not bool(behind.any())
    free = (points[:, 2] == 4) & ((points[:, 0].abs() > 1.5) | (points[:, 1].abs() > 1.2))
    inside = ((pixels > 2) & (pixels < torch.tensor([62.0, 46.0]))).all(dim=2).sum(dim=0) >= 2
    followed = torch.arange(len(points)) % (-(-len(points) // 30_000)) == 0
    expected = (free & inside & followed).nonzero()[:, 0]
    assert torch.isin(expected, seen.point).float().mean() > 0.99
    assert int(torch.bincount(seen.point)[seen.point].min()) >= 2


PYCOLMAP = """
import json, sys, zlib
import pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
error = model.compute_mean_reprojection_error()
points = sorted(model.points3D.items())
out = {
    "images": sorted(image.name for image in model.images.values()),
    "points": [list(map(float, p.xyz)) for _, p in points],
    "colors": [list(map(int, p.color)) for _, p in points],
    "lengths": [p.track.length() for _, p in points],
    "seen": {image.name: image.num_points3D for image in model.images.values()},
    "error": error,
}
print(json.dumps(out))
"""


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed")
@pytest.mark.parametrize("kind", WRITERS)
def test_pycolmap_reads_points_and_tracks(tmp_path, kind):
    points = cloud()
    seen = observe(points, three_cameras())
    WRITERS[kind](tmp_path, three_cameras(), NAMES, points.points, points.colors, seen)
    done = subprocess.run([sys.executable, "-c", PYCOLMAP, tmp_path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["images"] == NAMES
    torch.testing.assert_close(torch.tensor(found["points"]), points.points, atol=1e-6, rtol=1e-6)
    assert found["colors"] == (points.colors * 255).round().int().tolist()
    assert found["lengths"] == torch.bincount(seen.point, minlength=500).tolist()
    assert found["seen"] == {name: int((seen.image == i).sum()) for i, name in enumerate(NAMES)}
    assert sum(found["lengths"]) > 300


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("points3D.bin", b"", "too short"),
        ("points3D.bin", struct.pack("<Q", 10**12), "says 1000000000000 points"),
        ("points3D.bin", struct.pack("<Q", 1) + bytes(50), "too short"),
        ("points3D.bin", struct.pack("<Q", 1) + bytes(43) + struct.pack("<Q", 2**60), "within a track"),
        ("points3D.bin", struct.pack("<QQ3d3BdQ", 1, 1, float("nan"), *[0] * 7), "point 0 .* not finite"),
        ("points3D.txt", b"1 2 3\n", "line 1 must be"),
        ("points3D.txt", b"# a\n1 2 3 x 0 0 0 0\n", "line 2 .* no number"),
        ("points3D.txt", b"1 2 3 4 0 0 256 0\n", "colour outside"),
        ("points3D.txt", b"1 2 3 4 nan 0 0 0\n", "colour outside"),
        ("points3D.txt", b"1 2 3 inf 0 0 0 0\n", "not finite"),
        ("points3D.txt", b"\xff\xfe\x00", "UTF-8"),
        ("other.txt", b"", "no points3D"),
    ],
)  # fmt: skip
def test_bad_points(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as caught:
        read_colmap_points(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert str(tmp_path) in str(caught.value)


def test_observations_of_points_that_are_not_there_are_refused(tmp_path: Path):
    points = cloud(3)
    with pytest.raises(InputError, match="names point 3 of 3"):
        write_colmap_binary(tmp_path, three_cameras(), NAMES, points.points, points.colors, SEEN)
    with pytest.raises(InputError, match="names image 2 of 2"):
        write_colmap_binary(tmp_path, three_cameras()[:2], NAMES[:2], cloud(5).points, None, SEEN)
