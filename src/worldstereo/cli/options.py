"""Options that several verbs share, and how progress is shown."""

import contextlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worldstereo.pipelines.world import OnProgress, Settings


class ProjectionChoice(str, Enum):
    """How the input picture was projected."""

    auto = "auto"
    perspective = "perspective"
    equirectangular = "equirectangular"


class DTypeChoice(str, Enum):
    """Data types of a network."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class QuantizeChoice(str, Enum):
    """How weights are held."""

    none = "none"
    float8 = "float8"
    int8 = "int8"


class OffloadChoice(str, Enum):
    """Where weights wait."""

    none = "none"
    group = "group"
    disk = "disk"


PictureArgument = Annotated[Path, typer.Argument(help="A photograph, or a 360° panorama (2:1).", show_default=False)]
WorldArgument = Annotated[Path, typer.Argument(help="A world folder.", show_default=False)]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="Generator: 'nano', the small network of this package; 'warp', the baseline (no network, holes are filled "
        "smoothly); or a folder or hub id of a network, e.g. owner/name:subfolder.",
    ),
]
DepthOption = Annotated[
    str,
    typer.Option("--depth", help="Depth back-end (see 'worldstereo info') or a depth file (.npy .npz .png .exr)."),
]
DepthScaleOption = Annotated[
    float | None, typer.Option("--depth-scale", help="Metres per unit of a 16-bit PNG depth file.")
]
TrajectoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trajectory",
        "-t",
        help="A path, e.g. orbit-right:30, dolly-in:0.3+pan-left:20, or a camera file; repeat for several clips.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="A set of paths, e.g. paper.", show_default="by projection")
]
ProjectionOption = Annotated[
    ProjectionChoice, typer.Option("--projection", help="Of the picture; auto: 2:1 is a panorama.")
]
CameraOption = Annotated[
    Path | None, typer.Option("--camera", help="A camera file of the photo; its first camera is used.")
]
FovOption = Annotated[
    float,
    typer.Option("--fov", help="Field of view over the longer side in degrees, where nothing else knows it."),
]
ShortSideOption = Annotated[
    int | None,
    typer.Option("--short-side", help="Of the clips, in pixels (a multiple of 16).", show_default="480 or the model's"),
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="Per clip.", show_default="21, or the model's")]
SqueezeOption = Annotated[
    bool, typer.Option("--squeeze", help="Stretch the photo to the clips' shape instead of cropping it.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of all randomness.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where networks run: cpu, cuda, cuda:1, mps.")]
PromptOption = Annotated[str, typer.Option("--prompt", help="What the clips show; for models that read text.")]
NegativePromptOption = Annotated[
    str | None, typer.Option("--negative-prompt", help="What they do not show.", show_default="the model's")
]
PromptEmbeddingsOption = Annotated[
    Path | None,
    typer.Option("--prompt-embeddings", help="A file of embedded prompts, instead of a text encoder."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Of the sampler.", show_default="the model's")]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", help="Of the prompt; 1 = none.", show_default="the model's")
]
DTypeOption = Annotated[
    DTypeChoice, typer.Option("--dtype", help="Of a network; auto: bfloat16 on a GPU that has it, else float32.")
]
QuantizeOption = Annotated[QuantizeChoice, typer.Option("--quantize", help="Hold a network's weights in one byte.")]
OffloadOption = Annotated[
    OffloadChoice, typer.Option("--offload", help="Where a network's weights wait for their turn.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what was downloaded before.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def make_settings(
    trajectory: list[str] | None,
    preset: str | None,
    projection: ProjectionChoice,
    camera: Path | None,
    fov: float,
    short_side: int | None,
    frames: int | None,
    squeeze: bool,
    seed: int,
) -> "Settings":
    """The settings that the options stand for."""
    from worldstereo.errors import InputError
    from worldstereo.pipelines.world import Settings

    if trajectory and preset:
        raise InputError("--preset and --trajectory are both given; use one of them")
    return Settings(
        trajectories=tuple(trajectory or ()),
        preset=preset,
        projection=projection.value,
        camera=camera,
        default_fov=fov,
        short_side=short_side,
        frames=frames,
        squeeze=squeeze,
        seed=seed,
    )


@contextlib.contextmanager
def progress(quiet: bool) -> "Iterator[OnProgress]":
    """A bar with what is being done, the time gone and the time left."""
    if quiet:
        yield lambda what, share: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
