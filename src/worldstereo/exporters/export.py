"""Whole worlds in other tools' formats."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import (
    write_colmap_binary,
    write_colmap_text,
    write_official,
    write_transforms,
    write_world_mirror,
)
from worldstereo.errors import InputError
from worldstereo.exporters.colmap import observe
from worldstereo.exporters.glb import write_glb
from worldstereo.exporters.gltf_splats import write_gltf_splats
from worldstereo.exporters.ply import write_ply
from worldstereo.exporters.splat_ply import write_splat_ply
from worldstereo.exporters.spz import write_spz
from worldstereo.exporters.world_parts import best_cloud, frame_of, fused_cloud, mesh_of, splats_of
from worldstereo.files import atomic_path, write_json
from worldstereo.images import load_png, save_png
from worldstereo.pipelines.world import FRAMES_PER_SECOND
from worldstereo.pipelines.world_folder import Clip, World
from worldstereo.video import write_video


def export_world(world: World, format: str, out: Path) -> None:
    """Write the world for another tool.

    Args:
        format: one of `FORMATS`.
        out: the file or folder, which must not exist yet.

    Raises:
        InputError: unknown format, `out` exists, no clip is finished, a clip's files are not whole, or the
            reconstruction that the format needs is not made yet.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: unknown; known: {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    if os.path.exists(out):  # false for names that are too long
        raise InputError(f"{out}: exists already; choose another {'folder' if chosen.is_folder else 'file'} with --out")
    if not chosen.is_folder:
        chosen.write(world, out)
        return
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        try:
            chosen.write(world, temporary)
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), str(out))) from error


def _finished(world: World) -> list[Clip]:
    clips = [clip for clip in world.clips if clip.is_done]
    if not clips:
        raise InputError(f"{world.folder}: has no finished clip yet; run 'worldstereo generate' again to finish it")
    return clips


def _pictures(clip: Clip, kind: str = "frames") -> list[Path]:
    """The files of one kind, one a camera.

    Raises:
        InputError: one is missing, or there is one without a camera.
    """
    folder, count = clip.folder / kind, len(clip.cameras)
    there = {path.name for path in folder.glob("[0-9]*.png")}
    expected = [f"{index:03d}.png" for index in range(count)]
    for name in sorted(there.symmetric_difference(expected)):
        what = "is missing" if name in expected else "has no camera"
        raise InputError(
            f"clip {clip.name}: {folder / name} {what}, as cameras.json has {count}; delete {clip.folder / 'done'} and "
            f"run the same 'worldstereo generate' again, which makes the clip again"
        )
    return [folder / name for name in expected]


def _cameras(world: World) -> Cameras:
    """The cameras of all finished clips.

    Raises:
        InputError: a clip has another image size than the world.
    """
    clips, size = _finished(world), (world.manifest.width, world.manifest.height)
    parts = [clip.cameras for clip in clips]
    for clip, cameras in zip(clips, parts, strict=True):
        if (cameras.width, cameras.height) != size:
            raise InputError(
                f"clip {clip.name}: its cameras are of {cameras.width}×{cameras.height} pixels but the world's are of "
                f"{size[0]}×{size[1]}, and this format holds one size; delete {clip.folder / 'done'} and run the same "
                f"'worldstereo generate' again, which makes the clip again"
            )
    return Cameras.cat(parts)


def _copy_frames(world: World, folder: Path) -> tuple[Cameras, list[str]]:
    """Copy all frames to `folder`, named by clip and frame; gives their cameras."""
    cameras = _cameras(world)
    folder.mkdir()
    names = []
    for clip in _finished(world):
        for frame in _pictures(clip):
            names.append(f"{clip.name}-{frame.name}")
            shutil.copyfile(frame, folder / names[-1])
    return cameras, names


def _write_cloud(world: World, path: Path) -> None:
    fused = fused_cloud(world)
    if fused is None:
        write_ply(path, world.point_cloud, frame=frame_of(world))
    else:
        write_ply(path, fused.cloud, fused.normals, frame_of(world))


def _write_splat_ply(world: World, path: Path) -> None:
    write_splat_ply(path, splats_of(world), frame_of(world))


def _write_spz(world: World, path: Path) -> None:
    write_spz(path, splats_of(world))


def _write_glb(world: World, path: Path) -> None:
    write_glb(path, mesh_of(world), frame_of(world))


def _write_gltf_splats(world: World, path: Path) -> None:
    write_gltf_splats(path, splats_of(world), frame_of(world))


def _write_colmap(world: World, folder: Path) -> None:
    _write_colmap_model(world, folder, write_colmap_binary)


def _write_colmap_text(world: World, folder: Path) -> None:
    _write_colmap_model(world, folder, write_colmap_text)


def _write_colmap_model(world: World, folder: Path, write: Callable[..., None]) -> None:
    cameras, names = _copy_frames(world, folder / "images")
    cloud = best_cloud(world)
    write(folder / "sparse" / "0", cameras, names, cloud.points, cloud.colors, observe(cloud, cameras))


def _write_transforms(world: World, folder: Path) -> None:
    cameras, names = _copy_frames(world, folder / "images")
    write_transforms(folder / "transforms.json", cameras, [f"images/{name}" for name in names], "point_cloud.ply")
    _write_cloud(world, folder / "point_cloud.ply")


def _write_official(world: World, folder: Path) -> None:
    """The layout of the official release's reconstruction scenes."""
    save_png(folder / "image.png", world.frame("input"))
    write_json(folder / "prompt.json", {"prompt": ""})
    for clip in _finished(world):
        renders = folder / "renders" / f"traj_{clip.name}"
        write_official(renders / "camera.json", clip.cameras)
        for source, name in (("rgb", "render.mp4"), ("hole_mask", "render_mask.mp4")):
            pictures = [load_png(path) for path in _pictures(clip, f"guidance/{source}")]
            write_video(renders / name, torch.stack(pictures), FRAMES_PER_SECOND)


def _write_world_mirror(world: World, folder: Path) -> None:
    """Pictures, and cameras as priors, as the official release gives them to WorldMirror.

    WorldMirror numbers its results in the order of the file names; `name_map.json` has the number of each picture.
    """
    pictures, bank, ids = world.initial_bank()
    cameras, names = _copy_frames(world, folder / "images")
    for picture, name in zip(pictures, ids, strict=True):
        save_png(folder / "images" / f"{name}.png", picture)
    stems = [*ids, *(Path(name).stem for name in names)]
    write_world_mirror(folder / "cameras.json", Cameras.cat([bank, cameras]), stems)
    keys = [*ids, *("/".join(stem.rsplit("-", 1)) for stem in stems[len(ids) :])]
    by_file = sorted(zip((f"{stem}.png" for stem in stems), keys, strict=True))
    write_json(folder / "name_map.json", {key: f"{number:04d}" for number, (_, key) in enumerate(by_file)})


def _write_cameras(world: World, path: Path) -> None:
    """The cameras of all frames in one camera.json; names are the frames' places in the world folder."""
    cameras = _cameras(world)
    frames = [frame for clip in _finished(world) for frame in _pictures(clip)]
    write_official(path, cameras, [frame.relative_to(world.folder).as_posix() for frame in frames])


@dataclass(frozen=True)
class Format:
    """One way to write a world.

    Attributes:
        what: in a few words, for people.
        is_folder: whether it is a folder instead of a file.
        write: writes the world to a path that does not exist yet.
    """

    what: str
    is_folder: bool
    write: Callable[[World, Path], None]


FORMATS: dict[str, Format] = {
    "ply": Format("point cloud", False, _write_cloud),
    "splat-ply": Format("splats, the PLY of 3D Gaussian Splatting", False, _write_splat_ply),
    "spz": Format("splats, a quarter of the size", False, _write_spz),
    "glb": Format("mesh, glTF", False, _write_glb),
    "gltf-splats": Format("splats, glTF (KHR_gaussian_splatting)", False, _write_gltf_splats),
    "colmap": Format("COLMAP sparse model, binary, with images", True, _write_colmap),
    "colmap-text": Format("the same as text", True, _write_colmap_text),
    "transforms": Format("nerfstudio's transforms.json with images and cloud", True, _write_transforms),
    "official": Format("scene of the official WorldStereo release", True, _write_official),
    "world-mirror": Format("images and camera priors for WorldMirror", True, _write_world_mirror),
    "cameras": Format("camera.json of all frames", False, _write_cameras),
}
