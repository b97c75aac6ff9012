"""`worldstereo generate`: from a picture to a world folder."""

from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options
from worldstereo.models.hub import DEFAULT_MODEL


def generate(
    picture: options.PictureArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="World folder.", show_default="<picture>.world beside the picture"),
    ] = None,
    trajectory: options.TrajectoryOption = None,
    preset: options.PresetOption = None,
    model: options.ModelOption = DEFAULT_MODEL,
    depth: options.DepthOption = "nano",
    depth_scale: options.DepthScaleOption = None,
    camera: options.CameraOption = None,
    projection: options.ProjectionOption = options.ProjectionChoice.auto,
    fov: options.FovOption = 60.0,
    short_side: options.ShortSideOption = None,
    frames: options.FramesOption = None,
    squeeze: options.SqueezeOption = False,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    prompt: options.PromptOption = "",
    negative_prompt: options.NegativePromptOption = None,
    prompt_embeddings: options.PromptEmbeddingsOption = None,
    steps: options.StepsOption = None,
    guidance: options.GuidanceOption = None,
    dtype: options.DTypeOption = options.DTypeChoice.auto,
    quantize: options.QuantizeOption = options.QuantizeChoice.none,
    offload: options.OffloadOption = options.OffloadChoice.none,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Make videos along camera paths, a point cloud and a report from one picture.

    Run it again after a crash or a stop: finished clips are kept, and the result is the same.
    """
    from worldstereo.depth.registry import better_options
    from worldstereo.exporters.world import finish
    from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
    from worldstereo.pipelines.world import WorldPipeline

    settings = options.make_settings(trajectory, preset, projection, camera, fov, short_side, frames, squeeze, seed)
    folder = out or picture.parent / f"{picture.stem}.world"
    generator_options = GeneratorOptions(
        prompt=prompt,
        negative_prompt=negative_prompt,
        prompt_embeddings=None if prompt_embeddings is None else str(prompt_embeddings),
        steps=steps,
        guidance=guidance,
        dtype=dtype.value,
        quantize=quantize.value,
    )
    pipeline = WorldPipeline.from_pretrained(
        model,
        depth=depth,
        depth_scale=depth_scale,
        options=generator_options,
        placement=Placement(device, offload.value, offline),
    )
    if pipeline.generator.licence:
        typer.echo(pipeline.generator.licence)
    with options.progress(quiet) as on_progress:
        world = pipeline(picture, folder, settings, on_progress)
        on_progress("writing the report", 1.0)
        report = finish(world)
    typer.echo(f"{folder}: {len(world.clips)} clips, {len(world.point_cloud):,} points; open {report}")
    typer.echo(better_options(depth))
