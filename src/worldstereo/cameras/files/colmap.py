"""COLMAP sparse models, text and binary (https://colmap.github.io/format.html).

Poses are world-to-camera in OpenCV axes as quaternion (w, x, y, z) and translation; pixel centres are at +0.5.
A model is a folder with `cameras`, `images` and `points3D`, all `.txt` or all `.bin` (little endian). Newer versions
add `rigs` and `frames`, which models of one camera a frame do not need.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files.camera_file import (
    CameraFile,
    Stated,
    as_float64,
    build,
    image_size,
    require_names,
    require_no_skew,
)
from worldstereo.cameras.files.colmap_points import Observations, Tracks, write_points_binary, write_points_text
from worldstereo.cameras.files.colmap_reading import BinaryReader, lines, real, whole
from worldstereo.cameras.files.conventions import require_format_convention
from worldstereo.cameras.rotations import matrix_from_quaternion, quaternion_from_matrix
from worldstereo.errors import InputError
from worldstereo.files import atomic_path

# Number, name and count of parameters of the camera models; the first two are pinholes.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_PINHOLE = 1
_POINT2D_BYTES = 24


@dataclass(frozen=True)
class _Lens:
    width: int
    height: int
    intrinsics: np.ndarray


@dataclass(frozen=True)
class _Image:
    name: str
    camera_id: int
    quaternion_translation: tuple[float, ...]


def is_colmap(folder: Path) -> bool:
    """Whether the folder holds a sparse model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")) and any(
        (folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt")
    )


def read_colmap(folder: Path, stated: Stated) -> CameraFile:
    """Read the cameras of a sparse model, ordered by image name; binary is taken where both kinds exist.

    Observations are skipped without being held, so memory is bounded by the number of images.

    Raises:
        InputError: a file is missing, cut off or malformed, a lens is no pinhole, or images differ in size.
    """
    require_format_convention("a COLMAP model", "opencv-w2c", stated.convention, folder)
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    cameras_path, images_path = folder / f"cameras{suffix}", folder / f"images{suffix}"
    lenses = dict(_read_lenses_binary(cameras_path) if binary else _read_lenses_text(cameras_path))
    images = list(_read_images_binary(images_path) if binary else _read_images_text(images_path))
    if not images:
        raise InputError(f"{images_path}: has no image; the model is empty")
    images.sort(key=lambda image: image.name)
    for image in images:
        if image.camera_id not in lenses:
            raise InputError(
                f"{images_path}: image '{image.name}' has CAMERA_ID {image.camera_id}, which is not in {cameras_path}"
            )
    used = [lenses[image.camera_id] for image in images]
    sizes = {(lens.width, lens.height) for lens in used}
    if len(sizes) > 1:
        raise InputError(f"{cameras_path}: has cameras of different image sizes {sorted(sizes)}; they must be equal")
    rows = np.array([image.quaternion_translation for image in images])
    if not np.isfinite(rows).all() or (np.abs(np.linalg.norm(rows[:, :4], axis=1) - 1) > 1e-2).any():
        raise InputError(f"{images_path}: a pose is not finite, or its quaternion has not length 1")
    poses = np.zeros((len(rows), 4, 4))
    poses[:, :3, :3] = matrix_from_quaternion(torch.from_numpy(rows[:, :4])).numpy()
    poses[:, :3, 3] = rows[:, 4:]
    poses[:, 3, 3] = 1
    return build(folder, poses, [lens.intrinsics for lens in used], sizes.pop(), [image.name for image in images])


def write_colmap_text(
    folder: str | Path,
    cameras: Cameras,
    image_names: Sequence[str],
    points: Float[Tensor, "p 3"] | None = None,
    colors: Float[Tensor, "p 3"] | None = None,
    observations: Observations | None = None,
) -> None:
    """Write `cameras.txt`, `images.txt` and `points3D.txt`.

    Args:
        folder: of the model, usually `sparse/0`; created if missing.
        cameras: without skew; cameras with equal intrinsics share one PINHOLE entry.
        image_names: paths of the pictures relative to the image folder.
        points: in the world of the cameras. None writes an empty point file.
        colors: RGB of the points in [0, 1]; white if none.
        observations: which images see which points; dense stereo and some trainers need them. None writes no tracks.
    """
    folder = Path(folder)
    _require_no_other_kind(folder, ".bin")
    model = _Model.of(folder, cameras, image_names, points, colors, observations)
    with atomic_path(folder / "cameras.txt") as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            f"# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]: fx fy cx cy\n# Number of cameras: {len(model.lenses)}\n"
        )
        for i, parameters in enumerate(model.lenses, start=1):
            file.write(f"{i} PINHOLE {cameras.width} {cameras.height} {_numbers(parameters)}\n")
    with atomic_path(folder / "images.txt") as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(
            "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; then a line of POINTS2D[] as X, Y, POINT3D_ID\n"
        )
        file.write(f"# Number of images: {len(model.poses)}\n")
        for i, (pose, lens, name) in enumerate(zip(model.poses, model.lens_of, image_names, strict=True), start=1):
            seen = model.tracks.of_image(i - 1)
            places = " ".join(
                f"{x:.9g} {y:.9g} {point}" for (x, y), point in zip(seen["pixel"], seen["point"], strict=True)
            )
            file.write(f"{i} {_numbers(pose)} {lens + 1} {name}\n{places}\n")
    with atomic_path(folder / "points3D.txt") as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n")
        file.write(f"# Number of points: {len(model.points)}\n")
        write_points_text(file, model.points, model.colors, model.tracks)


def write_colmap_binary(
    folder: str | Path,
    cameras: Cameras,
    image_names: Sequence[str],
    points: Float[Tensor, "p 3"] | None = None,
    colors: Float[Tensor, "p 3"] | None = None,
    observations: Observations | None = None,
) -> None:
    """Write `cameras.bin`, `images.bin` and `points3D.bin`; arguments as of `write_colmap_text`."""
    folder = Path(folder)
    _require_no_other_kind(folder, ".txt")
    model = _Model.of(folder, cameras, image_names, points, colors, observations)
    with atomic_path(folder / "cameras.bin") as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(model.lenses)))
        for i, parameters in enumerate(model.lenses, start=1):
            file.write(struct.pack("<IiQQ4d", i, _PINHOLE, cameras.width, cameras.height, *parameters))
    with atomic_path(folder / "images.bin") as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(model.poses)))
        for i, (pose, lens, name) in enumerate(zip(model.poses, model.lens_of, image_names, strict=True), start=1):
            seen = model.tracks.of_image(i - 1)
            file.write(struct.pack("<I7dI", i, *pose, lens + 1) + name.encode() + b"\0" + struct.pack("<Q", len(seen)))
            file.write(seen.tobytes())
    with atomic_path(folder / "points3D.bin") as temporary, temporary.open("wb") as file:
        write_points_binary(file, model.points, model.colors, model.tracks)


@dataclass(frozen=True)
class _Model:
    """What both writers need: distinct lenses, the lens and pose of each image, points, colours and tracks."""

    lenses: np.ndarray
    lens_of: np.ndarray
    poses: np.ndarray
    points: np.ndarray
    colors: np.ndarray
    tracks: Tracks

    @classmethod
    def of(
        cls,
        folder: Path,
        cameras: Cameras,
        names: Sequence[str],
        points: Tensor | None,
        colors: Tensor | None,
        observations: Observations | None,
    ) -> "_Model":
        require_names(folder, cameras, names)
        require_no_skew(folder, cameras, "a COLMAP PINHOLE camera")
        if points is None:
            points = torch.zeros(0, 3)
        if colors is None:
            colors = torch.ones(len(points), 3)
        if len(points) != len(colors):
            raise InputError(f"{folder}: there are {len(points)} points but {len(colors)} colors")
        matrices, k = as_float64(cameras)
        lenses, lens_of = np.unique(k[:, [0, 1, 0, 1], [0, 1, 2, 2]], axis=0, return_inverse=True)
        quaternions = quaternion_from_matrix(torch.from_numpy(matrices[:, :3, :3])).numpy()
        poses = np.concatenate([quaternions, matrices[:, :3, 3]], axis=1)
        rgb = (colors.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        tracks = Tracks(folder, observations or Observations.none(), len(cameras), len(points))
        return cls(lenses, lens_of.reshape(-1), poses, points.cpu().double().numpy(), rgb, tracks)


def _require_no_other_kind(folder: Path, suffix: str) -> None:
    """Refuse to write beside the files of the other kind, so that readers cannot take the wrong ones."""
    for name in ("cameras", "images", "points3D"):
        if (folder / f"{name}{suffix}").exists():
            raise InputError(f"{folder}: already holds {name}{suffix}; choose an empty folder or delete it")


def _read_lenses_text(path: Path) -> Iterator[tuple[int, _Lens]]:
    for number, line in lines(path):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{path}: line {number}"
        if len(words) < 5:
            raise InputError(f"{where} must be CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]")
        camera_id, width, height = (whole(words[i], where) for i in (0, 2, 3))
        yield camera_id, _lens(where, path, words[1], width, height, [real(word, where) for word in words[4:]])


def _read_images_text(path: Path) -> Iterator[_Image]:
    numbered = lines(path)
    for number, line in numbered:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(maxsplit=9)
        where = f"{path}: line {number}"
        if len(words) < 10:
            raise InputError(f"{where} must be IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME")
        yield _Image(words[9].strip(), whole(words[8], where), tuple(real(word, where) for word in words[1:8]))
        next(numbered, None)  # the observations, possibly an empty line


def _read_lenses_binary(path: Path) -> Iterator[tuple[int, _Lens]]:
    with BinaryReader.open(path) as file:
        for index in range(file.count(minimum_bytes=24)):
            camera_id, model, width, height = file.unpack("<IiQQ")
            where = f"{path}: camera {index}"
            if model not in _MODELS:
                raise InputError(
                    f"{where} has the unknown camera model {model}; undistort the images with COLMAP first"
                )
            name, parameters = _MODELS[model]
            yield camera_id, _lens(where, path, name, width, height, list(file.unpack(f"<{parameters}d")))


def _read_images_binary(path: Path) -> Iterator[_Image]:
    with BinaryReader.open(path) as file:
        for _ in range(file.count(minimum_bytes=73)):
            _, *pose, camera_id = file.unpack("<I7dI")
            name = file.name()
            file.skip(file.unpack("<Q")[0] * _POINT2D_BYTES)
            yield _Image(name, camera_id, tuple(pose))


def _lens(where: str, path: Path, model: str, width: int, height: int, parameters: list[float]) -> _Lens:
    if model == "SIMPLE_PINHOLE" and len(parameters) == 3:
        fx, cx, cy = parameters
        fy = fx
    elif model == "PINHOLE" and len(parameters) == 4:
        fx, fy, cx, cy = parameters
    elif model in ("SIMPLE_PINHOLE", "PINHOLE"):
        raise InputError(f"{where} has {len(parameters)} parameters, which does not fit the model {model}")
    else:
        raise InputError(
            f"{where} has the model {model} but only PINHOLE and SIMPLE_PINHOLE can be read; "
            "undistort the images first (colmap image_undistorter)"
        )
    size = image_size(path, (width, height), Stated())
    return _Lens(*size, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.12g}" for value in values)
