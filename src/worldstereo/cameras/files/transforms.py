"""nerfstudio's `transforms.json`: camera-to-world matrices in OpenGL axes, intrinsics in pixels.

Read as https://docs.nerf.studio/quickstart/data_conventions.html describes it, with the variants of instant-ngp and
Blender (`camera_angle_x` in radians in place of `fl_x`).
"""

from collections.abc import Sequence
from math import pi, tan
from pathlib import Path
from typing import Any

import numpy as np

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.files.camera_file import (
    CameraFile,
    Stated,
    as_float64,
    build,
    image_size,
    require_names,
    require_no_skew,
    require_pixels,
    require_rigid,
    with_picture_suffixes,
)
from worldstereo.cameras.files.conventions import claims_of, from_cam_from_world, resolve, to_cam_from_world
from worldstereo.cameras.files.fields import Field
from worldstereo.cameras.files.official import statement
from worldstereo.files import write_json

_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


def read_transforms(root: Field, stated: Stated) -> CameraFile:
    """Read the file, in the order of its frames.

    `applied_transform` and `applied_scale`, which nerfstudio's converters put into the poses, are undone, so that
    the world is the one from before the conversion.

    Raises:
        InputError: a field is missing or wrong, the lens is no pinhole, or frames differ in size.
    """
    frames = root["frames"].elements()
    convention = resolve(frames[0]["transform_matrix"], claims_of(root) | {"opengl", "c2w"}, stated.convention)
    poses = np.stack([frame["transform_matrix"].pose() for frame in frames])
    require_rigid(root.path, poses, "transform_matrix")
    cam_from_world = _undo_conversion(root, to_cam_from_world(poses, convention))
    sizes, intrinsics = zip(*(_intrinsics(root, frame, stated) for frame in frames), strict=True)
    if len(set(sizes)) > 1:
        raise root.fail(f"has frames of different image sizes {sorted(set(sizes))}; they must be equal")
    require_pixels(root.path, np.stack(intrinsics), sizes[0][0])
    names = [frame["file_path"].text() if "file_path" in frame else "" for frame in frames]
    return build(root.path, cam_from_world, np.stack(intrinsics), sizes[0], names)


def write_transforms(
    path: str | Path, cameras: Cameras, image_names: Sequence[str], ply_file_path: str | None = None
) -> None:
    """Write the file.

    Args:
        path: the file.
        cameras: without skew.
        image_names: the pictures' paths relative to the file's folder.
        ply_file_path: likewise of a cloud in the world of the cameras, from which splats are started.
    """
    path = Path(path)
    require_names(path, cameras, image_names)
    require_no_skew(path, cameras, "transforms.json")
    poses, intrinsics = as_float64(cameras)
    world_from_cam = from_cam_from_world(poses, "opengl-c2w")
    frames = [
        {"file_path": name, "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
        | {"w": cameras.width, "h": cameras.height, "transform_matrix": pose.tolist()}
        for name, pose, k in zip(image_names, world_from_cam, intrinsics, strict=True)
    ]
    value: dict[str, Any] = {"camera_model": "OPENCV", "w": cameras.width, "h": cameras.height}
    value |= dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    if ply_file_path is not None:
        value["ply_file_path"] = ply_file_path
    write_json(path, value | statement(cameras, "opengl-c2w") | {"frames": frames})


def _undo_conversion(root: Field, cam_from_world: np.ndarray) -> np.ndarray:
    """Poses in the world X of which the file's world is `applied_scale` · `applied_transform` @ X."""
    if "applied_scale" in root:
        scale = root["applied_scale"].number()
        if scale <= 0:
            raise root["applied_scale"].fail("must be positive")
        cam_from_world = cam_from_world.copy()
        cam_from_world[:, :3, 3] /= scale
    if "applied_transform" in root:
        transform = root["applied_transform"].pose()
        require_rigid(root.path, transform[None], "applied_transform")
        cam_from_world = cam_from_world @ transform
    return cam_from_world


def _intrinsics(root: Field, frame: Field, stated: Stated) -> tuple[tuple[int, int], np.ndarray]:
    """Image size and 3×3 intrinsics of one frame, whose own values go before the file's."""

    def number(name: str) -> float | None:
        holder = frame if name in frame else root
        return holder[name].number() if name in holder else None

    _require_pinhole(root, frame)
    in_file = None
    if any(side in holder for side in ("w", "h") for holder in (frame, root)):
        holder_w, holder_h = (frame if side in frame else root for side in ("w", "h"))
        in_file = (holder_w["w"].number(), holder_h["h"].number())
    pictures = with_picture_suffixes(root.path.parent / frame["file_path"].text()) if "file_path" in frame else []
    width, height = image_size(root.path, in_file, stated, pictures)

    fx, fy = number("fl_x"), number("fl_y")
    if fx is None:
        fx = _focal(root, number("camera_angle_x"), "camera_angle_x", width)
    if fy is None:
        angle_y = number("camera_angle_y")
        fy = fx if angle_y is None else _focal(root, angle_y, "camera_angle_y", height)
    cx, cy = number("cx"), number("cy")
    k = np.array([[fx, 0, width / 2 if cx is None else cx], [0, fy, height / 2 if cy is None else cy], [0, 0, 1]])
    return (width, height), k


def _focal(root: Field, angle: float | None, name: str, side: int) -> float:
    if angle is None:
        raise root.fail("has neither 'fl_x' (pixels) nor 'camera_angle_x' (radians); add one of them")
    if not 0 < angle < pi:
        raise root.fail(f"has {name} = {angle:g}, which must lie between 0 and π radians")
    return side / (2 * tan(angle / 2))


def _require_pinhole(root: Field, frame: Field) -> None:
    for holder in (root, frame):
        if "camera_model" in holder and holder["camera_model"].text() not in _MODELS:
            raise holder["camera_model"].fail(
                f"is '{holder['camera_model'].text()}', which is no pinhole; undistort the images first"
            )
        if "is_fisheye" in holder and holder["is_fisheye"].value:
            raise holder["is_fisheye"].fail("is set; undistort the images first")
        for name in _DISTORTION:
            if name in holder and holder[name].number() != 0:
                raise holder[name].fail("is a lens distortion; undistort the images first and set it to 0")
