"""Camera files that must be refused: one `InputError` that names file, field and mend, whatever is in the file."""

import copy
import json
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files import (
    Convention,
    read_cameras,
    read_official_scene,
    write_colmap_binary,
    write_colmap_text,
    write_official,
    write_official_bank,
    write_realestate10k,
    write_transforms,
)
from worldstereo.errors import InputError

EYE = np.eye(4).tolist()
K = [[300.0, 0, 160], [0, 310, 120], [0, 0, 1]]
SIZE = {"width": 320, "height": 240}
OFFICIAL = {"extrinsic": [EYE, EYE], "intrinsic": [K, K], **SIZE}
LENS = {"fl_x": 300, "fl_y": 310, "cx": 160, "cy": 120, "w": 320, "h": 240}
TRANSFORMS = {**LENS, "frames": [{"file_path": "a.png", "transform_matrix": EYE}]}
FRAMES = {"convention": "w2c OpenCV", "frames": [{"image": "a.png", "w2c": EYE, "K": K, **SIZE}]}
MIRROR = {
    "extrinsics": [{"camera_id": "a", "matrix": EYE}],
    "intrinsics": [{"camera_id": "a", "matrix": K}],
    **SIZE,
}
BANK = {"0000": {"extrinsic": EYE, "intrinsic": K, **SIZE}}


def refusal(path: Path, convention: Convention | None = None, **size: int) -> str:
    """The message of the refusal, which must name the file."""
    with pytest.raises(InputError) as caught:
        read_cameras(path, convention=convention, **size)
    assert str(path) in str(caught.value) or str(path.parent) in str(caught.value)
    return str(caught.value)


def refused_json(folder: Path, value: object, convention: Convention | None = None) -> str:
    path = folder / "camera.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return refusal(path, convention)


@pytest.mark.parametrize(
    ("value", "readings"),
    [
        (OFFICIAL | {"convention": "c2w"}, {"opencv-w2c", "opencv-c2w"}),
        (OFFICIAL | {"camera_convention": "OpenGL"}, {"opencv-w2c", "opengl-w2c"}),
        ({"extrinsics": [EYE], "intrinsics": [K], **SIZE, "convention": "OpenCV"}, {"opencv-w2c", "opencv-c2w"}),
        ({"poses": [EYE], "intrinsic": [K], **SIZE, "convention": "c2w"}, {"opencv-c2w", "opengl-c2w"}),
        ({"c2w": [EYE], "intrinsic": [K], **SIZE}, {"opencv-c2w", "opengl-c2w"}),
        ({"frames": [{"w2c": EYE, "K": K, **SIZE}]}, {"opencv-w2c", "opengl-w2c"}),
        (FRAMES | {"convention": "c2w OpenCV"}, {"opencv-w2c", "opencv-c2w"}),
        (TRANSFORMS | {"convention": "OpenCV"}, {"opencv-c2w", "opengl-c2w"}),
        (MIRROR | {"convention": "w2c"}, {"opencv-w2c", "opencv-c2w"}),
        ({"a": BANK["0000"] | {"convention": "c2w"}}, {"opencv-w2c", "opencv-c2w"}),
        ([EYE], {"opencv-w2c", "opencv-c2w", "opengl-w2c", "opengl-c2w"}),
    ],
)
def test_an_ambiguous_convention_is_refused_with_its_readings(
    value: object, readings: set[str], tmp_path: Path
) -> None:
    message = refused_json(tmp_path, value)
    everything = {"opencv-w2c", "opencv-c2w", "opengl-w2c", "opengl-c2w"}
    assert {reading for reading in everything if f"'{reading}'" in message} == readings
    assert "convention=" in message


@pytest.mark.parametrize("base", [OFFICIAL, TRANSFORMS, FRAMES, MIRROR, BANK], ids="otfmb")
def test_the_files_that_the_next_tests_break_are_good(base: dict, tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps(base), encoding="utf-8")
    assert read_cameras(path).cameras.width == 320


NAN_POSE = [[float("nan"), 0, 0, 0], *EYE[1:]]
SHEAR = [[1, 0.5, 0, 0], *EYE[1:]]
MIRRORED = [[-1, 0, 0, 0], *EYE[1:]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, ["known form"]),
        ([], ["empty list"]),
        (3, ["known format"]),
        (OFFICIAL | {"extrinsic": []}, ["extrinsic", "empty"]),
        (OFFICIAL | {"extrinsic": {}}, ["extrinsic", "list"]),
        (OFFICIAL | {"extrinsic": [EYE]}, ["1 poses but 2 intrinsics"]),
        (OFFICIAL | {"extrinsic": [EYE, EYE[:2]]}, ["extrinsic[1]", "4×4"]),
        (OFFICIAL | {"extrinsic": [EYE, NAN_POSE]}, ["extrinsic[1]", "not finite"]),
        (OFFICIAL | {"extrinsic": [EYE, SHEAR]}, ["extrinsic 1", "rigid"]),
        (OFFICIAL | {"extrinsic": [EYE, MIRRORED]}, ["extrinsic 1", "rigid"]),
        (OFFICIAL | {"extrinsic": [EYE, [["1", 0, 0, 0], *EYE[1:]]]}, ["extrinsic[1]", "number", "text"]),
        (OFFICIAL | {"extrinsic": [EYE, [[True, 0, 0, 0], *EYE[1:]]]}, ["extrinsic[1]", "boolean"]),
        (OFFICIAL | {"extrinsic": [EYE, [[10**400, 0, 0, 0], *EYE[1:]]]}, ["extrinsic[1]", "not finite"]),
        (OFFICIAL | {"extrinsic": [EYE, [[1, 0, 0, 1e300], *EYE[1:]]]}, ["10³⁰"]),
        (OFFICIAL | {"intrinsic": [K, [[300, 0], [0, 310], [0, 0]]]}, ["intrinsic[1]", "3×3"]),
        (OFFICIAL | {"intrinsic": [K, [[-300, 0, 160], *K[1:]]]}, ["camera 1", "focal"]),
        (OFFICIAL | {"intrinsic": [[[0.9, 0, 0.5], [0, 1.2, 0.5], K[2]]] * 2}, ["fx = 0.9", "normalised", "pixels"]),
        (OFFICIAL | {"intrinsic_units": "degrees"}, ["intrinsic_units", "degrees"]),
        (OFFICIAL | {"convention": "the usual one"}, ["convention", "world-to-camera"]),
        (OFFICIAL | {"convention": 7}, ["convention", "text"]),
        (OFFICIAL | {"poses": [EYE, EYE]}, ["extrinsic", "poses"]),
        (OFFICIAL | {"image_names": ["a"]}, ["1 names but 2 cameras"]),
        (OFFICIAL | {"width": -1}, ["image size"]),
        (OFFICIAL | {"width": 320.5}, ["image size"]),
        (OFFICIAL | {"width": 10**400}, ["width", "not finite"]),
        (OFFICIAL | {"width": None}, ["width", "null"]),
        ({"extrinsic": [EYE], "intrinsic": [K], "width": 320}, ["height"]),
        ({"extrinsic": [EYE], "intrinsic": [K]}, ["width=", "height="]),
        ({"extrinsic": [EYE], **SIZE}, ["no field 'intrinsic'"]),
        ({"a": {"extrinsic": EYE, **SIZE}}, ["a has no field 'intrinsic'"]),
        ({**BANK, "1": BANK["0000"] | {"width": 640}}, ["different image sizes"]),
        *(({name: {"extrinsic": EYE, "intrinsic": K}}, ["width="]) for name in ("/", "", "..", "\0", "n" * 9999)),
        (MIRROR | {"intrinsics": [{"camera_id": "b", "matrix": K}]}, ["camera_id"]),
        (MIRROR | {"extrinsics": MIRROR["extrinsics"] * 2}, ["extrinsics[1]", "repeats the camera_id 'a'"]),
        (FRAMES | {"frames": [{"w2c": EYE, "c2w": EYE, "K": K, **SIZE}]}, ["both 'w2c' and 'c2w'"]),
        (FRAMES | {"frames": [{"K": K, **SIZE}]}, ["frames[0]", "transform_matrix"]),
        (FRAMES | {"frames": [*FRAMES["frames"], {"w2c": EYE, **SIZE}]}, ["frames[1]", "'K'"]),
        (FRAMES | {"frames": [*FRAMES["frames"], {"w2c": EYE, "K": K, "width": 1, "height": 1}]}, ["different image"]),
        (FRAMES | {"frames": 4}, ["frames", "list"]),
        (TRANSFORMS | {"camera_model": "OPENCV_FISHEYE"}, ["OPENCV_FISHEYE", "undistort"]),
        (TRANSFORMS | {"k1": 0.1}, ["k1", "undistort"]),
        (TRANSFORMS | {"is_fisheye": True}, ["is_fisheye"]),
        (TRANSFORMS | {"applied_scale": 0}, ["applied_scale"]),
        (TRANSFORMS | {"applied_transform": SHEAR}, ["applied_transform"]),
        (TRANSFORMS | {"frames": [{"transform_matrix": EYE, "w": 1}, {"transform_matrix": EYE}]}, ["different image"]),
        ({"frames": TRANSFORMS["frames"], "w": 320, "h": 240}, ["fl_x", "camera_angle_x"]),
        ({"frames": TRANSFORMS["frames"], "w": 320, "h": 240, "camera_angle_x": 4}, ["camera_angle_x"]),
    ],
)
def test_broken_json_is_refused_by_field(value: object, words: list[str], tmp_path: Path) -> None:
    message = refused_json(tmp_path, value)
    for word in words:
        assert word in message


def test_poses_alone_are_refused_even_with_a_convention(tmp_path: Path) -> None:
    assert "without intrinsics" in refused_json(tmp_path, [EYE], "opencv-w2c")


def test_files_that_are_no_json_or_no_text(tmp_path: Path) -> None:
    for content in (
        b"{",
        b"[" * 100_000,
        b'{"extrinsic": "\xff"}',
        b"\xff\xd8\xff\xe0",
        b"",
        b"[1" + b"0" * 5000 + b"]",
    ):
        path = tmp_path / "camera.json"
        path.write_bytes(content)
        refusal(path)
    refusal(tmp_path / "absent.json")
    (tmp_path / "folder").mkdir()
    assert "holds no camera file" in refusal(tmp_path / "folder")


def test_an_unknown_convention_of_the_caller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opencv-w2c, opencv-c2w"):
        read_cameras.__wrapped__(tmp_path, convention="opencv")  # past the tests' own type check


def test_folders_with_several_camera_files_are_refused(tmp_path: Path) -> None:
    for name in ("camera.json", "transforms.json"):
        (tmp_path / name).write_text(json.dumps(OFFICIAL))
    assert "camera.json, transforms.json" in refusal(tmp_path)


def test_a_scene_of_several_trajectories_is_no_single_camera_file(tmp_path: Path) -> None:
    for name in ("traj_up", "traj_left"):
        (tmp_path / "renders" / name).mkdir(parents=True)
        (tmp_path / "renders" / name / "camera.json").write_text(json.dumps(OFFICIAL))
    message = refusal(tmp_path)
    assert "renders/traj_up/camera.json" in message
    with pytest.raises(InputError, match=r"image\.png: no such picture"):
        read_official_scene(tmp_path)
    with pytest.raises(InputError, match="no scene of the official release"):
        read_official_scene(tmp_path / "renders")


LINE = "0 0.9 1.2 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINE, ["first line"]),
        ("https://x.y\n", ["no camera"]),
        ("https://x.y\n" + LINE.replace("0.5", "x", 1), ["line 2", "number"]),
        ("https://x.y\n" + LINE.replace("0.5", "nan", 1), ["line 2", "not finite"]),
        ("https://x.y\n" + LINE + "1 2 3\n", ["line 3", "3 values", "19"]),
        ("https://x.y\n" + LINE.replace("0.5 0 0", "0.5 0.1 0"), ["distortion"]),
        ("https://x.y\n" + LINE.replace("0.9", "532.5"), ["532.5", "pixels", "normalised"]),
        ("https://x.y\n" + LINE.replace("1 0 0 0", "2 0 0 0", 1), ["pose 0", "rigid"]),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", ["world-to-camera or camera-to-world"]),
        (" ".join(["1"] * 12) + "\n", ["world-to-camera or camera-to-world"]),
        ("hello\n", ["known format"]),
    ],
)
def test_broken_text_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_text(text)
    message = refusal(path, width=320, height=240)
    for word in words:
        assert word in message


def test_realestate10k_needs_the_image_size_and_has_one_convention(tmp_path: Path) -> None:
    path = tmp_path / "clip.txt"
    path.write_text("https://x.y\n" + LINE)
    assert "width=" in refusal(path)
    assert "always 'opencv-w2c'" in refusal(path, "opencv-c2w", width=320, height=240)


COLMAP_CAMERAS = struct.pack("<QIiQQ4d", 1, 5, 1, 320, 240, 300.0, 310.0, 160.0, 120.0)
COLMAP_IMAGES = struct.pack("<QI7dI", 1, 2, 1, 0, 0, 0, 0, 0, 0, 5) + b"a\0" + struct.pack("<Qddq", 1, 1.5, 2.5, -1)


def write_model(folder: Path, cameras: bytes = COLMAP_CAMERAS, images: bytes = COLMAP_IMAGES) -> Path:
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)
    return folder


def test_every_truncation_of_a_binary_model_is_refused(tmp_path: Path) -> None:
    assert len(read_cameras(write_model(tmp_path)).cameras) == 1
    for end in range(len(COLMAP_CAMERAS)):
        refusal(write_model(tmp_path, cameras=COLMAP_CAMERAS[:end]))
    for end in range(len(COLMAP_IMAGES)):
        refusal(write_model(tmp_path, images=COLMAP_IMAGES[:end]))


@pytest.mark.parametrize("count", [2, 10**6, 2**63, 2**64 - 1])
def test_absurd_counts_are_refused_without_taking_memory(count: int, tmp_path: Path) -> None:
    header = struct.pack("<Q", count)
    observations = COLMAP_IMAGES[:-32] + header + COLMAP_IMAGES[-24:]
    tracemalloc.start()
    for broken in (
        {"cameras": header + COLMAP_CAMERAS[8:]},
        {"images": header + COLMAP_IMAGES[8:]},
        {"images": observations},
    ):
        refusal(write_model(tmp_path, **broken))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("cameras", "images", "words"),
    [
        (struct.pack("<QIiQQ4d", 1, 5, 99, 320, 240, 1, 1, 1, 1), COLMAP_IMAGES, ["model 99"]),
        (struct.pack("<QIiQQ4d", 1, 5, 2, 320, 240, 1, 1, 1, 1), COLMAP_IMAGES, ["SIMPLE_RADIAL", "undistort"]),
        (struct.pack("<QIiQQ4d", 1, 5, 1, 2**60, 240, 1, 1, 1, 1), COLMAP_IMAGES, ["image size"]),
        (struct.pack("<QIiQQ4d", 1, 5, 1, 32, 24, float("nan"), 1, 1, 1), COLMAP_IMAGES, ["not finite"]),
        (struct.pack("<QIiQQ4d", 1, 6, 1, 320, 240, 1, 1, 1, 1), COLMAP_IMAGES, ["'a'", "CAMERA_ID 5"]),
        (COLMAP_CAMERAS, struct.pack("<Q", 0), ["no image"]),
        (COLMAP_CAMERAS, COLMAP_IMAGES.replace(b"a\0", b"\xff\0"), ["UTF-8"]),
        (COLMAP_CAMERAS, COLMAP_IMAGES.replace(b"a\0", b"a" * 5000 + b"\0"), ["longer"]),
        (COLMAP_CAMERAS, COLMAP_IMAGES.replace(struct.pack("<d", 1), struct.pack("<d", 2), 1), ["quaternion"]),
        (COLMAP_CAMERAS, COLMAP_IMAGES.replace(struct.pack("<d", 1), struct.pack("<d", np.inf), 1), ["not finite"]),
    ],
)
def test_broken_binary_models_are_refused(cameras: bytes, images: bytes, words: list[str], tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, cameras, images))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("cameras", "images", "words"),
    [
        ("1 PINHOLE 320 240 300 310 160\n", "1 1 0 0 0 0 0 0 1 a\n\n", ["line 1", "3 parameters"]),
        ("1 OPENCV 320 240 300 310 160 120 0 0 0 0\n", "1 1 0 0 0 0 0 0 1 a\n\n", ["OPENCV", "undistort"]),
        ("1 PINHOLE x 240 300 310 160 120\n", "1 1 0 0 0 0 0 0 1 a\n\n", ["line 1", "'x'"]),
        ("1 PINHOLE\n", "1 1 0 0 0 0 0 0 1 a\n\n", ["line 1", "MODEL"]),
        ("1 PINHOLE 320 240 300 310 160 120\n", "1 1 0 0 0 0 0 0 1\n\n", ["line 1", "NAME"]),
        ("1 PINHOLE 320 240 300 310 160 120\n", "1 1 0 0 q 0 0 0 1 a\n\n", ["line 1", "'q'"]),
        ("1 PINHOLE 320 240 300 310 160 120\n", "# nothing\n", ["no image"]),
        (
            "1 PINHOLE 320 240 300 310 160 120\n2 PINHOLE 64 48 300 310 32 24\n",
            "1 1 0 0 0 0 0 0 1 a\n\n2 1 0 0 0 0 0 0 2 b\n\n",
            ["different image sizes"],
        ),
    ],
)
def test_broken_text_models_are_refused(cameras: str, images: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text(images)
    message = refusal(tmp_path)
    for word in words:
        assert word in message


def test_a_model_with_bytes_in_its_text_or_another_convention_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "images.txt").write_text("")
    assert "UTF-8" in refusal(tmp_path)
    assert "always 'opencv-w2c'" in refusal(tmp_path, "opengl-c2w")


def mutate(value: object, generator: random.Random) -> object:
    """`value` with one random part replaced, removed or repeated."""
    junk = [None, True, -1, 0, 1e308, float("nan"), 10**400, "x", "", [], {}, [[]], {"extrinsic": 1}]
    if isinstance(value, dict) and value and generator.random() < 0.9:
        key = generator.choice(sorted(value))
        if generator.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutate(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.9:
        i = generator.randrange(len(value))
        if generator.random() < 0.15:
            return value[:i] + value[i + 1 :]
        return [*value[:i], mutate(value[i], generator), *value[i + 1 :]]
    return copy.deepcopy(generator.choice(junk))


@pytest.mark.parametrize("base", [OFFICIAL, TRANSFORMS, FRAMES, MIRROR, BANK, [EYE]], ids="otfmbl")
def test_randomly_broken_json_gives_cameras_or_an_input_error(base: object, tmp_path: Path) -> None:
    generator = random.Random(0)
    path = tmp_path / "camera.json"
    refused = 0
    for _ in range(150):
        path.write_text(json.dumps(mutate(base, generator)), encoding="utf-8")
        try:
            read_cameras(path)
        except InputError:
            refused += 1
    assert refused > 50


def cameras(count: int = 2, skew: float = 0.0) -> Cameras:
    k = torch.tensor(K).repeat(count, 1, 1)
    k[:, 0, 1] = skew
    return Cameras(torch.eye(4).repeat(count, 1, 1), k, 320, 240)


def test_writers_refuse_what_a_format_cannot_hold(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    with pytest.raises(InputError, match="skew"):
        write_transforms(tmp_path / "t.json", cameras(skew=1.0), names)
    with pytest.raises(InputError, match="skew"):
        write_realestate10k(tmp_path / "t.txt", cameras(skew=1.0), "https://x.y")
    for write in (write_colmap_text, write_colmap_binary):
        with pytest.raises(InputError, match="skew"):
            write(tmp_path / "model", cameras(skew=1.0), names)
        with pytest.raises(InputError, match="3 image names but 2 cameras"):
            write(tmp_path / "model", cameras(), [*names, "c.png"])
        with pytest.raises(InputError, match="differ"):
            write(tmp_path / "model", cameras(), ["a.png", "a.png"])
        with pytest.raises(InputError, match="control"):
            write(tmp_path / "model", cameras(), ["a.png", "b\n.png"])
    with pytest.raises(InputError, match="differ"):
        write_official_bank(tmp_path / "cameras.json", cameras(), ["a", "a"])
    with pytest.raises(InputError, match="address"):
        write_realestate10k(tmp_path / "t.txt", cameras(), "no address")
    with pytest.raises(InputError, match="1 timestamps but 2 cameras"):
        write_realestate10k(tmp_path / "t.txt", cameras(), "https://x.y", [1])
    assert list(tmp_path.iterdir()) == []


def test_text_and_binary_models_do_not_mix_in_one_folder(tmp_path: Path) -> None:
    write_colmap_binary(tmp_path, cameras(), ["a", "b"])
    with pytest.raises(InputError, match=r"already holds cameras\.bin"):
        write_colmap_text(tmp_path, cameras(), ["a", "b"])


def test_cameras_with_skew_go_to_the_official_format(tmp_path: Path) -> None:
    write_official(tmp_path / "camera.json", cameras(skew=1.5))
    assert read_cameras(tmp_path / "camera.json").cameras.intrinsics[0, 0, 1] == 1.5


@pytest.mark.parametrize(
    ("offset", "spread", "held"),
    [((500_000.0, 4_000_000.0, 100.0), 5.0, False), ((500_000.0, 4_000_000.0, 100.0), 500.0, True),
     ((1.0, 2.0, 3.0), 0.0, True), ((500_000.0, 0.0, 0.0), 0.0, False)],
)  # fmt: skip
def test_places_that_single_precision_merges_are_refused_with_their_offset(tmp_path, offset, spread, held):
    poses = [[[1, 0, 0, -offset[0] - spread * i], [0, 1, 0, -offset[1]], [0, 0, 1, -offset[2]], [0, 0, 0, 1]]
             for i in range(2)]  # fmt: skip
    path = tmp_path / "camera.json"
    intrinsics = [[[60, 0, 32], [0, 60, 24], [0, 0, 1]]] * 2
    path.write_text(json.dumps({"extrinsic": poses, "intrinsic": intrinsics, "width": 64, "height": 48}))
    if held:
        assert len(read_cameras(path).cameras) == 2
    else:
        with pytest.raises(InputError, match=r"camera\.json: the cameras stand around \(5.*; subtract that offset"):
            read_cameras(path)
