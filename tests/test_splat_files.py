"""Facts about splat files (PLY, SPZ, glTF): round trips, readers of others, files written by hand, damaged files."""

import gzip
import json
import struct
import tracemalloc
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.errors import InputError
from worldstereo.exporters.gltf_splats import read_gltf_splats, write_gltf_splats
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.exporters.splat_ply import read_splat_ply, write_splat_ply
from worldstereo.exporters.spz import read_spz, write_spz
from worldstereo.geometry.splats import SH_BASE, GaussianSplats

FORMATS = {
    "splats.ply": (write_splat_ply, read_splat_ply),
    "splats.spz": (write_spz, read_spz),
    "splats.glb": (write_gltf_splats, read_gltf_splats),
}
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))


def random_splats(count: int = 200, seed: int = 0) -> GaussianSplats:
    generator = torch.Generator().manual_seed(seed)
    return GaussianSplats(
        means=torch.randn(count, 3, generator=generator) * torch.tensor([3.0, 2.0, 5.0]),
        scales=torch.rand(count, 3, generator=generator) * 0.2 + 0.001,
        rotations=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        opacities=torch.rand(count, generator=generator) * 0.98 + 0.01,
        colors=torch.rand(count, 3, generator=generator),
    )


def covariances(scales: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    axes = matrix_from_quaternion(rotations.double()) * scales.double()[:, None]
    return axes @ axes.mT


def assert_same(back: GaussianSplats, splats: GaussianSplats, *, exact: bool) -> None:
    """Equal up to rounding, or up to what SPZ's bytes hold."""
    extent = float(splats.means.abs().max())
    torch.testing.assert_close(back.means, splats.means, atol=1e-6 if exact else extent * 2**-22, rtol=0)
    torch.testing.assert_close(back.opacities, splats.opacities, atol=1e-6 if exact else 0.51 / 255, rtol=0)
    torch.testing.assert_close(back.colors, splats.colors, atol=1e-6 if exact else 0.0038, rtol=0)
    torch.testing.assert_close(back.scales.log(), splats.scales.log(), atol=1e-5 if exact else 0.0313, rtol=0)
    turned = matrix_from_quaternion(back.rotations).mT @ matrix_from_quaternion(splats.rotations)
    angle = torch.rad2deg((((turned.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1)).arccos())
    assert float(angle.max()) < (0.1 if exact else 0.3)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 200])
def test_round_trip(tmp_path, name, count):
    write, read = FORMATS[name]
    splats = random_splats(count)
    write(tmp_path / name, splats)
    back = read(tmp_path / name)
    assert back.sh_degree == 0
    assert_same(back.splats, splats, exact=name != "splats.spz")


@pytest.mark.parametrize("name", FORMATS)
def test_extreme_values_are_clamped_and_stay_finite(tmp_path, name):
    write, read = FORMATS[name]
    splats = GaussianSplats(
        means=torch.tensor([[1e-3, 0, 0], [0, 4e3, 0]]),
        scales=torch.tensor([[0.0, 1e-30, 1e3], [1.0, 1.0, 1.0]]),
        rotations=torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, -1.0]]),
        opacities=torch.tensor([0.0, 1.0]),
        colors=torch.tensor([[-1.0, 0.5, 2.0], [0.0, 0.0, 0.0]]),
    )
    write(tmp_path / name, splats)
    back = read(tmp_path / name).splats
    for values in (back.means, back.scales.log(), back.opacities.logit(), back.colors):
        assert bool(torch.isfinite(values).all())
    torch.testing.assert_close(back.rotations.norm(dim=1), torch.ones(2))
    assert float(back.opacities[0]) < 0.001
    assert float(back.opacities[1]) > 0.999


def test_splat_ply_holds_what_the_format_says(tmp_path):
    """One splat, its bytes worked out by hand."""
    one = GaussianSplats(
        means=torch.tensor([[1.0, 2.0, 3.0]]),
        scales=torch.tensor([[1.0, 2.0, 0.5]]),
        rotations=torch.tensor([[0.5, -0.5, 0.5, 0.5]]),
        opacities=torch.tensor([0.75]),
        colors=torch.tensor([[0.5, 1.0, 0.0]]),
    )
    write_splat_ply(tmp_path / "one.ply", one, SceneFrame(metric=True))
    header, body = (tmp_path / "one.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    values = dict(zip(names, struct.unpack("<17f", body), strict=True))
    dc = 0.5 / SH_BASE
    expected = {"x": 1, "y": 2, "z": 3, "nx": 0, "ny": 0, "nz": 0, "f_dc_0": 0, "f_dc_1": dc, "f_dc_2": -dc}
    expected |= {"opacity": log(3), "scale_0": 0, "scale_1": log(2), "scale_2": -log(2)}
    expected |= {"rot_0": 0.5, "rot_1": -0.5, "rot_2": 0.5, "rot_3": 0.5}
    assert values == pytest.approx(expected, abs=1e-6)
    assert list(values) == list(expected)  # the original viewer reads by place
    assert b"unit metre" in header


def splat_ply(rest: int, rows: bytes | None = None, count: int = 1) -> bytes:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    head += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, *range(rest), 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    return head.encode() + (struct.pack(f"<{len(values)}f", *values) if rows is None else rows)


@pytest.mark.parametrize(("rest", "degree"), [(0, 0), (9, 1), (24, 2), (45, 3)])
def test_view_dependent_colour_is_told_and_left_out(tmp_path, rest, degree):
    (tmp_path / "a.ply").write_bytes(splat_ply(rest))
    read = read_splat_ply(tmp_path / "a.ply")
    assert read.sh_degree == degree
    assert read.splats.means.tolist() == [[1, 2, 3]]
    assert read.splats.scales.tolist() == [[1, 1, 1]]
    assert read.splats.rotations.tolist() == [[1, 0, 0, 0]]
    assert read.splats.opacities.tolist() == [0.5]
    assert read.splats.colors.tolist() == [[0.5, 0.5, 0.5]]


def test_gsply_reads_our_files(tmp_path):
    gsply = pytest.importorskip("gsply")
    from gsply.spz import read_spz as read_spz_by_gsply

    splats = random_splats()
    write_splat_ply(tmp_path / "a.ply", splats)
    write_spz(tmp_path / "a.spz", splats)
    ours = covariances(splats.scales, splats.rotations)
    for read, flip, tolerance in ((gsply.plyread, torch.eye(3), 1e-6), (read_spz_by_gsply, FLIP, 0.004)):
        theirs = read(str(tmp_path / ("a.ply" if read is gsply.plyread else "a.spz")))
        np.testing.assert_allclose(theirs.means, (splats.means @ flip).numpy(), atol=1e-5)
        opacities = 1 / (1 + np.exp(-np.asarray(theirs.opacities).reshape(-1)))
        np.testing.assert_allclose(opacities, splats.opacities.numpy(), atol=max(tolerance, 1e-5))
        np.testing.assert_allclose(theirs.sh0 * SH_BASE + 0.5, splats.colors.numpy(), atol=max(tolerance, 1e-5))
        scales, rotations = torch.tensor(np.exp(theirs.scales)), torch.tensor(np.asarray(theirs.quats))
        found = covariances(scales, rotations)
        torch.testing.assert_close(found, flip.double() @ ours @ flip.double(), atol=tolerance, rtol=0.08)


@pytest.mark.parametrize("version", [2, 3])
def test_we_read_files_of_gsply(tmp_path, version):
    gsply = pytest.importorskip("gsply")
    from gsply.spz import write_spz as write_spz_by_gsply

    splats = random_splats()
    write_splat_ply(tmp_path / "a.ply", splats)
    theirs = gsply.plyread(str(tmp_path / "a.ply"))
    gsply.plywrite(str(tmp_path / "b.ply"), theirs)
    assert_same(read_splat_ply(tmp_path / "b.ply").splats, splats, exact=True)
    if version == 3:
        write_spz_by_gsply(str(tmp_path / "b.spz"), theirs)
        back = read_spz(tmp_path / "b.spz").splats  # gsply writes the axes that it is given: PLY's, unflipped
        torch.testing.assert_close(back.means @ FLIP, splats.means, atol=0.01, rtol=0)
        torch.testing.assert_close(back.opacities, splats.opacities, atol=0.002, rtol=0)
        found = FLIP.double() @ covariances(back.scales, back.rotations) @ FLIP.double()
        torch.testing.assert_close(found, covariances(splats.scales, splats.rotations), atol=0.003, rtol=0.08)


def test_more_splats_than_niantics_reader_takes_are_refused(tmp_path):
    """It reads ten million; nothing is written, nor allocated."""
    one = GaussianSplats(
        means=torch.zeros(1, 3),
        scales=torch.ones(1, 3),
        rotations=torch.tensor([[1.0, 0, 0, 0]]),
        opacities=torch.full((1,), 0.5),
        colors=torch.zeros(1, 3),
    )
    many = {name: value.expand(10_000_001, *value.shape[1:]) for name, value in vars(one).items()}
    with pytest.raises(InputError, match="10000001 splats are more"):
        write_spz(tmp_path / "a.spz", GaussianSplats(**many))
    assert not list(tmp_path.iterdir())


def spz(version: int, count: int, degree: int, bits: int, body: bytes) -> bytes:
    return gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, bits, 0, 0) + body, mtime=0)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_spz_written_by_hand(tmp_path, version):
    """A splat at (1, −2, 3) in SPZ's axes, turned by 90° about y, with colours of degree 1."""
    fixed = b"".join((round(v * 4096) % (1 << 24)).to_bytes(3, "little") for v in (1, -2, 3))
    half = struct.pack("<3e", 1, -2, 3)
    # y and w are √½: y is left out as the largest (index 1), w is 511 · √2 · √½ = 511; x and z are 0.
    smallest = struct.pack("<I", 1 << 30 | 0 << 20 | 0 << 10 | 511)
    three_bytes = bytes([128, round((0.5**0.5 + 1) * 127.5), 128])
    body = (half if version == 1 else fixed) + bytes([51]) + bytes([128, 166, 89]) + bytes([160, 176, 128])
    body += (smallest if version == 3 else three_bytes) + bytes(9)
    (tmp_path / "a.spz").write_bytes(spz(version, 1, 1, 12, body))
    read = read_spz(tmp_path / "a.spz")
    assert read.sh_degree == 1
    assert read.splats.means.tolist() == [[1, 2, -3]]
    torch.testing.assert_close(read.splats.opacities, torch.tensor([0.2]))
    torch.testing.assert_close(read.splats.scales, torch.tensor([[1.0, 2.7182818, 0.1353353]]), atol=1e-4, rtol=1e-4)
    dc = torch.tensor([[0.5, 38.5, -38.5]]) / 255 / 0.15
    torch.testing.assert_close(read.splats.colors, dc * SH_BASE + 0.5, atol=1e-5, rtol=0)
    # F R F of a quarter turn about y is the quarter turn the other way.
    expected = torch.tensor([[0.5**0.5, 0, -(0.5**0.5), 0]])
    torch.testing.assert_close(read.splats.rotations, expected, atol=0.005, rtol=0)


def accessor_values(document: dict, binary: bytes, index: int) -> np.ndarray:
    """By the letter of the glTF specification, for tightly packed arrays."""
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    kind = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    values = np.frombuffer(binary, kind, accessor["count"] * width, view["byteOffset"])
    return values.reshape(-1, width)


def test_gltf_splats_follow_the_ratified_extension(tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    splats = random_splats(7)
    write_gltf_splats(tmp_path / "a.glb", splats, SceneFrame(metric=True))
    scene = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert scene.extensionsUsed == ["KHR_gaussian_splatting"]
    assert scene.asset.extras["unit"] == "metre"
    (primitive,) = scene.meshes[0].primitives
    assert primitive.mode == 0
    extension = primitive.extensions["KHR_gaussian_splatting"]
    assert extension["kernel"] == "ellipse"
    assert extension["colorSpace"] == "srgb_rec709_display"
    document, binary = json.loads(scene.to_json()), scene.binary_blob()
    named = document["meshes"][0]["primitives"][0]["attributes"]
    prefix = "KHR_gaussian_splatting:"
    values = {name.removeprefix(prefix): accessor_values(document, binary, index) for name, index in named.items()}
    np.testing.assert_allclose(values["POSITION"], (splats.means @ FLIP).numpy())
    np.testing.assert_allclose(values["SCALE"], splats.scales.numpy())
    np.testing.assert_allclose(values["OPACITY"][:, 0], splats.opacities.numpy())
    np.testing.assert_allclose(values["SH_DEGREE_0_COEF_0"] * SH_BASE + 0.5, splats.colors.numpy(), atol=1e-6)
    xyzw = torch.tensor(values["ROTATION"].copy())
    found = covariances(torch.tensor(values["SCALE"].copy()), xyzw.roll(1, dims=1))
    expected = FLIP.double() @ covariances(splats.scales, splats.rotations) @ FLIP.double()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    bounds = document["accessors"][named["POSITION"]]
    np.testing.assert_allclose(bounds["min"], values["POSITION"].min(axis=0))
    np.testing.assert_allclose(bounds["max"], values["POSITION"].max(axis=0))


def edited_glb(source: Path, target: Path, edit) -> Path:
    """The same binary with another JSON."""
    content = source.read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    document = json.loads(content[20 : 20 + size])
    edit(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(content) - 20 - size, len(text), 0x4E4F534A)
    target.write_bytes(head + text + content[20 + size :])
    return target


def test_gltf_splats_follow_their_node(tmp_path):
    """A node that turns by 90° about z, doubles and moves: (x, y, z) → (−2y + 1, 2x, 2z)."""
    splats = random_splats(20)
    write_gltf_splats(tmp_path / "a.glb", splats)

    def move(document):
        half = 0.5**0.5
        document["nodes"][0] |= {"rotation": [0, 0, half, half], "scale": [2, 2, 2], "translation": [1, 0, 0]}

    back = read_gltf_splats(edited_glb(tmp_path / "a.glb", tmp_path / "b.glb", move)).splats
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    expected = ((splats.means @ FLIP) @ turn.T * 2 + torch.tensor([1.0, 0, 0])) @ FLIP
    torch.testing.assert_close(back.means, expected)
    m = (FLIP @ turn @ FLIP).double()
    torch.testing.assert_close(
        covariances(back.scales, back.rotations),
        4 * m @ covariances(splats.scales, splats.rotations) @ m.T,
        atol=1e-6,
        rtol=1e-4,
    )


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.0, 0.0, 2.0), (0.3, -0.5, 0.1), (0.0, 1.0, 0.0)])
def test_gltf_scenes_open_upright_and_come_back_to_the_world(tmp_path, up):
    splats = random_splats(20)
    write_gltf_splats(tmp_path / "a.glb", splats, SceneFrame(up=up))
    torch.testing.assert_close(read_gltf_splats(tmp_path / "a.glb").splats.means, splats.means, atol=1e-5, rtol=1e-5)
    content = (tmp_path / "a.glb").read_bytes()
    document = json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])
    x, y, z, w = document["nodes"][0].get("rotation", [0.0, 0.0, 0.0, 1.0])
    turn = matrix_from_quaternion(torch.tensor([w, x, y, z]))
    shown = turn @ FLIP @ torch.nn.functional.normalize(torch.tensor(up), dim=0)
    torch.testing.assert_close(shown, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_linear_gltf_colours_become_srgb(tmp_path):
    splats = random_splats(20)
    write_gltf_splats(tmp_path / "a.glb", splats)

    def linear(document):
        document["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"]["colorSpace"] = (
            "lin_rec709_display"
        )

    back = read_gltf_splats(edited_glb(tmp_path / "a.glb", tmp_path / "b.glb", linear)).splats
    c = splats.colors
    expected = torch.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(back.colors, expected, atol=1e-5, rtol=0)


NAN_ROW = struct.pack("<14f", *[float("nan")] * 14)
ZERO_TURN = struct.pack("<14f", *[0.0] * 14)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PLY"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\n" + b"property float x\nproperty float y\nproperty float z\n"
         b"end_header\n1 2 3\n", "no property 'f_dc_0'"),
        (splat_ply(7), "7 properties f_rest"),
        (splat_ply(0, b""), "too short"),
        (splat_ply(0, bytes(56), count=10**12), "too short"),
        (splat_ply(0, NAN_ROW), "position of splat 0 is not finite"),
        (splat_ply(0, ZERO_TURN), "rotation of splat 0 is zero"),
    ],
)  # fmt: skip
def test_bad_splat_ply(tmp_path, content, message):
    refused(read_splat_ply, tmp_path / "bad.ply", content, message)


BODY = bytes(20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short|no SPZ"),
        (b"hello, this is no gzip", "no SPZ"),
        (gzip.compress(b"short", mtime=0), "cut short"),
        (gzip.compress(bytes(40), mtime=0), "NGSP"),
        (b"NGSP" + bytes(40), "version 4"),
        (spz(9, 1, 0, 12, BODY), "version 9"),
        (spz(3, 1, 7, 12, BODY), "degree 7"),
        (spz(3, 1, 0, 60, BODY), "fraction bits 60"),
        (spz(3, 2, 0, 12, BODY), "ends before"),
        (spz(3, 1, 1, 12, BODY), "spherical harmonics"),
        (spz(3, 4_000_000_000, 0, 12, BODY), "promises 4000000000 splats"),
        (spz(3, 40_000_000, 0, 12, bytes(2000)), "promises 40000000 splats"),
        (spz(3, 1, 0, 12, BODY)[:-12], "cut short"),
        (spz(2, 1, 0, 12, BODY)[:-4] + bytes(4), "damaged|cut short"),
    ],
)
def test_bad_spz(tmp_path, content, message):
    refused(read_spz, tmp_path / "bad.spz", content, message)


def refused(read, path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.name in str(caught.value)
    assert peak < 30e6


def primitive(document: dict) -> dict:
    return document["meshes"][0]["primitives"][0]


def other_kernel(document):
    primitive(document)["extensions"]["KHR_gaussian_splatting"]["kernel"] = "cube"


def stretched(document):
    document["nodes"][0]["scale"] = [1, 2, 1]


def without_opacity(document):
    del primitive(document)["attributes"]["KHR_gaussian_splatting:OPACITY"]


def beyond(document):
    document["accessors"][0]["count"] = 10**12


def other_file(document):
    document["buffers"][0]["uri"] = "data.bin"


def compressed(document):
    document["extensionsRequired"] = ["KHR_gaussian_splatting_compression_spz_2"]


def cyclic(document):
    document["nodes"][0]["children"] = [0]


def plain(document):
    del primitive(document)["extensions"]


def unlike(document):
    document["accessors"][2]["count"] = 3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (other_kernel, "kernel is no 'ellipse'"),
        (stretched, "stretched"),
        (without_opacity, "OPACITY"),
        (beyond, "accessors.0..count"),
        (other_file, "outside the file"),
        (compressed, "compression_spz_2"),
        (cyclic, "nodes.0.* below itself"),
        (plain, "no splats"),
        (unlike, "different lengths"),
    ],
)
def test_bad_gltf_splats(tmp_path, edit, message):
    write_gltf_splats(tmp_path / "good.glb", random_splats(5))
    path = edited_glb(tmp_path / "good.glb", tmp_path / "bad.glb", edit)
    with pytest.raises(InputError, match=message) as caught:
        read_gltf_splats(path)
    assert "bad.glb" in str(caught.value)


def test_what_cannot_be_written_is_said(tmp_path):
    none = random_splats(1)[:0]
    with pytest.raises(InputError, match="no splats"):
        write_gltf_splats(tmp_path / "a.glb", none)
    for name in ("splats.ply", "splats.spz"):
        write, read = FORMATS[name]
        write(tmp_path / name, none)
        assert len(read(tmp_path / name).splats) == 0
    far = random_splats(1)
    far.means[0, 0] = 1e8
    with pytest.raises(InputError, match="splat PLY instead"):
        write_spz(tmp_path / "a.spz", far)
    for _, read in FORMATS.values():
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / "missing")
