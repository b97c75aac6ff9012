"""`worldstereo train`: the networks that the package ships."""

from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options

app = typer.Typer(help="Train the networks that the package ships.", no_args_is_help=True)


@app.callback()
def _train() -> None:
    """Keep `depth` a sub-command although it is the only one."""


@app.command("depth")
def depth(
    config: Annotated[Path, typer.Argument(help="A JSON file with the fields of DepthTrainingConfig.")],
    run: Annotated[Path, typer.Option("--run", help="Run folder: checkpoint, log, weights.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that the config's source folders lie in.", show_default=False)
    ] = None,
    device: options.DeviceOption = "cpu",
    quiet: options.QuietOption = False,
) -> None:
    """Train nano depth, or go on with a run where it stopped."""
    from worldstereo.training.depth import DepthTrainingProgress, read_training_config, train_depth

    with options.progress(quiet) as on_progress:

        def report(state: DepthTrainingProgress) -> None:
            text = f"step {state.step} of {state.steps}, loss {state.loss:.3f}, {state.samples_per_second:.0f} samples/s"
            on_progress(text, state.step / state.steps)

        weights = train_depth(read_training_config(config, run_folder=run, data=data, device=device), report)
    typer.echo(f"weights: {weights}")
