"""`worldstereo distill`: a model of few steps."""

from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options
from worldstereo.cli.train import DataOption, RunOption, _reports


def distill(
    config: Annotated[Path, typer.Argument(help="JSON file with fields of DistillationConfig.")],
    run: RunOption,
    data: DataOption = None,
    device: options.DeviceOption = "cpu",
    start: Annotated[
        Path | None, typer.Option("--start", help="Model folder of the teacher.", show_default="the config's")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Distil a model to a few steps, or go on with it where it stopped; also under 'accelerate launch'.

    The loss shown is how far the teacher and the student's own score disagree about the student's clips.
    """
    from worldstereo.training.distillation import distill_video
    from worldstereo.training.distillation_config import read_distillation_config

    instead = {} if start is None else {"start": str(start.absolute())}
    with _reports(quiet) as report:
        folder = distill_video(read_distillation_config(config, run, data, device, instead), report)
    typer.echo(f"model: {folder}")
