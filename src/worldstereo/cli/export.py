"""`worldstereo export`: a world in other tools' formats."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from worldstereo.cli import options


class Format(str, Enum):
    """What can be written."""

    ply = "ply"
    splat_ply = "splat-ply"
    spz = "spz"
    glb = "glb"
    gltf_splats = "gltf-splats"
    colmap = "colmap"
    colmap_text = "colmap-text"
    transforms = "transforms"
    official = "official"
    world_mirror = "world-mirror"
    cameras = "cameras"


def export(
    world: options.WorldArgument,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to write.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="File or folder; must not exist yet.", show_default=False)],
) -> None:
    """Write the world for another tool.

    Files: the cloud (ply), the splats (splat-ply, spz, gltf-splats), the mesh (glb), all cameras as camera.json
    (cameras). Folders with the frames: COLMAP model (colmap, colmap-text), nerfstudio (transforms), official scene
    (official), WorldMirror's input (world-mirror). Splats and mesh need 'worldstereo reconstruct' first; the cloud is
    the reconstruction's if there is one that has seen every clip.
    """
    from worldstereo.exporters.export import export_world
    from worldstereo.exporters.world_parts import outdated
    from worldstereo.pipelines.world_folder import World

    opened = World(world)
    export_world(opened, format.value, out)
    if note := outdated(opened):
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {out}")
