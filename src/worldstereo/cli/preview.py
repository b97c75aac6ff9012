"""`worldstereo preview`: the paths in the scene, before anything is generated."""

from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options
from worldstereo.models.hub import DEFAULT_MODEL


def preview(
    picture: options.PictureArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Page to write.", show_default="<picture>.preview.html beside the picture"),
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
    device: options.DeviceOption = "cpu",
) -> None:
    """Draw the chosen paths in the scene, as a picture and an interactive page."""
    from worldstereo.errors import InputError
    from worldstereo.images import load_picture, save_png
    from worldstereo.pipelines.generator_options import Placement
    from worldstereo.pipelines.world import WorldPipeline
    from worldstereo.viewer.preview import PathSketch, draw_preview, write_preview_page

    settings = options.make_settings(trajectory, preset, projection, camera, fov, short_side, frames, squeeze, seed=0)
    page = out or picture.parent / f"{picture.stem}.preview.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page}: is a page's name, so let it end in .html; the drawing is written beside it")
    drawing = page.with_suffix(".png")
    for given in (picture, Path(depth)):
        if drawing.exists() and given.exists() and drawing.samefile(given):
            raise InputError(f"--out {page}: the drawing beside it would overwrite {given}; choose another name")
    pipeline = WorldPipeline.from_pretrained(model, depth=depth, depth_scale=depth_scale, placement=Placement(device))
    begun, paths = pipeline.start(load_picture(picture), settings)
    sketches = [PathSketch(str(path.trajectory), path.cameras) for path in paths]
    cloud, sky, scale = begun.lifted.cloud, begun.lifted.sky, begun.scale
    unit = ("m", 1.0) if scale.metric else ("r", scale.radius)
    save_png(drawing, draw_preview(cloud, sketches, sky, begun.input_cameras, unit))
    title = f"Camera paths for {picture.name}"
    write_preview_page(page, cloud, sky, sketches, begun.picture, begun.input_cameras, unit, title)
    for path in paths:
        shortened = "" if path.fraction == 1 else f" (shortened to {path.fraction:.0%} to keep clear of the scene)"
        typer.echo(f"{path.trajectory}{shortened}")
    typer.echo(f"look at {page} and {drawing}")
