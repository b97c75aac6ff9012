"""JSON with a list of `frames`, each with `K`, `width`, `height` and one pose named by its direction (`w2c`, ...)."""

import numpy as np

from worldstereo.cameras.files.camera_file import CameraFile, Stated, build, image_size, require_rigid
from worldstereo.cameras.files.conventions import Claim, claims_of, resolve, to_cam_from_world
from worldstereo.cameras.files.fields import Field
from worldstereo.cameras.files.official import read_intrinsics

_POSE_FIELDS: dict[str, Claim] = {"w2c": "w2c", "cam_from_world": "w2c", "c2w": "c2w", "world_from_cam": "c2w"}


def read_frames(root: Field, stated: Stated) -> CameraFile:
    """Read such a file; the axes must be named in its field `convention` or stated by the caller."""
    frames = root["frames"].elements()
    present = [name for name in _POSE_FIELDS if name in frames[0]]
    if len(present) != 1:
        found = f"both '{present[0]}' and '{present[1]}'" if present else "none of them"
        raise frames[0].fail(
            f"must hold its pose under one of the names 'transform_matrix', {', '.join(map(repr, _POSE_FIELDS))}, "
            f"but has {found}"
        )
    pose_name = present[0]
    claims = claims_of(root) | {_POSE_FIELDS[pose_name]}
    convention = resolve(frames[0][pose_name], claims, stated.convention)
    poses = np.stack([frame[pose_name].pose() for frame in frames])
    require_rigid(root.path, poses, pose_name)
    sizes = {_size(root, frame, stated) for frame in frames}
    if len(sizes) > 1:
        raise root.fail(f"has frames of different image sizes {sorted(sizes)}; they must be equal")
    size = sizes.pop()
    intrinsics = read_intrinsics(root, np.stack([frame["K"].matrix(3, 3) for frame in frames]), size)
    names = [frame["image"].text() if "image" in frame else "" for frame in frames]
    return build(root.path, to_cam_from_world(poses, convention), intrinsics, size, names)


def _size(root: Field, frame: Field, stated: Stated) -> tuple[int, int]:
    holder = frame if "width" in frame or "height" in frame else root
    in_file = None
    if "width" in holder or "height" in holder:
        in_file = (holder["width"].number(), holder["height"].number())
    pictures = [root.path.parent / frame["image"].text()] if "image" in frame else []
    return image_size(root.path, in_file, stated, pictures)
