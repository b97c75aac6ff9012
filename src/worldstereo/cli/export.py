"""`worldstereo export`: a world in other tools' formats."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options


class Format(str, Enum):
    """What can be written."""

    ply = "ply"
    colmap = "colmap"
    transforms = "transforms"
    official = "official"


def export(
    world: options.WorldArgument,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to write.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="File (ply) or folder.", show_default=False)],
) -> None:
    """Write the world as a point cloud (ply), COLMAP sparse model, nerfstudio transforms.json, or official scene."""
    from worldstereo.exporters.world import export_world
    from worldstereo.pipelines.world_folder import World

    export_world(World(world), format.value, out)
    typer.echo(f"wrote {out}")
