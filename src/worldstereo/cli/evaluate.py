"""`worldstereo evaluate`: figures against truth."""

from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldstereo.cli import options

if TYPE_CHECKING:
    from worldstereo.evaluation.protocol import OnProgress

app = typer.Typer(help="Measure against truth.", no_args_is_help=True)


class CloudChoice(str, Enum):
    """Which cloud of a world is measured."""

    memory = "memory"
    fused = "fused"


class EstimatorChoice(str, Enum):
    """How cameras are recovered from frames."""

    sfm = "sfm"
    photometric = "photometric"


ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A model to compare with the baselines, which are in every table; repeat for several.",
        show_default="baselines only",
    ),
]
CapturesOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A capture or a folder of captures: cameras.json, COLMAP (MipNeRF360), Tanks and Temples, DTU, 7-Scenes, "
        "TUM RGB-D, as downloaded.",
        show_default="procedural scenes only",
    ),
]
PicturesOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A folder of photographs, or captures, whose first frames are taken.",
        show_default="procedural scenes only",
    ),
]
ScenesOption = Annotated[int, typer.Option("--scenes", help="Number of held-out procedural scenes.")]
ExactDepthOption = Annotated[
    str,
    typer.Option("--depth", help="Depth back-end, or 'exact': the true depth of the input picture where it is known."),
]
CaptureDepthOption = Annotated[str, typer.Option("--depth", help="Depth back-end for captures without depth.")]
PathsOption = Annotated[
    list[str] | None,
    typer.Option("--trajectory", "-t", help="A path; repeat for several.", show_default="see docs/evaluation.md"),
]
WorldsFolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and worlds.")]
PicturesFolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")]
LpipsOption = Annotated[
    Path | None,
    typer.Option(
        "--lpips-weights",
        help="Folder with torchvision's alexnet*.pth and LPIPS's alex.pth (or safetensors); see docs/evaluation.md.",
        show_default="LPIPS is skipped",
    ),
]
QualityOption = Annotated[
    list[str] | None,
    typer.Option(
        "--quality",
        help="A figure of frames alone: clip-iqa=CLIP or aesthetics=CLIP,HEAD.pth, with a CLIP of the transformers "
        "library as folder or hub id; repeat for several.",
        show_default="none",
    ),
]


@app.callback()
def evaluate() -> None:
    """Measure against truth."""


@app.command("depth")
def depth(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of RGB-D folders as the model card names them; none: procedural only."),
    ] = None,
    procedural: Annotated[int, typer.Option("--procedural", help="Number of procedural frames.")] = 48,
    depth: options.DepthOption = "nano",
    device: options.DeviceOption = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures as JSON.")] = None,
) -> None:
    """Depth against held-out truth, beside constant depth and the best plane, with and without hints."""
    import worldstereo
    from worldstereo.depth.registry import create_depth_estimator
    from worldstereo.errors import InputError
    from worldstereo.evaluation.depth import DepthEvaluationConfig, evaluate_depth, nano_depth_evaluation_sources
    from worldstereo.files import write_json

    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a JSON file")
    sources = () if data is None else nano_depth_evaluation_sources(data)
    config = DepthEvaluationConfig(sources=sources, procedural_count=procedural)
    result = evaluate_depth(config, create_depth_estimator(depth, device=device))
    typer.echo(result.table())
    if out is not None:
        write_json(out, {"software": worldstereo.__version__, "depth": depth, "seed": config.seed, **asdict(result)})


@app.command("ladder")
def ladder(
    model: Annotated[
        str, typer.Option("--model", help="A model in the paper's layout: a folder or hub id, or a shipped one.")
    ] = "nano",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of posed captures (cameras.json); none: procedural scenes only."),
    ] = None,
    scenes: ScenesOption = 8,
    steps: Annotated[int | None, typer.Option("--steps", help="Of the teacher.", show_default="the model's")] = None,
    revisits: Annotated[
        bool, typer.Option("--revisits/--no-revisits", help="Also make two clips a scene whose paths meet.")
    ] = True,
    depth: CaptureDepthOption = "nano",
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: PicturesFolderOption = Path("ladder"),
    quiet: options.QuietOption = False,
) -> None:
    """The paper's ablation (cameras, + GGM, + SSM, 4 steps) beside baselines, on the same held-out clips.

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.ladder import LadderConfig, evaluate_ladder

    _run(LadderConfig(model, out, data, scenes, steps, revisits, depth, device, seed), evaluate_ladder, quiet)


@app.command("reconstruction")
def reconstruction(
    model: ModelsOption = None,
    data: CapturesOption = None,
    scenes: ScenesOption = 4,
    trajectory: PathsOption = None,
    cloud: Annotated[
        CloudChoice, typer.Option("--cloud", help="The memory's, or fused from all frames ('reconstruct').")
    ] = CloudChoice.memory,
    depth: ExactDepthOption = "nano",
    steps: options.StepsOption = None,
    short_side: options.ShortSideOption = None,
    frames: options.FramesOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: WorldsFolderOption = Path("reconstruction"),
    quiet: options.QuietOption = False,
) -> None:
    """One picture, the paper's four paths, a cloud: precision, recall, F1, AUC against the true surface.

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.reconstruction import ReconstructionConfig, evaluate_reconstruction

    config = ReconstructionConfig(
        **_common(model, data, scenes, depth, steps, short_side, frames, seed, device, out),
        **_paths(trajectory),
        cloud=cloud.value,
    )
    _run(config, evaluate_reconstruction, quiet)


@app.command("novel-views")
def novel_views(
    model: ModelsOption = None,
    data: CapturesOption = None,
    scenes: ScenesOption = 4,
    depth: CaptureDepthOption = "nano",
    steps: options.StepsOption = None,
    short_side: options.ShortSideOption = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Per clip.", show_default="13, or the model's")] = None,
    lpips_weights: LpipsOption = None,
    quality: QualityOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: PicturesFolderOption = Path("novel-views"),
    quiet: options.QuietOption = False,
) -> None:
    """Clips along the true path of posed captures, from their first picture alone, against their real frames.

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.novel_views import NovelViewsConfig, evaluate_novel_views

    config = NovelViewsConfig(
        **_common(model, data, scenes, depth, steps, short_side, frames, seed, device, out),
        lpips_weights=lpips_weights,
        quality=tuple(quality or ()),
    )
    _run(config, evaluate_novel_views, quiet)


@app.command("camera-control")
def camera_control(
    model: ModelsOption = None,
    data: PicturesOption = None,
    scenes: ScenesOption = 4,
    trajectory: PathsOption = None,
    estimator: Annotated[
        EstimatorChoice,
        typer.Option("--estimator", help="sfm: pycolmap; photometric: for procedural scenes with --depth exact."),
    ] = EstimatorChoice.sfm,
    depth: ExactDepthOption = "nano",
    steps: options.StepsOption = None,
    short_side: options.ShortSideOption = None,
    frames: options.FramesOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: WorldsFolderOption = Path("camera-control"),
    quiet: options.QuietOption = False,
) -> None:
    """Pictures × paths: cameras recovered from the generated frames against those that were commanded.

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.camera_control import CameraControlConfig, evaluate_camera_control

    config = CameraControlConfig(
        **_common(model, data, scenes, depth, steps, short_side, frames, seed, device, out),
        **_paths(trajectory),
        estimator=estimator.value,
    )
    _run(config, evaluate_camera_control, quiet)


@app.command("revisits")
def revisits(
    model: ModelsOption = None,
    data: PicturesOption = None,
    scenes: ScenesOption = 4,
    trajectory: PathsOption = None,
    depth: ExactDepthOption = "nano",
    steps: options.StepsOption = None,
    short_side: options.ShortSideOption = None,
    frames: options.FramesOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: WorldsFolderOption = Path("revisits"),
    quiet: options.QuietOption = False,
) -> None:
    """Closed loops and crossing paths: is what was seen before shown again as it was?

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.revisit_protocol import RevisitsConfig, evaluate_revisits

    config = RevisitsConfig(
        **_common(model, data, scenes, depth, steps, short_side, frames, seed, device, out), **_paths(trajectory)
    )
    _run(config, evaluate_revisits, quiet)


@app.command("outputs")
def outputs(
    output: Annotated[
        list[str],
        typer.Option(
            "--output",
            help="NAME=FOLDER of frames with cameras in any known format, or with one such folder for each capture; "
            "repeat for several.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="The truth: a capture or a folder of captures.", show_default=False)
    ],
    model: ModelsOption = None,
    depth: CaptureDepthOption = "nano",
    steps: options.StepsOption = None,
    short_side: options.ShortSideOption = None,
    lpips_weights: LpipsOption = None,
    quality: QualityOption = None,
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: PicturesFolderOption = Path("outputs"),
    quiet: options.QuietOption = False,
) -> None:
    """Score somebody else's frames, cameras and clouds against the truth, in one table with the baselines."""
    from worldstereo.evaluation.outputs import OutputsConfig, evaluate_outputs

    common = _common(model, data, 0, depth, steps, short_side, None, seed, device, out)
    config = OutputsConfig(**common, lpips_weights=lpips_weights, quality=tuple(quality or ()), outputs=tuple(output))
    _run(config, evaluate_outputs, quiet)


def _common(
    model: list[str] | None,
    data: Path | None,
    scenes: int,
    depth: str,
    steps: int | None,
    short_side: int | None,
    frames: int | None,
    seed: int,
    device: str,
    out: Path,
) -> dict[str, Any]:
    """What `ComparisonConfig` takes."""
    return {
        "models": tuple(model or ()),
        "data": data,
        "scenes": scenes,
        "depth": depth,
        "steps": steps,
        "short_side": short_side,
        "frames": frames,
        "seed": seed,
        "device": device,
        "out": out,
    }


def _paths(trajectory: list[str] | None) -> dict[str, Any]:
    return {"trajectories": tuple(trajectory)} if trajectory else {}


def _run(config: Any, evaluate: "Callable[[Any, OnProgress], Path]", quiet: bool) -> None:
    """Evaluate and print the table."""
    with options.progress(quiet) as on_progress:
        table = evaluate(config, on_progress)
    typer.echo(table.read_text(encoding="utf-8"))
