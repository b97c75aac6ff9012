"""`worldstereo reconstruct`: from clips, or any posed folder, to consistent depth, cloud, mesh and splats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldstereo.cli import options

if TYPE_CHECKING:
    from worldstereo.pipelines.world_folder import World
    from worldstereo.reconstruction.folder import ReconstructionFolder


def reconstruct(
    source: Annotated[
        Path,
        typer.Argument(
            help="A world folder; or any folder of pictures with cameras (COLMAP, transforms.json, ...).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where the result of a folder of pictures goes; a world keeps its own.",
            show_default="<folder>.reconstruction",
        ),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(
            "--depth",
            help="Depth back-end (see 'worldstereo info'), or da3, map-anything, vggt, world-mirror, world-mirror-2 "
            "[:MODEL].",
            show_default="the world's, or nano",
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine/--no-refine", help="Correct depth by multi-view stereo where texture allows.")
    ] = True,
    bend: Annotated[
        bool, typer.Option("--bend", help="Bend depth that no scale brings to the scene, instead of leaving it out.")
    ] = False,
    mesh: Annotated[bool, typer.Option("--mesh/--no-mesh", help="Build a mesh (needs the extra 'mesh').")] = True,
    splats: Annotated[
        int,
        typer.Option(
            "--splats",
            min=0,
            help="How many Gaussian splats at most, those of the sky apart (a tenth as many); 0 for none, and no "
            "fly-through.",
        ),
    ] = 100_000,
    kept_only: Annotated[
        bool, typer.Option("--kept-only", help="Only the frames that the memory kept (8 of 21): a third of the work.")
    ] = False,
    confidence: Annotated[float, typer.Option("--confidence", help="Least of a pixel, in [0, 1).")] = 0.6,
    device: options.DeviceOption = "cpu",
    quiet: options.QuietOption = False,
) -> None:
    """Make depth of all frames consistent; build a cloud with normals, a mesh, splats and a fly-through video.

    Run it again after a crash or a stop: finished steps and frames are kept. With other options only the steps that
    depend on them are done again.
    """
    from worldstereo.depth.file import DEPTH_FILE_SUFFIXES
    from worldstereo.depth.registry import create_depth_estimator
    from worldstereo.errors import InputError
    from worldstereo.exporters.reconstruction import finish_reconstruction
    from worldstereo.exporters.scene_frame import SceneFrame
    from worldstereo.exporters.world import finish
    from worldstereo.pipelines.world_folder import World, exclusive
    from worldstereo.reconstruction.external import SceneReconstructor, create_reconstructor, is_external
    from worldstereo.reconstruction.folder import ReconstructionFolder
    from worldstereo.reconstruction.posed_frames import PosedFrames
    from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct_frames
    from worldstereo.reconstruction.splat_optimization import SplatSettings

    settings = ReconstructionSettings(
        refine=refine,
        bend=bend,
        mesh=mesh,
        splats=SplatSettings(budget=splats) if splats else None,
        least_confidence=confidence,
    )
    world = World(source) if World.exists(source) else None
    if world is not None and out is not None:
        raise InputError(f"--out {out}: a world keeps its reconstruction in its own folder; leave the option out")
    if world is None and kept_only:
        raise InputError(f"--kept-only: {source} is not a world, so no frames were kept; leave the option out")
    if depth is not None and Path(depth).suffix.lower() in DEPTH_FILE_SUFFIXES:
        raise InputError(f"--depth {depth}: a depth file knows one picture only; name a back-end such as nano")
    name = depth or _depth_of(world, DEPTH_FILE_SUFFIXES)
    estimator = create_reconstructor(name, device) if is_external(name) else create_depth_estimator(name, device=device)
    if isinstance(estimator, SceneReconstructor):
        typer.echo(f"{name}: weights under {estimator.licence}")
    frame = None if world is None else SceneFrame(world.manifest.up, world.manifest.metric)
    folder = source / "reconstruction" if world is not None else out or _beside(source)
    ReconstructionFolder(folder).require_usable()
    frames = PosedFrames.of_folder(source) if world is None else PosedFrames.of_world(world, kept_only=kept_only)
    with options.progress(quiet) as on_progress, exclusive(folder if world is None else world.folder):
        result = reconstruct_frames(frames, folder, estimator, settings, on_progress)
        on_progress("writing files for other programs", 1.0)
        finish_reconstruction(result, frame)
    notes = [*result.record["notes"], *_left_out(result)]
    if world is not None:
        try:
            finish(world)
        except InputError as error:
            notes.append(f"report.html is not up to date: {error}")
    for note in notes:
        typer.echo(f"note: {note}")
    triangles = f", {len(result.mesh.faces):,} triangles" if result.has_mesh else ""
    gaussians = f", {len(result.splats):,} splats" if result.has_splats else ""
    typer.echo(f"{folder}: {len(result.names)} frames, {len(result.cloud):,} points{triangles}{gaussians}")


def _beside(source: Path) -> Path:
    """Where the result of a folder of pictures goes."""
    named = source if source.name not in ("", "..") else source.resolve()
    return named.parent / f"{named.name}.reconstruction"


def _left_out(result: "ReconstructionFolder") -> tuple[str, ...]:
    """One sentence, if some frames have no depth that fits the others."""
    frames = result.record["steps"]["align"]["figures"]["frames"]
    counts = [f"{frames[status]} {status}" for status in ("rejected", "failed") if status in frames]
    if not counts:
        return ()
    kept = sum(frames.values()) - frames.get("rejected", 0) - frames.get("failed", 0)
    return (
        f"depth of {kept} of {sum(frames.values())} frames is used ({', '.join(counts)}); the reasons are in "
        f"{result.folder / 'reconstruction.json'}",
    )


def _depth_of(world: "World | None", file_suffixes: tuple[str, ...]) -> str:
    """The world's back-end; nano where it was a file of the input's depth alone, or nothing is known."""
    if world is None or Path(world.manifest.request.depth).suffix.lower() in file_suffixes:
        return "nano"
    return world.manifest.request.depth
