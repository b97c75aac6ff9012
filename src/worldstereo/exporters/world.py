"""The files that crown a run: cloud and report."""

from dataclasses import dataclass
from pathlib import Path

from worldstereo.exporters.ply import write_ply
from worldstereo.exporters.world_parts import frame_of
from worldstereo.files import read_json
from worldstereo.pipelines.world_folder import Clip, World, exclusive
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.records import read_record
from worldstereo.viewer.report import ClipSection, Report, write_report

_BASELINE_BANNER = (
    "Made by the baseline generator 'warp': no network. What the picture does not show is filled in smoothly."
)


def finish(world: World) -> Path:
    """Write `point_cloud.ply` and `report.html` of a world; gives the report's path.

    Raises:
        BusyError: another process works on the world.
    """
    report = world.folder / "report.html"
    with exclusive(world.folder):
        write_ply(world.folder / "point_cloud.ply", world.point_cloud, frame=frame_of(world))
        write_report(report, _report_of(world))
    return report


def finish_once(world: World) -> None:
    """`finish`, unless the report is newer than every clip and the reconstruction."""
    report, reconstructed = world.folder / "report.html", world.folder / "reconstruction" / "reconstruction.json"
    if report.exists():
        shown = [clip.folder / "done" for clip in world.clips]
        if reconstructed.exists():
            shown.append(reconstructed)
        if all(path.stat().st_mtime_ns <= report.stat().st_mtime_ns for path in shown):
            return
    finish(world)


def _report_of(world: World) -> Report:
    manifest, memory = world.manifest, world.memory
    done = [clip for clip in world.clips if clip.is_done]
    unit = "m" if manifest.metric else "scene units (no metric scale)"
    fly_through = world.folder / "reconstruction" / "fly_through.mp4"
    return Report(
        title=manifest.source_name,
        input_picture=world.picture,
        depth_picture=world.depth_picture,
        cloud=memory.cloud,
        sky=memory.sky,
        clips=tuple(
            ClipSection(name=clip.name, cameras=clip.cameras, video=clip.video, notes=_clip_notes(clip))
            for clip in done
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
            ("seconds for the clips", f"{sum(_seconds(clip) for clip in done):.0f}"),
        ),
        banner=_BASELINE_BANNER if manifest.request.model == "warp" else None,
        unit=("m", 1.0) if manifest.metric else ("r", manifest.radius),
        fly_through=fly_through if fly_through.is_file() else None,
        reconstruction=_reconstruction_figures(ReconstructionFolder(world.folder / "reconstruction")),
    )


def _reconstruction_figures(folder: ReconstructionFolder) -> tuple[tuple[str, str], ...]:
    """The numbers of the finished steps; none where nothing was reconstructed."""
    figures = []
    for step, entry in folder.record.get("steps", {}).items():
        for name, value in entry.get("figures", {}).items():
            if isinstance(value, int | float):
                shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
                figures.append((f"{step}: {name.replace('_', ' ')}", shown))
    return tuple(figures)


@dataclass(frozen=True)
class _Update:
    """What a report tells of `update.json`."""

    seconds: float


def _seconds(clip: Clip) -> float:
    """How long the clip took."""
    path = clip.folder / "update.json"
    mend = f"delete {clip.folder / 'done'} and run the same 'worldstereo generate' again, which makes the clip again"
    return read_record(_Update, read_json(path), path, mend).seconds


def _clip_notes(clip: Clip) -> tuple[str, ...]:
    notes = [f"path: {clip.plan.trajectory}"]
    if clip.plan.fraction < 1:
        notes.append(f"shortened to {clip.plan.fraction:.0%} to keep clear of the scene")
    if clip.plan.start != "input":
        notes.append(f"starts at {clip.plan.start}")
    return tuple(notes)
