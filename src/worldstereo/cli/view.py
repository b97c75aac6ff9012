"""`worldstereo view`: a world in the browser."""

import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldstereo.cli import options

_SUFFIXES = {"splat-ply": ".ply", "gltf-splats": ".glb", "cameras": ".json"}

if TYPE_CHECKING:
    from worldstereo.pipelines.generator_options import Placement
    from worldstereo.pipelines.world_folder import World
    from worldstereo.viewer.live.jobs import OnProgress
    from worldstereo.viewer.live.scene_layers import SceneContent
    from worldstereo.viewer.live.server import Actions


def view(
    world: options.WorldArgument,
    port: Annotated[
        int | None, typer.Option("--port", help="To serve at.", show_default="8080 or the next free")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to serve at; 0.0.0.0 for all of this machine's.")] = (
        "127.0.0.1"
    ),
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the browser.")] = False,
    device: options.DeviceOption = "cpu",
    offload: options.OffloadOption = options.OffloadChoice.none,
    offline: options.OfflineOption = False,
) -> None:
    """Look at a world in the browser: points, splats, mesh, cameras, clips; draw a path and extend the world along it.

    Ctrl-C ends it.
    """
    from worldstereo.pipelines.generator_options import Placement
    from worldstereo.pipelines.world_folder import World
    from worldstereo.viewer.live.guard import is_loopback
    from worldstereo.viewer.live.server import LiveViewer

    viewer = LiveViewer(World(world), _actions(Placement(device, offload.value, offline)), host, port)
    try:
        if not is_loopback(host):
            typer.echo(f"warning: --host {host}: anyone who reaches this machine can look at the world and extend it")
        typer.echo(f"{world}: look at {viewer.address} (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(viewer.address)
        viewer.wait()
    except KeyboardInterrupt:
        typer.echo("")
    finally:
        viewer.close()


def _actions(placement: "Placement") -> "Actions":
    """What the viewer reads and does, by the functions of the other verbs."""
    from worldstereo.cli.extend import extend_world
    from worldstereo.exporters.export import FORMATS, export_world
    from worldstereo.viewer.live.server import Actions

    def extend(world: "World", path: Path, start: str, on_progress: "OnProgress") -> None:
        extend_world(world, [str(path)], start, None, placement, on_progress)

    suffixes = {name: "" if form.is_folder else _SUFFIXES.get(name, f".{name}") for name, form in FORMATS.items()}
    return Actions(read=_content, extend=extend, export=export_world, formats=suffixes)


def _content(world: "World") -> "SceneContent":
    """The reconstruction's results where they exist; the memory's cloud, and a note, where it lacks a clip."""
    from worldstereo.exporters.world_parts import fused_cloud, outdated, splats_of
    from worldstereo.reconstruction.folder import ReconstructionFolder
    from worldstereo.viewer.live.scene_layers import SceneContent

    folder = ReconstructionFolder(world.folder / "reconstruction")
    fused = fused_cloud(world)
    memory = world.memory
    note = outdated(world)
    if note:
        typer.echo(f"note: {note}")
    return SceneContent(
        cloud=memory.cloud if fused is None else fused.cloud,
        sky=memory.sky if fused is None else folder.sky,
        splats=(lambda: splats_of(world)) if folder.has_splats else None,
        mesh=(lambda: _mesh_file(world)) if folder.has_mesh else None,
        note=note,
    )


def _mesh_file(world: "World") -> bytes:
    """The mesh as the bytes of its GLB."""
    from worldstereo.exporters.glb import write_glb
    from worldstereo.exporters.world_parts import mesh_of

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.glb"
        write_glb(path, mesh_of(world))
        return path.read_bytes()
