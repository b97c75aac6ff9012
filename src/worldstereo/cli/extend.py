"""`worldstereo extend`: more clips for a world."""

from typing import Annotated

import typer

from worldstereo.cli import options


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
    from worldstereo.exporters.world import finish
    from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
    from worldstereo.pipelines.world import WorldPipeline
    from worldstereo.pipelines.world_folder import World

    opened = World(world)
    request = opened.manifest.request
    pipeline = WorldPipeline.from_pretrained(
        request.model,
        depth=request.depth,
        depth_scale=depth_scale,
        options=GeneratorOptions(**request.options),
        placement=Placement(device, offload.value, offline),
    )
    if pipeline.generator.licence:
        typer.echo(pipeline.generator.licence)
    with options.progress(quiet) as on_progress:
        pipeline.extend(opened, trajectory, start, on_progress)
        on_progress("writing the report", 1.0)
        report = finish(opened)
    typer.echo(f"{world}: {len(opened.clips)} clips, {len(opened.point_cloud):,} points; open {report}")
