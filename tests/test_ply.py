"""Facts about PLY files: round trips, other programs' readers, other programs' files, damaged files."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstereo.errors import InputError
from worldstereo.exporters import ply_vertices
from worldstereo.exporters.ply import read_ply, read_ply_with_normals, write_ply
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.geometry.point_cloud import PointCloud

XYZ = "property float x\nproperty float y\nproperty float z\n"


def random_cloud(count: int, seed: int = 0) -> PointCloud:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 1e3, 1e-3])
    return PointCloud(points, torch.randint(0, 256, (count, 3), generator=generator) / 255)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 1000))
def test_round_trip_is_exact_for_8_bit_colors(tmp_path_factory, count, seed):
    path = tmp_path_factory.mktemp("ply") / "cloud.ply"
    cloud = random_cloud(count, seed)
    write_ply(path, cloud)
    back = read_ply(path)
    assert torch.equal(back.points, cloud.points)
    assert torch.equal(back.colors, cloud.colors)


def test_colors_are_rounded_and_clamped(tmp_path):
    write_ply(tmp_path / "c.ply", PointCloud(torch.zeros(3, 3), torch.tensor([[-1.0, 0.5, 2.0]] * 3)))
    assert torch.equal(read_ply(tmp_path / "c.ply").colors[0], torch.tensor([0.0, 128 / 255, 1.0]))


@pytest.mark.parametrize("block", [7, 20])
def test_blocks_change_nothing(tmp_path, monkeypatch, block):
    cloud = random_cloud(20)
    write_ply(tmp_path / "whole.ply", cloud)
    monkeypatch.setattr(ply_vertices, "BLOCK", block)
    write_ply(tmp_path / "blocks.ply", cloud)
    assert (tmp_path / "whole.ply").read_bytes() == (tmp_path / "blocks.ply").read_bytes()
    assert torch.equal(read_ply(tmp_path / "whole.ply").points, cloud.points)


def test_another_reader_agrees(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    cloud = random_cloud(100)
    for normals in (None, torch.nn.functional.normalize(torch.randn(100, 3), dim=1)):
        write_ply(tmp_path / "cloud.ply", cloud, normals)
        read = trimesh.load(tmp_path / "cloud.ply")
        np.testing.assert_array_equal(read.vertices, cloud.points.numpy())
        assert np.array_equal(read.colors[:, :3], (cloud.colors * 255).round().byte().numpy())


def test_normals_come_back_and_change_nothing_else(tmp_path):
    cloud = random_cloud(20)
    normals = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    write_ply(tmp_path / "with.ply", cloud, normals)
    write_ply(tmp_path / "without.ply", cloud)
    back, read = read_ply_with_normals(tmp_path / "with.ply")
    assert torch.equal(read, normals)
    assert torch.equal(back.points, cloud.points)
    assert torch.equal(back.colors, cloud.colors)
    assert read_ply_with_normals(tmp_path / "without.ply")[1] is None
    with pytest.raises(InputError, match="20 points but 19 normals"):
        write_ply(tmp_path / "bad.ply", cloud, normals[1:])


def test_the_header_states_the_conventions(tmp_path):
    write_ply(tmp_path / "c.ply", random_cloud(1), frame=SceneFrame(up=(0.0, 0.0, 1.0), metric=True))
    header = (tmp_path / "c.ply").read_bytes().split(b"end_header")[0]
    assert b"x right, y down, z forward" in header
    assert b"up 0 0 1" in header
    assert b"unit metre" in header


@pytest.mark.parametrize(("name", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_reads_other_types_extra_properties_and_faces(tmp_path, name, order):
    header = (
        f"ply\r\nformat {name} 1.0\r\ncomment from elsewhere\r\nelement vertex 2\r\nproperty double z\r\n"
        "property double x\r\nproperty double y\r\nproperty short label\r\nproperty ushort blue\r\n"
        "property ushort green\r\nproperty ushort red\r\nelement face 1\r\n"
        "property list uchar int vertex_indices\r\nend_header\r\n"
    )
    rows = b"".join(
        struct.pack(order + "dddhHHH", *row) for row in [(3, 1, 2, -7, 65535, 0, 13107), (6, 4, 5, 0, 0, 0, 0)]
    )
    (tmp_path / "c.ply").write_bytes(header.encode() + rows + b"\x03" + bytes(12))
    cloud = read_ply(tmp_path / "c.ply")
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert torch.allclose(cloud.colors[0], torch.tensor([0.2, 0.0, 1.0]))


def test_reads_ascii_without_colors_as_grey(tmp_path):
    (tmp_path / "c.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 2\n{XYZ}end_header\n1 2 3\n-4 5e-1 6")
    cloud = read_ply(tmp_path / "c.ply")
    assert cloud.points.tolist() == [[1, 2, 3], [-4, 0.5, 6]]
    assert cloud.colors.unique().tolist() == [0.5]


ASCII = "ply\nformat ascii 1.0\n"
BINARY = "ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY"),
        (b"\x89PNG\r\n\x1a\n", "not a PLY"),
        (b"ply\n" + b"comment " + b"x" * 100_000, "does not end"),
        (b"ply\nformat ascii 1.0\n", "does not end"),
        (f"{ASCII}element vertex 1\nproperty float x\nend_header\n1\n".encode(), "x, y, z"),
        (f"ply\nelement vertex 1\n{XYZ}end_header\n1 2 3\n".encode(), "must name a format"),
        (f"{ASCII}element vertex 1\n{XYZ}property float x\nend_header\n1 2 3 4\n".encode(), "each once"),
        (f"{ASCII}element vertex -1\n{XYZ}end_header\n".encode(), "stands before|understood"),
        (f"{ASCII}element vertex 1\nproperty list uchar int x\nend_header\n".encode(), "list property"),
        (f"{ASCII}element face 1\nelement vertex 1\n{XYZ}end_header\n".encode(), "before the vertices"),
        (f"{ASCII}element vertex 1\n{XYZ}property int red\nend_header\n1 2 3 4\n".encode(), "'red' must be"),
        (f"{ASCII}element vertex 2\n{XYZ}end_header\n1.5 2.5 3.5\n4 5\n".encode(), "3 numbers"),
        (f"{ASCII}element vertex 1\n{XYZ}end_header\n1 2 three\n".encode(), "3 numbers"),
        (f"{ASCII}element vertex 1\n{XYZ}end_header\n1 2 nan\n".encode(), "vertex 0 .* not finite"),
        (f"{ASCII}element vertex 99999999999\n{XYZ}end_header\n1 2 3\n".encode(), "too short"),
        (f"{ASCII}element vertex {'9' * 5000}\n{XYZ}end_header\n1 2 3\n".encode(), "stands before|understood"),
        (
            f"ply\nformat binary_little_endian 1.0\nelement vertex 2\n{XYZ}end_header\n".encode() + bytes(20),
            "too short",
        ),
    ],
)
def test_bad_files_get_one_clear_sentence(tmp_path, content, message):
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_ply(path)
    assert "bad.ply" in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(InputError, match="cannot be read"):
        read_ply(tmp_path)
