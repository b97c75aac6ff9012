"""Facts about GLB meshes: round trips, trimesh's reading, right way up, linear colours, damaged files."""

import json
import struct

import numpy as np
import pytest
import torch

from test_splat_files import accessor_values, edited_glb
from worldstereo.errors import InputError
from worldstereo.exporters.glb import read_glb, write_glb
from worldstereo.exporters.gltf_file import linear_from_srgb, srgb_from_linear
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.geometry.triangle_mesh import TriangleMesh


def random_mesh(vertices: int = 60, faces: int = 90) -> TriangleMesh:
    generator = torch.Generator().manual_seed(0)
    return TriangleMesh(
        torch.randn(vertices, 3, generator=generator),
        torch.randint(0, vertices, (faces, 3), generator=generator),
        torch.randint(0, 256, (vertices, 3), generator=generator) / 255,
    )


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.0, 0.0, 1.0)])
def test_round_trip_is_exact_for_8_bit_colours(tmp_path, up):
    mesh = random_mesh()
    write_glb(tmp_path / "m.glb", mesh, SceneFrame(up=up))
    back = read_glb(tmp_path / "m.glb")
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=0 if up[2] == 0 else 1e-6, rtol=0)
    assert torch.equal(back.faces, mesh.faces)
    assert torch.equal((back.colors * 255).round(), (mesh.colors * 255).round())


def test_every_8_bit_level_survives(tmp_path):
    levels = (torch.arange(256) / 255)[:, None].expand(256, 3)
    mesh = TriangleMesh(torch.zeros(256, 3), torch.tensor([[0, 1, 2]]), levels)
    write_glb(tmp_path / "m.glb", mesh)
    assert torch.equal((read_glb(tmp_path / "m.glb").colors * 255).round(), (levels * 255).round())


def test_srgb_and_linear_are_inverse_and_meet_known_values():
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-7)
    np.testing.assert_allclose(linear_from_srgb(np.array([0.0, 0.5, 1.0])), [0, 0.21404114, 1], atol=1e-7)


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.0, 0.0, 1.0)])
def test_trimesh_opens_it_upright_with_linear_colours(tmp_path, up):
    """A triangle whose tip is `up` of its base stands on its base in trimesh's scene, facing the same side."""
    trimesh = pytest.importorskip("trimesh")
    tip = torch.tensor(up)
    base = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mesh = TriangleMesh(
        torch.cat([base, tip[None]]), torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 0.5, 0.0]]).expand(3, 3)
    )
    write_glb(tmp_path / "m.glb", mesh, SceneFrame(up=up))
    scene = trimesh.load_scene(tmp_path / "m.glb", process=False)
    (node,) = scene.graph.nodes_geometry
    matrix, name = scene.graph[node]
    found = scene.geometry[name]
    places = found.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(places, [[-1, 0, 0], [1, 0, 0], [0, 1, 0]], atol=1e-6)
    assert found.faces.tolist() == [[0, 1, 2]]
    stored = np.asarray(found.visual.vertex_attributes["color"])
    np.testing.assert_allclose(stored[0] / 65535, [1, 0.21404114, 0, 1], atol=1e-5)


def test_the_file_says_its_conventions_and_shows_the_pictures_light(tmp_path):
    mesh = random_mesh()
    write_glb(tmp_path / "m.glb", mesh, SceneFrame(metric=True))
    content = (tmp_path / "m.glb").read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    document, binary = json.loads(content[20 : 20 + size]), content[28 + size :]
    assert "y up" in document["asset"]["extras"]["axes"]
    assert document["asset"]["extras"]["unit"] == "metre"
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]
    assert document["materials"][0]["doubleSided"] is True
    part = document["meshes"][0]["primitives"][0]
    np.testing.assert_array_equal(
        accessor_values(document, binary, part["attributes"]["POSITION"]), mesh.vertices.numpy() * [1, -1, -1]
    )
    np.testing.assert_array_equal(accessor_values(document, binary, part["indices"])[:, 0], mesh.faces.reshape(-1))


def test_meshes_of_trimesh_are_read_in_their_place(tmp_path):
    """Two boxes, one moved and mirrored by its node; without colours they are white."""
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    box = trimesh.creation.box(extents=(1, 2, 3))
    scene.add_geometry(box)
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = [5, 0, 0]
    scene.add_geometry(box, transform=mirror)
    scene.export(tmp_path / "m.glb")
    mesh = read_glb(tmp_path / "m.glb")
    back = trimesh.Trimesh(mesh.vertices.numpy() * [1, -1, -1], mesh.faces.numpy(), process=False)
    np.testing.assert_allclose(back.bounds, [[-0.5, -1, -1.5], [5.5, 1, 1.5]])
    assert back.volume == pytest.approx(12)  # both turned outwards
    assert back.is_winding_consistent


def test_triangles_without_indices_and_with_a_material_colour(tmp_path):
    write_glb(tmp_path / "m.glb", TriangleMesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]]), torch.ones(3, 3)))

    def edit(document):
        part = document["meshes"][0]["primitives"][0]
        del part["indices"], part["attributes"]["COLOR_0"], part["mode"]
        document["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [0.21404114, 0, 1, 1]

    mesh = read_glb(edited_glb(tmp_path / "m.glb", tmp_path / "n.glb", edit))
    assert mesh.faces.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(mesh.colors[0], torch.tensor([0.5, 0.0, 1.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no binary glTF"),
        (b'{"asset": {"version": "2.0"}}', "save it as .glb"),
        (struct.pack("<5I", 0x46546C67, 1, 20, 0, 0x4E4F534A), "glTF 2.0"),
        (struct.pack("<5I", 0x46546C67, 2, 4000, 0, 0x4E4F534A), "cut short"),
        (struct.pack("<5I", 0x46546C67, 2, 24, 4, 0x4E4F534A) + b"{{{{", "JSON is damaged"),
        (struct.pack("<5I", 0x46546C67, 2, 24, 4, 0x4E4F534A) + b"{}  ", "no triangles"),
        (struct.pack("<5I", 0x46546C67, 2, 20, 2**31, 0x4E4F534A), "cut short"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "bad.glb").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_glb(tmp_path / "bad.glb")
    assert "bad.glb" in str(caught.value)


def test_damaged_parts_are_named(tmp_path):
    write_glb(tmp_path / "m.glb", random_mesh())

    def refused(edit, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_glb(edited_glb(tmp_path / "m.glb", tmp_path / "bad.glb", edit))

    refused(lambda d: d["accessors"][0].update(count=10**6), r"accessors\[0\] reaches beyond")
    refused(lambda d: d["accessors"][0].update(type="MAT4"), r"accessors\[0\] has a componentType or type")
    refused(lambda d: d["accessors"][2].update(count=4), "no triangles of its vertices")
    refused(lambda d: d["nodes"][0].update(matrix=[1, 2, 3]), r"nodes\[0\].matrix must be a list of 16 numbers")
    refused(lambda d: d["meshes"][0].update(primitives=[]), "holds no triangles")
    refused(lambda d: d["scenes"][0].update(nodes=[7]), "whole number from 0 to 0")
    with pytest.raises(InputError, match="no triangles"):
        write_glb(tmp_path / "e.glb", TriangleMesh(torch.rand(3, 3), torch.zeros(0, 3).long(), torch.rand(3, 3)))
