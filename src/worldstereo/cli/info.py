"""`worldstereo info`: what will be used, what is missing, what a run costs."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def info(
    world: Annotated[Path | None, typer.Argument(help="A world folder to describe.", show_default=False)] = None,
) -> None:
    """Show versions, devices, back-ends within reach and what a run costs; or describe a world."""
    from rich.console import Console

    console = Console(markup=False)
    if world is not None:
        _describe_world(console, world)
    else:
        _describe_machine(console)


def _describe_machine(console: "Console") -> None:
    import torch
    from rich.table import Table

    import worldstereo
    from worldstereo.depth.registry import back_ends
    from worldstereo.models.hub import DEFAULT_MODEL, is_shipped
    from worldstereo.reconstruction.external.registry import EXTERNALS

    console.print(
        f"worldstereo {worldstereo.__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    console.print(f"devices: {', '.join(devices)}")
    nano = "the small network of this package" if is_shipped("nano") else "its weights are not in this installation"
    console.print(
        f"generators: nano ({nano}), warp (baseline: no network), or a folder or hub id of a network (docs/models.md); "
        f"the default is {DEFAULT_MODEL}"
    )
    table = Table("depth back-end", "ready", "licence", "how to get it", title="Depth")
    for entry in back_ends():
        table.add_row(entry.name, "yes" if entry.installed else "no", entry.licence, entry.how)
    console.print(table)
    console.print(
        f"'reconstruct --depth' also takes networks that look at many frames at once: {', '.join(EXTERNALS)}; "
        f"licences and packages are in docs/reconstruction.md"
    )
    console.print("a run with nano (4 clips of 13 frames, 720×480) took 53 to 82 s and 1.6 GB on 2 CPU cores")


def _describe_world(console: "Console", folder: Path) -> None:
    from worldstereo.pipelines.world_folder import World

    world = World(folder)
    manifest = world.manifest
    console.print(f"{folder}: world of {manifest.source_name}, made by worldstereo {manifest.request.software}")
    console.print(f"generator {manifest.request.model}, depth {manifest.depth_source}, seed {manifest.request.seed}")
    console.print(f"frames {manifest.width}×{manifest.height}; intrinsics from {manifest.intrinsics_source}")
    for clip in world.clips:
        console.print(f"  {clip.name}: {'done' if clip.is_done else 'not made yet'}")
    console.print(f"points: {len(world.point_cloud):,}")
