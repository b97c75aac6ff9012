"""`worldstereo evaluate`: figures against truth."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options

app = typer.Typer(help="Measure against truth.", no_args_is_help=True)


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
    from worldstereo.evaluation.depth import DepthEvaluationConfig, evaluate_depth, nano_depth_evaluation_sources
    from worldstereo.files import write_json

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
    scenes: Annotated[int, typer.Option("--scenes", help="Number of held-out procedural scenes.")] = 8,
    steps: Annotated[int | None, typer.Option("--steps", help="Of the teacher.", show_default="the model's")] = None,
    revisits: Annotated[
        bool, typer.Option("--revisits/--no-revisits", help="Also make two clips a scene whose paths meet.")
    ] = True,
    depth: Annotated[str, typer.Option("--depth", help="Depth back-end for captures without depth.")] = "nano",
    seed: options.SeedOption = 0,
    device: options.DeviceOption = "cpu",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")] = Path("ladder"),
    quiet: options.QuietOption = False,
) -> None:
    """The paper's ablation (cameras, + GGM, + SSM, 4 steps) beside baselines, on the same held-out clips.

    Stop it, run it again: it goes on with the clip it was at.
    """
    from worldstereo.evaluation.ladder import LadderConfig, evaluate_ladder

    config = LadderConfig(model, out, data, scenes, steps, revisits, depth, device, seed)
    with options.progress(quiet) as on_progress:
        table = evaluate_ladder(config, on_progress)
    typer.echo(table.read_text(encoding="utf-8"))
