"""`worldstereo extend`: more clips for a world."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldstereo.cli import options

if TYPE_CHECKING:
    from worldstereo.pipelines.generator_options import Placement
    from worldstereo.pipelines.world import OnProgress
    from worldstereo.pipelines.world_folder import World


def extend(
    world: options.WorldArgument,
    trajectory: Annotated[
        list[str], typer.Option("--trajectory", "-t", help="A path; repeat for several clips.", show_default=False)
    ],
    start: Annotated[
        str, typer.Option("--start", help="'input', or CLIP:FRAME, e.g. 0:20, to leave from a generated frame.")
    ] = "input",
    depth_scale: options.DepthScaleOption = None,
    device: options.DeviceOption = "cpu",
    offload: options.OffloadOption = options.OffloadChoice.none,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Add clips to a world, with everything that it remembers."""
    from worldstereo.pipelines.generator_options import Placement
    from worldstereo.pipelines.world_folder import World

    opened = World(world)
    with options.progress(quiet) as on_progress:
        report = extend_world(
            opened, trajectory, start, depth_scale, Placement(device, offload.value, offline), on_progress
        )
    typer.echo(f"{world}: {len(opened.clips)} clips, {len(opened.point_cloud):,} points; open {report}")


def extend_world(
    world: "World",
    trajectories: list[str],
    start: str,
    depth_scale: float | None,
    placement: "Placement",
    on_progress: "OnProgress",
) -> Path:
    """Add clips with the generator and the depth back-end that made the world; gives the new report's path.

    Args:
        depth_scale: of a depth file; the world's if none.
    """
    from worldstereo.exporters.world import finish
    from worldstereo.pipelines.generator_options import GeneratorOptions
    from worldstereo.pipelines.world import WorldPipeline

    request = world.manifest.request
    on_progress("loading the generator", 0.0)
    pipeline = WorldPipeline.from_pretrained(
        request.model,
        depth=request.depth,
        depth_scale=request.depth_scale if depth_scale is None else depth_scale,
        options=GeneratorOptions(**request.options),
        placement=placement,
    )
    if pipeline.generator.licence:
        typer.echo(pipeline.generator.licence)
    pipeline.extend(world, trajectories, start, on_progress)
    on_progress("writing the report", 1.0)
    return finish(world)
