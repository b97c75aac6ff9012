"""JSON camera files of the official WorldStereo release: `camera.json`, the bank's `cameras.json`, WorldMirror's.

`camera.json`: `extrinsic`, a list of 4×4 world-to-camera matrices in OpenCV axes; `intrinsic`, a list of 3×3 matrices
in pixels of the image; optionally `width`, `height`. Lists of poses under other names are read too where their
convention is stated. `cameras.json` of a bank: an object of names, each with one `extrinsic` and one `intrinsic`.
WorldMirror's `cameras.json`: `extrinsics` and `intrinsics`, lists of `{camera_id, matrix}`, camera-to-world.
"""

from collections.abc import Sequence
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
    require_pixels,
    require_rigid,
    with_picture_suffixes,
)
from worldstereo.cameras.files.conventions import (
    CONVENTIONS,
    Claim,
    Convention,
    claims_of,
    from_cam_from_world,
    resolve,
    to_cam_from_world,
)
from worldstereo.cameras.files.fields import Field
from worldstereo.files import write_json

# What the name of a list of poses says about them.
_POSE_FIELDS: dict[str, set[Claim]] = {
    "extrinsic": {"opencv", "w2c"},
    "w2c": {"w2c"},
    "cam_from_world": {"w2c"},
    "c2w": {"c2w"},
    "world_from_cam": {"c2w"},
    "extrinsics": set(),
    "poses": set(),
}
_INTRINSIC_FIELDS = ("intrinsic", "intrinsics", "K")


def is_pose_lists(root: Field) -> bool:
    """Whether the file is an object with a list of poses."""
    return any(name in root for name in _POSE_FIELDS)


def is_bank(root: Field) -> bool:
    """Whether the file is an object of named entries that hold an `extrinsic` each."""
    return isinstance(root.value, dict) and any(
        isinstance(entry, dict) and "extrinsic" in entry for entry in root.value.values()
    )


def is_world_mirror(root: Field) -> bool:
    """Whether the file is a WorldMirror export or prior."""
    entries = root.value.get("extrinsics") if isinstance(root.value, dict) else None
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict)


def read_pose_lists(root: Field, stated: Stated) -> CameraFile:
    """Read `camera.json`, or another object that holds a list of poses and a list of intrinsics."""
    present = [name for name in _POSE_FIELDS if name in root]
    if len(present) > 1:
        raise root.fail(f"has poses under both '{present[0]}' and '{present[1]}'; delete the one that is not meant")
    field = root[present[0]]
    convention = resolve(field, _POSE_FIELDS[present[0]] | claims_of(root), stated.convention)
    poses = read_poses(field, convention)
    size = _size(root, stated, with_picture_suffixes(root.path.parent / "image"))
    named = [name for name in _INTRINSIC_FIELDS if name in root]
    if not named:
        raise root.fail("has poses but no field 'intrinsic'; add one 3×3 matrix in pixels for each pose")
    intrinsics = read_intrinsics(root, _matrices(root[named[0]], len(poses)), size)
    names = [""] * len(poses)
    if "image_names" in root:
        names = [name.text() for name in root["image_names"].elements()]
    return build(root.path, poses, intrinsics, size, names)


def read_bare_poses(root: Field, stated: Stated) -> CameraFile:
    """Read a list of poses alone, as 4×4, 3×4 or 12 numbers in rows; all else must be stated by the caller."""
    root.elements()
    poses = read_poses(root, resolve(root, set(), stated.convention))
    if stated.intrinsics is None:
        raise root.fail("holds poses without intrinsics; give them with intrinsics=, or write a camera.json with both")
    size = image_size(root.path, None, stated)
    intrinsics = np.repeat(stated.intrinsics.cpu().double().numpy()[None], len(poses), axis=0)
    return build(root.path, poses, intrinsics, size, [""] * len(poses))


def read_bank(root: Field, stated: Stated) -> CameraFile:
    """Read the `cameras.json` of a panorama bank; pictures for the size are sought in `images/` beside it."""
    entries = {key: entry for key, entry in root.items() if isinstance(entry.value, dict)}
    names, fields = list(entries), list(entries.values())
    claims = claims_of(root).union(_POSE_FIELDS["extrinsic"], *(claims_of(entry) for entry in fields))
    convention = resolve(fields[0]["extrinsic"], claims, stated.convention)
    matrices = np.stack([entry["extrinsic"].pose() for entry in fields])
    require_rigid(root.path, matrices, "extrinsic")
    folder = root.path.parent / "images"
    sizes = {_size(entry, stated, with_picture_suffixes(folder / key)) for key, entry in entries.items()}
    if len(sizes) > 1:
        raise root.fail(f"has cameras of different image sizes {sorted(sizes)}; they must be equal")
    size = sizes.pop()
    intrinsics = read_intrinsics(fields[0], np.stack([entry["intrinsic"].matrix(3, 3) for entry in fields]), size)
    return build(root.path, to_cam_from_world(matrices, convention), intrinsics, size, names)


def read_world_mirror(root: Field, stated: Stated) -> CameraFile:
    """Read WorldMirror's cameras (camera-to-world, OpenCV), in the order of the extrinsics."""
    convention = resolve(root["extrinsics"], claims_of(root) | {"opencv", "c2w"}, stated.convention)
    poses = {name: entry["matrix"].pose() for name, entry in _by_camera(root["extrinsics"]).items()}
    k = {name: entry["matrix"].matrix(3, 3) for name, entry in _by_camera(root["intrinsics"]).items()}
    if set(poses) != set(k):
        odd = sorted(set(poses) ^ set(k))[0]
        raise root.fail(f"has camera_id '{odd}' in only one of 'extrinsics' and 'intrinsics'; both must list it")
    matrices = np.stack(list(poses.values()))
    require_rigid(root.path, matrices, "extrinsics")
    folder = root.path.parent / "images"
    size = _size(root, stated, [p for name in poses for p in with_picture_suffixes(folder / name)])
    intrinsics = read_intrinsics(root, np.stack([k[name] for name in poses]), size)
    return build(root.path, to_cam_from_world(matrices, convention), intrinsics, size, list(poses))


def read_poses(field: Field, convention: Convention) -> np.ndarray:
    """`cam_from_world` [n, 4, 4] of a list of 4×4, 3×4 or 12 numbers in rows."""
    matrices = []
    for element in field.elements():
        value = element.value
        if isinstance(value, list) and len(value) == 12 and not isinstance(value[0], list):
            element = Field(element.path, element.name, [value[0:4], value[4:8], value[8:12]])
        matrices.append(element.pose())
    poses = np.stack(matrices)
    require_rigid(field.path, poses, field.name or "pose")
    return to_cam_from_world(poses, convention)


def read_intrinsics(root: Field, matrices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Intrinsics [n, 3, 3] in pixels, after what the field `intrinsic_units` of `root` says."""
    if "intrinsic_units" not in root:
        require_pixels(root.path, matrices, size[0])
        return matrices
    units = root["intrinsic_units"].text()
    if units == "pixels":
        return matrices
    if units in ("normalized", "normalised"):
        return matrices * np.array([size[0], size[1], 1.0])[:, None]
    raise root["intrinsic_units"].fail(f"is '{units}' but must be 'pixels' or 'normalized' (by the image size)")


def write_official(path: str | Path, cameras: Cameras, image_names: Sequence[str] = ()) -> None:
    """Write the official `camera.json`; image names go to an extra field that the official scripts ignore."""
    poses, intrinsics = as_float64(cameras)
    value: dict[str, Any] = {"extrinsic": poses.tolist(), "intrinsic": intrinsics.tolist()}
    if image_names:
        require_names(Path(path), cameras, image_names)
        value["image_names"] = list(image_names)
    write_json(path, value | statement(cameras, "opencv-w2c"))


def write_official_bank(path: str | Path, cameras: Cameras, image_names: Sequence[str]) -> None:
    """Write a bank's `cameras.json`; the extra fields go into each entry, as its readers take every key for a name."""
    require_names(Path(path), cameras, image_names)
    poses, intrinsics = as_float64(cameras)
    extra = statement(cameras, "opencv-w2c")
    entries = {
        name: {"intrinsic": k.tolist(), "extrinsic": pose.tolist(), **extra}
        for name, pose, k in zip(image_names, poses, intrinsics, strict=True)
    }
    write_json(path, entries)


def write_world_mirror(path: str | Path, cameras: Cameras, camera_ids: Sequence[str]) -> None:
    """Write cameras as priors for WorldMirror; `camera_ids` are the stems of its image files."""
    require_names(Path(path), cameras, camera_ids)
    poses, intrinsics = as_float64(cameras)
    world_from_cam = from_cam_from_world(poses, "opencv-c2w")
    value = {
        "num_cameras": len(cameras),
        "extrinsics": [
            {"camera_id": name, "matrix": pose.tolist()} for name, pose in zip(camera_ids, world_from_cam, strict=True)
        ],
        "intrinsics": [
            {"camera_id": name, "matrix": k.tolist()} for name, k in zip(camera_ids, intrinsics, strict=True)
        ],
    }
    write_json(path, value | statement(cameras, "opencv-c2w"))


def statement(cameras: Cameras, convention: Convention) -> dict[str, Any]:
    """The extra fields in which every JSON of ours says what it means."""
    return {
        "width": cameras.width,
        "height": cameras.height,
        "convention": CONVENTIONS[convention],
        "intrinsic_units": "pixels",
        "pixel_centres": "+0.5",
    }


def _by_camera(field: Field) -> dict[str, Field]:
    """The entries of a list by their `camera_id`."""
    entries: dict[str, Field] = {}
    for entry in field.elements():
        name = str(entry["camera_id"].value)
        if name in entries:
            raise entry.fail(f"repeats the camera_id '{name[:40]}'; each camera must have its own")
        entries[name] = entry
    return entries


def _matrices(field: Field, count: int) -> np.ndarray:
    """A list of 3×3 matrices, or one 3×3 matrix for all."""
    elements = field.elements()
    first = elements[0].value
    if isinstance(first, list) and first and not isinstance(first[0], list):
        return np.repeat(field.matrix(3, 3)[None], count, axis=0)
    return np.stack([element.matrix(3, 3) for element in elements])


def _size(field: Field, stated: Stated, pictures: Sequence[Path]) -> tuple[int, int]:
    in_file = None
    if "width" in field or "height" in field:
        in_file = (field["width"].number(), field["height"].number())
    return image_size(field.path, in_file, stated, pictures)
