"""Which format a camera file has, by its content."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.files.camera_file import CameraFile, Stated
from worldstereo.cameras.files.colmap import is_colmap, read_colmap
from worldstereo.cameras.files.conventions import CONVENTIONS, Convention
from worldstereo.cameras.files.fields import Field
from worldstereo.cameras.files.frames import read_frames
from worldstereo.cameras.files.official import (
    is_bank,
    is_pose_lists,
    is_world_mirror,
    read_bank,
    read_bare_poses,
    read_pose_lists,
    read_world_mirror,
)
from worldstereo.cameras.files.realestate10k import read_realestate10k
from worldstereo.cameras.files.transforms import read_transforms
from worldstereo.errors import InputError
from worldstereo.files import read_json

_JSON_NAMES = ("camera.json", "cameras.json", "transforms.json")
_COLMAP_FOLDERS = (".", "sparse", "sparse/0")


def read_cameras(
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    convention: Convention | None = None,
    intrinsics: Float[Tensor, "3 3"] | None = None,
) -> CameraFile:
    """Read cameras from a file or folder of any known format; the content decides which.

    Known are the official `camera.json` and `cameras.json`, WorldMirror's `cameras.json`, JSON with a list of
    `frames`, nerfstudio's `transforms.json`, RealEstate10K text, COLMAP models (text and binary), and folders that
    hold one of these (for a whole scene of the official release with its trajectories: `read_official_scene`).

    Args:
        path: the file, or the folder that holds it.
        width: image width in pixels, used where the file does not say it.
        height: image height, likewise. Without either, a picture that the format places beside the file is asked.
        convention: what the matrices mean; overrules what a JSON file says, never what a format fixes.
        intrinsics: in pixels, for JSON that holds poses alone.

    Raises:
        InputError: the file cannot be read; is of no known format; may mean several things (they are named); or a
            field is missing, wrong, not finite or no rotation (it is named).
    """
    path = Path(path)
    if convention is not None and convention not in CONVENTIONS:
        raise InputError(f"convention='{convention}' is unknown; choose one of {', '.join(CONVENTIONS)}")
    stated = Stated(width, height, convention, intrinsics)
    if path.is_dir():
        path = _camera_file_in(path)
    elif path.suffix in (".bin", ".txt") and path.stem in ("cameras", "images", "points3D") and is_colmap(path.parent):
        path = path.parent
    if path.is_dir():
        return read_colmap(path, stated)
    start = _first_character(path)
    if start in ("{", "["):
        return _read_json_cameras(Field(path, "", read_json(path)), stated)
    return _read_text_cameras(path, stated)


def _camera_file_in(folder: Path) -> Path:
    """The one camera file of a folder: a JSON file, or the folder of a COLMAP model."""
    found = [folder / name for name in _JSON_NAMES if (folder / name).is_file()]
    found += [folder / sub for sub in _COLMAP_FOLDERS if is_colmap(folder / sub)]
    if not found and (folder / "pano_bank" / "cameras.json").is_file():
        found = [folder / "pano_bank" / "cameras.json"]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(entry.relative_to(folder)) for entry in found)
        raise InputError(f"{folder}: holds several camera files ({listed}); name the one that is meant")
    deeper = sorted(folder.glob("*/*/camera.json"))
    if deeper:
        listed = ", ".join(entry.relative_to(folder).as_posix() for entry in deeper)
        raise InputError(f"{folder}: holds one camera file a trajectory ({listed}); name the one that is meant")
    raise InputError(f"{folder}: holds no camera file ({', '.join(_JSON_NAMES)} or a COLMAP model)")


def _read_json_cameras(root: Field, stated: Stated) -> CameraFile:
    if isinstance(root.value, list):
        return read_bare_poses(root, stated)
    if "frames" in root:
        frame = root["frames"].elements()[0]
        return read_transforms(root, stated) if "transform_matrix" in frame else read_frames(root, stated)
    if is_world_mirror(root):
        return read_world_mirror(root, stated)
    if is_pose_lists(root):
        return read_pose_lists(root, stated)
    if is_bank(root):
        return read_bank(root, stated)
    raise root.fail(
        "holds no cameras in a known form: 'extrinsic' and 'intrinsic' lists (camera.json), named entries with both "
        "(cameras.json), or 'frames' with 'transform_matrix' (transforms.json) or with 'K' and 'w2c'"
    )


def _read_text_cameras(path: Path, stated: Stated) -> CameraFile:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is neither text nor a known binary camera file") from None
    words = lines[0].split() if lines else []
    if len(words) == 1 and "://" in words[0]:
        return read_realestate10k(path, lines, stated)
    if len(words) == 19:
        raise InputError(f"{path}: looks like RealEstate10K text without its first line, the video's address; add it")
    if len(words) in (4, 12, 16):
        raise InputError(
            f"{path}: holds bare matrices, which may be world-to-camera or camera-to-world, and no intrinsics; "
            "write a camera.json or transforms.json, which say both"
        )
    raise InputError(f"{path}: is no camera file of a known format (JSON, RealEstate10K text, COLMAP)")


def _first_character(path: Path) -> str:
    """The first character that is no space, or "" of a file that is no text."""
    try:
        with path.open("rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return start[:1].decode("ascii", errors="ignore")
