"""Whole worlds in other tools' formats, and the files that crown a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_colmap_binary, write_official, write_transforms
from worldstereo.errors import InputError
from worldstereo.exporters.ply import write_ply
from worldstereo.files import atomic_path, read_json, write_json
from worldstereo.images import load_png, save_png
from worldstereo.pipelines.world import FRAMES_PER_SECOND
from worldstereo.pipelines.world_folder import Clip, World
from worldstereo.video import write_video
from worldstereo.viewer.report import ClipSection, Report, write_report

_BASELINE_BANNER = (
    "Made by the baseline generator 'warp': no network. What the picture does not show is filled in smoothly."
)


def finish(world: World) -> Path:
    """Write `point_cloud.ply` and `report.html` of a world; gives the report's path."""
    write_ply(world.folder / "point_cloud.ply", world.point_cloud)
    report = world.folder / "report.html"
    write_report(report, _report_of(world))
    return report


def export_world(world: World, format: str, out: Path) -> None:
    """Write the finished clips and the cloud for another tool.

    Args:
        format: "ply" (a file), or "colmap", "transforms", "official" (a folder that does not exist yet).

    Raises:
        InputError: unknown format, `out` exists, or no clip is finished.
    """
    if format == "ply":
        if out.exists():
            raise InputError(f"{out}: exists already; choose another file with --out")
        write_ply(out, world.point_cloud)
        return
    if format not in _FOLDER_WRITERS:
        raise InputError(f"--format {format}: unknown; known: ply, {', '.join(_FOLDER_WRITERS)}")
    if out.exists():
        raise InputError(f"{out}: exists already; choose another folder with --out")
    clips = [clip for clip in world.clips if clip.is_done]
    if not clips:
        raise InputError(f"{world.folder}: has no finished clip yet; run 'worldstereo generate' again to finish it")
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        _FOLDER_WRITERS[format](world, clips, temporary)


def _copy_frames(clips: list[Clip], folder: Path) -> tuple[Cameras, list[str]]:
    """Copy all frames to `folder`, named by clip and frame."""
    folder.mkdir()
    names = []
    for clip in clips:
        for frame in sorted((clip.folder / "frames").glob("[0-9]*.png")):
            names.append(f"{clip.name}-{frame.name}")
            shutil.copyfile(frame, folder / names[-1])
    return Cameras.cat([clip.cameras for clip in clips]), names


def _write_colmap(world: World, clips: list[Clip], folder: Path) -> None:
    cameras, names = _copy_frames(clips, folder / "images")
    cloud = world.point_cloud
    write_colmap_binary(folder / "sparse" / "0", cameras, names, cloud.points, cloud.colors)


def _write_transforms(world: World, clips: list[Clip], folder: Path) -> None:
    cameras, names = _copy_frames(clips, folder / "images")
    write_transforms(folder / "transforms.json", cameras, [f"images/{name}" for name in names])
    write_ply(folder / "point_cloud.ply", world.point_cloud)


def _write_official(world: World, clips: list[Clip], folder: Path) -> None:
    """The layout of the official release's reconstruction scenes."""
    save_png(folder / "image.png", world.frame("input"))
    write_json(folder / "prompt.json", {"prompt": ""})
    for clip in clips:
        renders = folder / "renders" / f"traj_{clip.name}"
        write_official(renders / "camera.json", clip.cameras)
        for source, name in (("rgb", "render.mp4"), ("hole_mask", "render_mask.mp4")):
            pictures = [load_png(path) for path in sorted((clip.folder / "guidance" / source).glob("[0-9]*.png"))]
            write_video(renders / name, torch.stack(pictures), FRAMES_PER_SECOND)


_FOLDER_WRITERS: dict[str, Callable[[World, list[Clip], Path], None]] = {
    "colmap": _write_colmap,
    "transforms": _write_transforms,
    "official": _write_official,
}


def _report_of(world: World) -> Report:
    manifest, memory = world.manifest, world.memory
    done = [clip for clip in world.clips if clip.is_done]
    updates = [read_json(clip.folder / "update.json") for clip in done]
    unit = "m" if manifest.metric else "scene units (no metric scale)"
    return Report(
        title=manifest.source_name,
        input_picture=world.picture,
        depth_picture=world.depth_picture,
        cloud=memory.cloud,
        sky=memory.sky,
        clips=tuple(
            ClipSection(name=clip.name, cameras=clip.cameras, video=clip.video, notes=_clip_notes(clip, update))
            for clip, update in zip(done, updates, strict=True)
        ),
        input_cameras=world.initial_bank()[1],
        settings=(
            ("generator", manifest.request.model),
            ("depth", manifest.depth_source),
            ("intrinsics", manifest.intrinsics_source),
            ("projection", manifest.request.projection),
            ("frames", f"{manifest.request.frames} per clip, {manifest.width}×{manifest.height}"),
            ("seed", str(manifest.request.seed)),
            ("software", f"worldstereo {manifest.request.software}"),
            ("axes", "OpenCV (x right, y down, z forward), cam_from_world, pixel centres at +0.5"),
        ),
        figures=(
            ("points", f"{len(memory.cloud):,}"),
            ("median depth", f"{manifest.radius:.3g} {unit}"),
            ("seconds for the clips", f"{sum(update['seconds'] for update in updates):.0f}"),
        ),
        banner=_BASELINE_BANNER if manifest.request.model == "warp" else None,
        unit=("m", 1.0) if manifest.metric else ("r", manifest.radius),
    )


def _clip_notes(clip: Clip, update: dict) -> tuple[str, ...]:
    notes = [f"path: {clip.plan.trajectory}"]
    if clip.plan.fraction < 1:
        notes.append(f"shortened to {clip.plan.fraction:.0%} to keep clear of the scene")
    if clip.plan.start != "input":
        notes.append(f"starts at {clip.plan.start}")
    return tuple(notes)
