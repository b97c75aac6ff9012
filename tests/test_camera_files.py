"""Camera files: round trips of every format, small files written by hand from the formats' descriptions, real data."""

import json
import math
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files import (
    read_cameras,
    read_official_scene,
    write_colmap_binary,
    write_colmap_text,
    write_official,
    write_official_bank,
    write_realestate10k,
    write_transforms,
    write_world_mirror,
)

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared development data is not here")

Writer = Callable[[Path, Cameras, Sequence[str]], Path]


def _official(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_official(folder / "camera.json", cameras, names)
    return folder / "camera.json"


def _bank(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_official_bank(folder / "cameras.json", cameras, names)
    return folder / "cameras.json"


def _world_mirror(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_world_mirror(folder / "cameras.json", cameras, names)
    return folder / "cameras.json"


def _transforms(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_transforms(folder / "transforms.json", cameras, names)
    return folder / "transforms.json"


def _colmap_text(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_colmap_text(folder, cameras, names)
    return folder


def _colmap_binary(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_colmap_binary(folder, cameras, names)
    return folder


def _realestate10k(folder: Path, cameras: Cameras, names: Sequence[str]) -> Path:
    write_realestate10k(folder / "clip.txt", cameras, "https://example.org/video")
    return folder / "clip.txt"


WRITERS: tuple[Writer, ...] = (
    _official,
    _bank,
    _world_mirror,
    _transforms,
    _colmap_text,
    _colmap_binary,
    _realestate10k,
)


def make_cameras(rotations: np.ndarray, translations: np.ndarray, k: np.ndarray, width: int, height: int) -> Cameras:
    poses = torch.eye(4).repeat(len(rotations), 1, 1)
    poses[:, :3, :3] = torch.tensor(rotations, dtype=torch.float32)
    poses[:, :3, 3] = torch.tensor(translations, dtype=torch.float32)
    return Cameras(poses, torch.tensor(k, dtype=torch.float32), width, height)


def random_cameras(count: int = 4, seed: int = 0) -> Cameras:
    generator = np.random.default_rng(seed)
    k = np.array([[520.5, 0, 311.25], [0, 500.0, 240.75], [0, 0, 1]])
    return make_cameras(
        Rotation.random(count, random_state=seed).as_matrix(),
        generator.normal(size=(count, 3)),
        np.repeat(k[None], count, axis=0),
        640,
        480,
    )


NAMES = [f"{i:04d}.png" for i in range(100)]


@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=25, deadline=None)
@given(
    vectors=st.lists(st.tuples(*[st.floats(-math.pi, math.pi)] * 3, *[st.floats(-50, 50)] * 3), min_size=1, max_size=4),
    focal=st.floats(40, 4000),
    ratio=st.floats(0.5, 2),
    center=st.tuples(st.floats(-100, 500), st.floats(-100, 500)),
    size=st.tuples(st.integers(1, 400), st.integers(1, 5000)),
)
def test_every_format_round_trips(
    write: Writer,
    vectors: list[tuple[float, ...]],
    focal: float,
    ratio: float,
    center: tuple[float, float],
    size: tuple[int, int],
) -> None:
    rows = np.array(vectors)
    k = np.array([[focal, 0, center[0]], [0, focal * ratio, center[1]], [0, 0, 1]])
    if write is _realestate10k:  # normalised focals above 10 would be taken for pixels
        k[0, 0], k[1, 1] = min(focal, 9 * size[0]), min(focal * ratio, 9 * size[1])
    cameras = make_cameras(
        Rotation.from_rotvec(rows[:, :3]).as_matrix(), rows[:, 3:], np.repeat(k[None], len(rows), axis=0), *size
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), cameras, NAMES[: len(cameras)])
        if write is _realestate10k:
            found = read_cameras(path, width=size[0], height=size[1])
        else:
            found = read_cameras(path)
            assert list(found.names) == NAMES[: len(cameras)]
    assert (found.cameras.width, found.cameras.height) == size
    rotation, expected_rotation = found.cameras.cam_from_world[:, :3, :3], cameras.cam_from_world[:, :3, :3]
    torch.testing.assert_close(rotation, expected_rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.cameras.cam_from_world[:, :3, 3], cameras.cam_from_world[:, :3, 3], atol=1e-5, rtol=1e-6
    )
    torch.testing.assert_close(found.cameras.intrinsics, cameras.intrinsics, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("write", [_official, _bank, _world_mirror, _transforms])
def test_every_json_says_its_convention_and_image_size(write: Writer, tmp_path: Path) -> None:
    text = write(tmp_path, random_cameras(), NAMES[:4]).read_text(encoding="utf-8")
    value = json.loads(text)
    value = value if "convention" in value else value["0000.png"]
    direction = "world-to-camera, OpenCV" if write in (_official, _bank) else "camera-to-world, Open"
    assert value["convention"].startswith(direction)
    assert (value["width"], value["height"], value["intrinsic_units"]) == (640, 480, "pixels")


# --- Files written by hand. The camera stands at (1, 2, 3) and looks along the world's +x axis, its image's up is the
# world's +z axis: right is −y, down is −z, forward is +x.

RIGHT, DOWN, FORWARD, CENTER = (0, -1, 0), (0, 0, -1), (1, 0, 0), (1, 2, 3)
W2C = [[0, -1, 0, 2], [0, 0, -1, 3], [1, 0, 0, -1], [0, 0, 0, 1]]
C2W_OPENGL = [[0, 0, -1, 1], [-1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]  # columns: right, up, backward, centre
K = [[300, 0, 160], [0, 310, 120], [0, 0, 1]]
# The rotation is a third of a turn about (1, -1, 1): quaternion (1/2, 1/2, -1/2, 1/2).
QUATERNION = (0.5, 0.5, -0.5, 0.5)


def assert_is_the_known_camera(cameras: Cameras) -> None:
    torch.testing.assert_close(cameras.centers, torch.tensor([CENTER], dtype=torch.float32), atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras.forward, torch.tensor([FORWARD], dtype=torch.float32), atol=1e-6, rtol=0)
    axes = torch.tensor([[RIGHT, DOWN, FORWARD]], dtype=torch.float32)
    torch.testing.assert_close(cameras.cam_from_world[:, :3, :3], axes, atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, torch.tensor([K], dtype=torch.float32), atol=1e-4, rtol=0)
    assert (cameras.width, cameras.height) == (320, 240)


def dump(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "value",
    [
        {"extrinsic": [W2C], "intrinsic": [K], "width": 320, "height": 240, "type": "surround", "id": 3},
        {"extrinsic": [W2C[:3]], "intrinsic": K, "width": 320, "height": 240},
        {"0000": {"extrinsic": W2C, "intrinsic": K, "width": 320, "height": 240}},
        {"w2c": [W2C], "K": [K], "width": 320, "height": 240, "convention": "OpenCV"},
        {"poses": [C2W_OPENGL], "intrinsic": [K], "width": 320, "height": 240, "convention": "c2w in OpenGL axes"},
        {"frames": [{"w2c": W2C, "K": K, "width": 320, "height": 240}], "convention": "w2c, OpenCV axes"},
        {"frames": [{"c2w": C2W_OPENGL, "K": K}], "width": 320, "height": 240, "convention": "Blender"},
        {"camera_model": "PINHOLE", "fl_x": 300, "fl_y": 310, "cx": 160, "cy": 120, "w": 320, "h": 240}
        | {"frames": [{"file_path": "a.png", "transform_matrix": C2W_OPENGL}]},
        {"fl_x": 1, "w": 320, "h": 240}
        | {"frames": [{"fl_x": 300, "fl_y": 310, "cx": 160, "cy": 120, "transform_matrix": C2W_OPENGL}]},
        {"num_cameras": 1, "width": 320, "height": 240}
        | {
            "extrinsics": [{"camera_id": 7, "matrix": np.linalg.inv(W2C).tolist()}],
            "intrinsics": [{"camera_id": 7, "matrix": K}],
        },
        {"extrinsic": [W2C], "intrinsic": [[[300 / 320, 0, 0.5], [0, 310 / 240, 0.5], [0, 0, 1]]]}
        | {"intrinsic_units": "normalized", "width": 320, "height": 240},
    ],
)
def test_json_written_by_hand(value: object, tmp_path: Path) -> None:
    assert_is_the_known_camera(read_cameras(dump(tmp_path / "any_name.json", value)).cameras)


@pytest.mark.parametrize("pose", [W2C, W2C[:3], [v for row in W2C[:3] for v in row]])
def test_bare_poses_are_read_when_the_caller_states_the_rest(pose: list, tmp_path: Path) -> None:
    found = read_cameras(
        dump(tmp_path / "poses.json", [pose]),
        width=320,
        height=240,
        convention="opencv-w2c",
        intrinsics=torch.tensor(K, dtype=torch.float32),
    )
    assert_is_the_known_camera(found.cameras)


def test_the_caller_settles_what_a_json_file_leaves_open(tmp_path: Path) -> None:
    path = dump(tmp_path / "camera.json", {"poses": [C2W_OPENGL], "intrinsic": [K]})
    assert_is_the_known_camera(read_cameras(path, width=320, height=240, convention="opengl-c2w").cameras)
    flip = np.diag([1.0, -1, -1, 1])
    path = dump(tmp_path / "camera.json", {"poses": [(flip @ W2C).tolist()], "intrinsic": [K]})
    assert_is_the_known_camera(read_cameras(path, width=320, height=240, convention="opengl-w2c").cameras)


def test_the_size_comes_from_the_file_then_the_caller_then_the_picture_beside_it(tmp_path: Path) -> None:
    value = {"extrinsic": [W2C], "intrinsic": [K]}
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    path = dump(tmp_path / "camera.json", value)
    assert read_cameras(path).cameras.width == 64
    assert read_cameras(path, width=320, height=240).cameras.width == 320
    path = dump(path, value | {"width": 640, "height": 480})
    assert read_cameras(path, width=320, height=240).cameras.width == 640


def test_realestate10k_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    numbers = " ".join(str(v) for row in W2C[:3] for v in row)
    path.write_text(f"https://www.youtube.com/watch?v=x\n52553000 {300 / 320} {310 / 240} 0.5 0.5 0.0 0.0 {numbers}\n")
    found = read_cameras(path, width=320, height=240)
    assert_is_the_known_camera(found.cameras)
    assert found.names == ("52553000",)


COLMAP_CAMERAS = "# comment\n3 SIMPLE_PINHOLE 320 240 305 160 120\n1 PINHOLE 320 240 300 310 160 120\n"
COLMAP_POSE = "0.5 0.5 -0.5 0.5 2 3 -1"


def test_colmap_text_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text(COLMAP_CAMERAS)
    (tmp_path / "images.txt").write_text(
        f"# comment\n9 1 0 0 0 0 0 0 3 b second.png\n10.5 20.5 -1 3 4 77\n2 {COLMAP_POSE} 1 a.png\n\n"
    )
    found = read_cameras(tmp_path)
    assert found.names == ("a.png", "b second.png")
    assert_is_the_known_camera(found.cameras[0])
    assert found.cameras.intrinsics[1].tolist() == [[305, 0, 160], [0, 305, 120], [0, 0, 1]]
    torch.testing.assert_close(found.cameras.cam_from_world[1], torch.eye(4))
    assert read_cameras(tmp_path / "images.txt").names == found.names


def colmap_binary(images: int = 1, model: int = 1) -> tuple[bytes, bytes]:
    cameras = struct.pack("<QIiQQ4d", 1, 5, model, 320, 240, 300.0, 310.0, 160.0, 120.0)
    image = struct.pack("<I7dI", 2, *QUATERNION, 2, 3, -1, 5) + b"a.png\0"
    image += struct.pack("<Qddqddq", 2, 1.5, 2.5, -1, 3.5, 4.5, 8)
    return cameras, struct.pack("<Q", images) + image


@pytest.mark.parametrize("sub", [".", "sparse", "sparse/0"])
def test_colmap_binary_written_by_hand(sub: str, tmp_path: Path) -> None:
    (tmp_path / sub).mkdir(parents=True, exist_ok=True)
    for name, content in zip(("cameras.bin", "images.bin"), colmap_binary(), strict=True):
        (tmp_path / sub / name).write_bytes(content)
    found = read_cameras(tmp_path)
    assert_is_the_known_camera(found.cameras)
    assert found.names == ("a.png",)


def test_colmap_files_have_the_bytes_that_the_format_describes(tmp_path: Path) -> None:
    cameras = make_cameras(np.array(W2C)[None, :3, :3], np.array(W2C)[None, :3, 3], np.array([K]), 320, 240)
    points, colors = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[1.0, 0, 0.5], [0, 0.2, 1]])
    write_colmap_binary(tmp_path / "b", cameras, ["a.png"], points, colors)
    assert (tmp_path / "b" / "cameras.bin").read_bytes() == struct.pack(
        "<QIiQQ4d", 1, 1, 1, 320, 240, 300.0, 310.0, 160.0, 120.0
    )
    image = (tmp_path / "b" / "images.bin").read_bytes()
    count, identity, *pose, camera = struct.unpack_from("<QI7dI", image)
    assert (count, identity, camera) == (1, 1, 1)
    np.testing.assert_allclose(pose, [*QUATERNION, 2, 3, -1], atol=1e-7)
    assert image[72:] == b"a.png\0" + struct.pack("<Q", 0)
    assert (tmp_path / "b" / "points3D.bin").read_bytes() == struct.pack("<Q", 2) + struct.pack(
        "<Q3d3BdQ", 1, 1, 2, 3, 255, 0, 128, 0, 0
    ) + struct.pack("<Q3d3BdQ", 2, 4, 5, 6, 0, 51, 255, 0, 0)
    write_colmap_text(tmp_path / "t", cameras, ["a.png"], points, colors)
    rows = [line for line in (tmp_path / "t" / "points3D.txt").read_text().splitlines() if line[0] != "#"]
    assert rows == ["1 1 2 3 255 0 128 0", "2 4 5 6 0 51 255 0"]
    rows = [line for line in (tmp_path / "t" / "cameras.txt").read_text().splitlines() if line[0] != "#"]
    assert rows == ["1 PINHOLE 320 240 300 310 160 120"]
    rows = [line for line in (tmp_path / "t" / "images.txt").read_text().splitlines() if line[:1] != "#"]
    assert rows == ["1 0.5 0.5 -0.5 0.5 2 3 -1 1 a.png", ""]


def test_equal_lenses_share_one_colmap_camera(tmp_path: Path) -> None:
    cameras = random_cameras(4)
    k = cameras.intrinsics.clone()
    k[2, 0, 0] = 700
    mixed = Cameras(cameras.cam_from_world, k, 640, 480)
    write_colmap_text(tmp_path, mixed, NAMES[:4])
    assert (tmp_path / "cameras.txt").read_text().count("PINHOLE 640") == 2
    torch.testing.assert_close(read_cameras(tmp_path).cameras.intrinsics, k)


def test_nerfstudio_conversion_is_undone(tmp_path: Path) -> None:
    """nerfstudio's own example: applied_transform turns the world so that z points up, here also scaled."""
    applied = np.array([[1, 0, 0, 0.5], [0, 0, 1, 0], [0, -1, 0, 2], [0, 0, 0, 1]])
    converted = applied @ np.array(C2W_OPENGL)
    converted[:3, 3] *= 4
    value = {"fl_x": 300, "fl_y": 310, "cx": 160, "cy": 120, "w": 320, "h": 240, "applied_scale": 4}
    value |= {"applied_transform": applied[:3].tolist(), "frames": [{"transform_matrix": converted.tolist()}]}
    assert_is_the_known_camera(read_cameras(dump(tmp_path / "transforms.json", value)).cameras)


def test_blender_field_of_view(tmp_path: Path) -> None:
    Image.new("RGB", (800, 600)).save(tmp_path / "r_0.png")
    value = {"camera_angle_x": math.pi / 2, "frames": [{"file_path": "./r_0", "transform_matrix": np.eye(4).tolist()}]}
    cameras = read_cameras(dump(tmp_path / "transforms_train.json", value)).cameras
    torch.testing.assert_close(cameras.intrinsics[0], torch.tensor([[400.0, 0, 400], [0, 400, 300], [0, 0, 1]]))


# --- Scene folders and real data.


def make_scene(folder: Path) -> None:
    pose = {"extrinsic": [W2C], "intrinsic": [K]}
    for name in ("view0/traj0", "view0/traj2", "view1/traj0", "target_cup_0/traj0", "reconstruct_0/traj0"):
        (folder / name).mkdir(parents=True)
        dump(folder / name / "camera.json", pose)
    (folder / "reconstruct_0" / "traj1").mkdir()
    dump(folder / "reconstruct_0" / "traj1" / "camera.json", pose | {"width": 320, "height": 240})
    dump(folder / "view0" / "traj2" / "traj_caption.json", {"prompt": "a street"})
    dump(folder / "view1" / "valid_analysis.json", {"valid": "no"})
    (folder / "pano_bank" / "images").mkdir(parents=True)
    Image.new("RGB", (320, 240)).save(folder / "pano_bank" / "images" / "0000.png")
    Image.new("RGB", (320, 240)).save(folder / "view0" / "start_frame.png")
    dump(folder / "pano_bank" / "cameras.json", {"0000": {"extrinsic": W2C, "intrinsic": K}})


def test_panorama_scene_in_the_order_of_the_release(tmp_path: Path) -> None:
    make_scene(tmp_path)
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    scene = read_official_scene(tmp_path)
    assert scene.kind == "panorama"
    assert scene.bank is not None
    assert_is_the_known_camera(scene.bank.cameras)
    assert [path.name for path in scene.bank_images] == ["0000.png"]
    names = ["view0/traj2", "view0/traj0", "target_cup_0/traj0", "reconstruct_0/traj0", "reconstruct_0/traj1"]
    assert [trajectory.name for trajectory in scene.trajectories] == names
    assert scene.trajectories[0].prompt == "a street"
    assert scene.trajectories[0].start_image == tmp_path / "view0" / "start_frame.png"
    for trajectory in scene.trajectories:
        assert_is_the_known_camera(trajectory.camera_file.cameras)
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before
    assert_is_the_known_camera(read_cameras(tmp_path).cameras)


@needs_shared
@pytest.mark.parametrize(
    ("scene", "kind", "frames", "trajectories"),
    [
        ("images/photorealistic-outdoor-city-062", "image", 81, 1),
        ("panorama", "panorama", 21, 28),
        ("reconstruction/kitchen", "reconstruction", 21, 4),
        ("reconstruction/Caterpillar", "reconstruction", 21, 4),
    ],
)
def test_official_examples_are_accepted_as_they_are(scene: str, kind: str, frames: int, trajectories: int) -> None:
    folder = SHARED / "official_examples" / scene
    found = read_official_scene(folder)
    assert found.kind == kind
    assert len(found.trajectories) == trajectories
    assert all(len(trajectory.camera_file.cameras) == frames and trajectory.prompt for trajectory in found.trajectories)
    if found.image is not None:
        with Image.open(found.image) as image:
            size = image.size
        assert all((t.camera_file.cameras.width, t.camera_file.cameras.height) == size for t in found.trajectories)
    else:
        assert len(found.bank_images) == 27


@needs_shared
def test_every_posed_folder_of_the_shared_data_is_read() -> None:
    paths = sorted(SHARED.glob("*/cameras.json")) + sorted(SHARED.glob("re10k_clips/*/cameras.json"))
    assert len(paths) == 13
    for path in paths:
        found = read_cameras(path)
        first = json.loads(path.read_text(encoding="utf-8"))["frames"][0]
        np.testing.assert_allclose(found.cameras.cam_from_world[0].numpy(), first["w2c"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.cameras.intrinsics[0].numpy(), first["K"], rtol=1e-6)
        with Image.open(path.parent / found.names[0]) as image:
            assert image.size == (found.cameras.width, found.cameras.height)
