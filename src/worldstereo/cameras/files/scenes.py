"""Scene folders of the official WorldStereo release, as they are on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldstereo.cameras.files.camera_file import CameraFile, existing_picture, picture_size, with_picture_suffixes
from worldstereo.cameras.files.detect import read_cameras
from worldstereo.cameras.files.fields import Field
from worldstereo.errors import InputError
from worldstereo.files import read_json

_RECONSTRUCTION_ORDER = ("traj_eloop", "traj_up", "traj_right", "traj_left")


@dataclass(frozen=True)
class OfficialTrajectory:
    """One camera path of a scene.

    Attributes:
        name: folder below the scene, such as `view0/traj2` or `renders/traj_up`.
        camera_file: the cameras of its frames.
        prompt: its caption, or the scene's.
        start_image: the picture that it starts from; None where that is the last frame of another clip.
        render: video of the point cloud along the path, if there.
        render_mask: video of its holes (white = hole), if there.
    """

    name: str
    camera_file: CameraFile
    prompt: str
    start_image: Path | None
    render: Path | None
    render_mask: Path | None


@dataclass(frozen=True)
class OfficialScene:
    """A scene folder.

    Attributes:
        kind: `image` (one picture, one path), `panorama` (a bank of crops and many paths), or `reconstruction`
            (one picture, four paths with point renders).
        image: the input picture; None for a panorama.
        bank: cameras of the panorama's crops, else None.
        bank_images: the crops, in the bank's order; empty else.
        trajectories: in the order in which the official release runs them.
    """

    kind: Literal["image", "panorama", "reconstruction"]
    image: Path | None
    bank: CameraFile | None
    bank_images: tuple[Path, ...]
    trajectories: tuple[OfficialTrajectory, ...]


def read_official_scene(folder: str | Path) -> OfficialScene:
    """Read `images/<scene>/`, `panorama/<scene>/` or `reconstruction/<scene>/` of the official release.

    Panorama views whose `valid_analysis.json` does not say `valid: yes` are left out, as in the release.

    Raises:
        InputError: the folder is none of these, or a file of it is missing or wrong.
    """
    folder = Path(folder)
    if (folder / "pano_bank").is_dir():
        bank = read_cameras(folder / "pano_bank" / "cameras.json")
        images = tuple(_require_picture(folder / "pano_bank" / "images" / name) for name in bank.names)
        names = _panorama_order(folder)
        size = (bank.cameras.width, bank.cameras.height)
        return OfficialScene("panorama", None, bank, images, _trajectories(folder, names, None, size))
    if not (folder / "renders").is_dir() and not (folder / "camera.json").is_file():
        raise InputError(f"{folder}: is no scene of the official release (no camera.json, renders/ or pano_bank/)")
    image = _require_picture(folder / "image")
    size = picture_size(image)
    if (folder / "renders").is_dir():
        names = [f"renders/{name}" for name in _RECONSTRUCTION_ORDER if (folder / "renders" / name).is_dir()]
        return OfficialScene("reconstruction", image, None, (), _trajectories(folder, names, image, size))
    return OfficialScene("image", image, None, (), _trajectories(folder, ["."], image, size))


def _panorama_order(folder: Path) -> list[str]:
    """Views (aerial path first), targets, first halves of reconstructions, explorations, second halves."""

    def groups(prefix: str) -> list[Path]:
        return sorted(path for path in folder.glob(f"{prefix}*") if path.is_dir() and _is_valid(path))

    ordered = [view / trajectory for view in groups("view") for trajectory in ("traj2", "traj0", "traj1")]
    ordered += [path for target in groups("target") for path in sorted(target.glob("traj*"))]
    ordered += [group / "traj0" for group in groups("reconstruct")]
    ordered += [path for wonder in groups("wonder") for path in sorted(wonder.glob("traj*"))]
    ordered += [group / "traj1" for group in groups("reconstruct")]
    return [path.relative_to(folder).as_posix() for path in ordered if (path / "camera.json").is_file()]


def _is_valid(view: Path) -> bool:
    analysis = view / "valid_analysis.json"
    return not analysis.is_file() or Field(analysis, "", read_json(analysis))["valid"].value == "yes"


def _trajectories(
    folder: Path, names: list[str], image: Path | None, size: tuple[int, int]
) -> tuple[OfficialTrajectory, ...]:
    if not names:
        raise InputError(f"{folder}: has no trajectory with a camera.json")
    trajectories = []
    for name in names:
        path = folder / name
        goes_on_from_other_clip = name.startswith("reconstruct") and name.endswith("traj1")
        start = image or (
            None if goes_on_from_other_clip else existing_picture(with_picture_suffixes(path.parent / "start_frame"))
        )
        trajectories.append(
            OfficialTrajectory(
                name=name,
                camera_file=read_cameras(path / "camera.json", width=size[0], height=size[1]),
                prompt=_prompt(path, folder),
                start_image=start,
                render=_existing(path / "render.mp4"),
                render_mask=_existing(path / "render_mask.mp4"),
            )
        )
    return tuple(trajectories)


def _prompt(trajectory: Path, scene: Path) -> str:
    """The caption of the trajectory, else the scene's, else nothing."""
    for path in (trajectory / "traj_caption.json", scene / "prompt.json"):
        if path.is_file():
            root = Field(path, "", read_json(path))
            return root["long caption" if "long caption" in root else "prompt"].text()
    return ""


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _require_picture(stem: Path) -> Path:
    picture = existing_picture(with_picture_suffixes(stem))
    if picture is None:
        raise InputError(f"{stem}.png: no such picture; a scene of the official release needs it")
    return picture
