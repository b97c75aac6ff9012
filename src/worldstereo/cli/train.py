"""`worldstereo train`: the networks that the package ships."""

from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options

app = typer.Typer(help="Train the networks that the package ships.", no_args_is_help=True)


@app.callback()
def train() -> None:
    """Train the networks that the package ships."""


@app.command("depth")
def depth(
    config: Annotated[Path, typer.Argument(help="JSON file, e.g. src/worldstereo/weights/nano-depth/training.json.")],
    run: Annotated[Path, typer.Option("--run", help="Run folder: checkpoint, log, weights.", show_default=False)],
    data: Annotated[Path, typer.Option("--data", help="Folder that the config's source folders lie in.")] = Path(),
    device: options.DeviceOption = "cpu",
    quiet: options.QuietOption = False,
) -> None:
    """Train nano depth, or go on with a run where it stopped."""
    from worldstereo.training.depth import DepthTrainingProgress, train_depth
    from worldstereo.training.depth_config import read_training_config

    with options.progress(quiet) as on_progress:

        def report(state: DepthTrainingProgress) -> None:
            speed = f"{state.samples_per_second:.0f} samples/s"
            on_progress(f"step {state.step} of {state.steps}, loss {state.loss:.3f}, {speed}", state.step / state.steps)

        weights = train_depth(read_training_config(config, run, data, device), report)
    typer.echo(f"weights: {weights}")
