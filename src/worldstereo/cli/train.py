"""`worldstereo train`: the networks that the package ships."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldstereo.cli import options

if TYPE_CHECKING:
    from worldstereo.training.loop import TrainingProgress

app = typer.Typer(help="Train the networks that the package ships.", no_args_is_help=True)

RunOption = Annotated[
    Path, typer.Option("--run", "-r", help="Run folder: checkpoint, log, pictures, weights.", show_default=False)
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder that the config's folders lie in.", show_default="the config's")
]


@app.callback()
def train() -> None:
    """Train the networks that the package ships."""


@app.command("depth")
def depth(
    config: Annotated[Path, typer.Argument(help="JSON file, e.g. src/worldstereo/weights/nano-depth/training.json.")],
    run: RunOption,
    data: Annotated[Path, typer.Option("--data", help="Folder that the config's source folders lie in.")] = Path(),
    device: options.DeviceOption = "cpu",
    quiet: options.QuietOption = False,
) -> None:
    """Train nano depth, or go on with a run where it stopped."""
    from worldstereo.training.depth import train_depth
    from worldstereo.training.depth_config import read_training_config

    with _reports(quiet) as report:
        weights = train_depth(read_training_config(config, run, data, device), report)
    typer.echo(f"weights: {weights}")


@app.command("autoencoder")
def autoencoder(
    config: Annotated[Path, typer.Argument(help="JSON file with fields of AutoencoderTrainingConfig.")],
    run: RunOption,
    data: DataOption = None,
    device: options.DeviceOption = "cpu",
    quiet: options.QuietOption = False,
) -> None:
    """Train a keyframe autoencoder, or go on with a run where it stopped."""
    from worldstereo.training.autoencoder import train_autoencoder
    from worldstereo.training.autoencoder_config import read_autoencoder_config

    with _reports(quiet) as report:
        folder = train_autoencoder(read_autoencoder_config(config, run, data, device), report)
    typer.echo(f"autoencoder: {folder}")


@app.command("video")
def video(
    config: Annotated[Path, typer.Argument(help="JSON file with fields of VideoTrainingConfig.")],
    run: RunOption,
    data: DataOption = None,
    device: options.DeviceOption = "cpu",
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="backbone, camera, ggm or stereo.", show_default="the config's"),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Model folder to begin with.", show_default="the config's")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Train a stage of the video model, or go on with a run where it stopped.

    On several devices: accelerate launch -m worldstereo.cli train video CONFIG -r RUN (some launchers take --run for
    an option of theirs).
    """
    from worldstereo.training.video import train_video
    from worldstereo.training.video_config import read_video_config

    instead = {"stage": stage, "start": None if start is None else str(start.absolute())}
    given = {name: value for name, value in instead.items() if value is not None}
    with _reports(quiet) as report:
        folder = train_video(read_video_config(config, run, data, device, given), report)
    typer.echo(f"model: {folder}")


@app.command("nano")
def nano(
    run: RunOption,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that real captures lie in.", show_default="none")
    ] = None,
    device: options.DeviceOption = "cpu",
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Stop after so long.", show_default="at the end")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="Factor on all numbers of steps, e.g. 0.01 to try.")] = 1.0,
    recipes: Annotated[
        Path | None, typer.Option("--recipes", help="Folder of the stages' JSON files.", show_default="the shipped")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Train nano, all stages, or go on where it stopped. "busy" is the time not spent in waiting for data."""
    from worldstereo.training.nano_chain import StageReport, train_nano

    def show(stage: StageReport) -> None:
        steps = f"step {stage.step} of {stage.steps}"
        speed = f"{stage.samples_per_second:.3g} samples/s, {stage.busy_share:.0%} busy"
        typer.echo(f"{stage.name}: {steps}, {stage.seconds / 60:.1f} min, {speed}")

    with _reports(quiet) as report:
        state = train_nano(
            run,
            data,
            device,
            math.inf if minutes is None else minutes,
            scale,
            recipes,
            show,
            lambda name, progress: report(progress),
        )
    if state.model is None:
        typer.echo(f"stopped before the end of the stage {state.next_stage}: run the same command again to go on")
    else:
        typer.echo(f"model: {state.model} (4 steps), {state.model}:undistilled (the teacher)")


@contextlib.contextmanager
def _reports(quiet: bool) -> "Iterator[Callable[[TrainingProgress], None]]":
    """Shows the state of a run; of several processes, the first one does."""
    with options.progress(quiet or os.environ.get("RANK", "0") != "0") as on_progress:

        def report(state: "TrainingProgress") -> None:
            speed = f"{state.samples_per_second:.3g} samples/s, {state.busy_share:.0%} busy"
            minutes = f"{state.seconds_left / 60:.0f} min left"
            what = f"step {state.step} of {state.steps}, loss {state.loss:.4f}, {speed}, {minutes}"
            on_progress(what, state.step / state.steps)

        yield report
