"""The viewer as a whole: one server, the scene, the tabs, and what ties them together."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.trajectories import Obstacles, SceneScale
from worldstereo.errors import InputError
from worldstereo.images import load_png
from worldstereo.pipelines.world_folder import Clip, World
from worldstereo.viewer.framing import Framing, frame_scene
from worldstereo.viewer.live.camera_layer import CameraLayer, ShownClip
from worldstereo.viewer.live.clip_panel import ClipPanel
from worldstereo.viewer.live.guard import start_server, stop_server
from worldstereo.viewer.live.jobs import JobRunner, JobState, OnProgress
from worldstereo.viewer.live.path_draft import PathDraft
from worldstereo.viewer.live.path_panel import PathPanel, notify
from worldstereo.viewer.live.scene_layers import SceneContent, SceneLayers
from worldstereo.viewer.live.standing import Standing
from worldstereo.viewer.live.view_space import ViewSpace, window_fov
from worldstereo.viewer.page import to_image
from worldstereo.viewer.paths import PathSketch, path_color

if TYPE_CHECKING:
    import viser

_INPUT_COLOR = "#8a8a8a"
_DRAWN_AT_REST, _DRAWN_IN_MOTION = 1_000_000, 200_000  # points, unless chosen otherwise
_REST = 0.35  # seconds without a move
_NEAR, _FAR = 0.01, 1000.0  # units of viser: up to two hundred median depths
_FIRST_ASPECT = 1.4  # of a window that has not told its size yet
_KEPT_FRAMES = 64  # in memory
_CONTROLS = """
| to | mouse | touch | keyboard |
|---|---|---|---|
| turn | drag | one finger | arrows |
| move | right-drag | two fingers | W A S D, Q E |
| zoom | wheel | pinch | W S |
| stand at a camera | click it | tap it | N P: next, previous |
| play | Play | Play | space |
| add a keyframe | Add this view | Add this view | K |
| overview | Overview | Overview | O |
"""


@dataclass(frozen=True)
class Actions:
    """What the viewer can do to a world beyond looking at it; given by the command line.

    Attributes:
        read: the newest content of the scene.
        extend: makes a clip along a camera file, from "input" or "CLIP:FRAME", with progress; slow.
        export: writes the world in a format to a path that does not exist.
        formats: names of formats, each with the suffix of its file ("" for a folder).
    """

    read: Callable[[World], SceneContent]
    extend: Callable[[World, Path, str, OnProgress], None]
    export: Callable[[World, str, Path], None]
    formats: dict[str, str]


class LiveViewer:
    """A running viewer of one world."""

    def __init__(self, world: World, actions: Actions, host: str, port: int | None) -> None:
        """Read the world and start to serve.

        Raises:
            InputError: the world is unreadable, or the address cannot be served.
        """
        self._world, self._actions = world, actions
        content = actions.read(world)
        self._space = ViewSpace.of_radius(world.manifest.radius)
        self._server = start_server(host, port, "worldstereo")
        self._moved: dict[int, float] = {}
        self._closed = threading.Event()
        try:
            self._build(content)
        except BaseException:
            stop_server(self._server)
            raise

    def _build(self, content: SceneContent) -> None:
        """Fill the page."""
        server, world = self._server, self._world
        server.scene.set_up_direction(np.array(world.manifest.up, np.float64))
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="medium")
        server.gui.main_panel.dock_right()
        self._standing = Standing(self._space)
        self._layers = SceneLayers(server, self._space)
        self._cameras = CameraLayer(server, self._space, self._stand)
        self._jobs = JobRunner(self._show_job)
        tabs = server.gui.add_tab_group()
        with tabs.add_tab("Scene"):
            self._scene_tab(content)
        with tabs.add_tab("Clips"):
            self._clips = ClipPanel(server, self._space, self._cameras, self._standing)
        with tabs.add_tab("New path"):
            self._path = PathPanel(server, self._space, self._standing, self._chosen_start, self._extend)
        with tabs.add_tab("Export"):
            self._export_tab()
        self._job_area()
        self._hotkeys()
        self._load(content)
        server.on_client_connect(self._greet)
        server.on_client_disconnect(self._forget)
        threading.Thread(target=self._rest_loop, name="rest", daemon=True).start()

    @property
    def address(self) -> str:
        """Where the page is."""
        host = self._server.get_host()
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http://{name}:{self._server.get_port()}"

    def wait(self) -> None:
        """Serve until interrupted or closed."""
        self._closed.wait()

    def close(self) -> None:
        """Stop jobs at their next report, and the server."""
        self._closed.set()
        self._jobs.stop()
        self._clips.leave()
        stop_server(self._server)

    def _load(self, content: SceneContent) -> None:
        """Show the newest state of the world."""
        world = self._world
        manifest = world.manifest
        taken = np.asarray(to_image(world.frame("input")))
        clips = [ShownClip("input", world.camera, lambda frame: taken, _INPUT_COLOR)]
        done = [clip for clip in world.clips if clip.is_done]
        for index, clip in enumerate(done):
            clips.append(ShownClip(clip.name, clip.cameras, _frames_of(clip), path_color(index)))
        sketches = [PathSketch(clip.name, clip.cameras) for clip in done]
        self._framing: Framing = frame_scene(content.cloud, sketches, world.initial_bank()[1])
        self._layers.load(content, self._framing.observer)
        self._kind.options = content.kinds
        if content.note:
            self._kind.value = content.kinds[0]
        self._layers.choose(self._kind.value)
        self._points_slider()
        self._clips.show(clips)
        scale = SceneScale(manifest.radius, manifest.metric, torch.tensor(manifest.up))
        self._path.load(world.camera, scale, Obstacles(world.point_cloud.points), manifest.request.frames)
        camera, pivot = self._home(_FIRST_ASPECT)
        start = self._server.initial_camera
        pose = self._space.pose(camera.cam_from_world[0])
        start.position, start.look_at = pose.position, pivot * self._space.scale
        start.up = np.array(manifest.up, np.float64)
        start.fov = window_fov(camera, _FIRST_ASPECT)
        start.near, start.far = _NEAR, _FAR

    def _home(self, aspect: float) -> tuple[Cameras, np.ndarray]:
        """Where one looks from at first: the overview of a photo's scene, the middle of a panorama's."""
        if self._framing.all_around:
            camera = self._world.camera
            return camera, (camera.centers[0] + camera.forward[0] * self._world.manifest.radius).double().numpy()
        return self._framing.overview(round(600 * aspect), 600)

    def _scene_tab(self, content: SceneContent) -> None:
        gui = self._server.gui
        self._kind = gui.add_dropdown("Show", content.kinds)
        sky = gui.add_checkbox("Sky", True, visible=len(content.sky) > 0)
        cameras = gui.add_checkbox("Cameras", True)
        pictures = gui.add_checkbox("Frames in the cameras", True)
        overview = gui.add_button("Overview", hint="Key O.")
        self._most = gui.add_slider("Points drawn (thousands)", 1, 2, 1, 2)
        self._fewer = gui.add_checkbox("Fewer while moving", True)
        growth = gui.add_slider("Point size", 0.2, 4.0, 0.1, 1.0)
        size = gui.add_slider("Camera size", 0.2, 4.0, 0.1, 1.0)
        with gui.add_folder("Controls", expand_by_default=False):
            gui.add_markdown(_CONTROLS)

        @self._kind.on_update
        def _(event: Any) -> None:
            try:
                self._layers.choose(self._kind.value)
            except InputError as error:
                notify(event.client, "Cannot be shown", str(error))

        @sky.on_update
        def _(event: Any) -> None:
            self._layers.sky.visible = sky.value

        @cameras.on_update
        def _(event: Any) -> None:
            self._cameras.visible = cameras.value

        @pictures.on_update
        def _(event: Any) -> None:
            self._cameras.show_pictures(pictures.value)

        @overview.on_click
        def _(event: Any) -> None:
            self._overview(event.client)

        @self._most.on_update
        def _(event: Any) -> None:
            self._layers.points.draw_at_most(self._share_at_rest)

        @growth.on_update
        def _(event: Any) -> None:
            self._layers.points.grow(float(growth.value))

        @size.on_update
        def _(event: Any) -> None:
            self._cameras.resize(float(size.value))

    def _points_slider(self) -> None:
        thousands = max(2, self._layers.total // 1000)
        self._most.max = thousands
        self._most.value = min(thousands, _DRAWN_AT_REST // 1000)
        self._layers.points.draw_at_most(self._share_at_rest)

    @property
    def _share_at_rest(self) -> float:
        return self._most.value * 1000 / max(self._layers.total, 1)

    def _export_tab(self) -> None:
        gui = self._server.gui
        gui.add_markdown("Files are written to `exports/` in the world's folder. Nothing is overwritten.")
        form = gui.add_dropdown("Format", tuple(self._actions.formats))
        go = gui.add_button("Export", color="green")

        @go.on_click
        def _(event: Any) -> None:
            self._export(str(form.value), event.client)

    def _job_area(self) -> None:
        gui = self._server.gui
        self._job_said = gui.add_text("Job", "", disabled=True, multiline=True, visible=False)
        self._job_bar = gui.add_progress_bar(0.0, visible=False, animated=True)
        self._job_stop = gui.add_button("Stop the job", visible=False)
        self._job_stop.on_click(lambda event: self._jobs.stop())

    def _show_job(self, state: JobState) -> None:
        self._job_said.visible = True
        self._job_said.value = f"{state.name}: {state.what}"
        self._job_bar.value = 100 * state.share
        self._job_bar.visible = self._job_stop.visible = state.running
        if not state.running:
            for client in self._server.get_clients().values():
                notify(client, state.name, state.what, "red" if state.failed else "green")

    def _hotkeys(self) -> None:
        commands: list[tuple[str, Any, Callable[[Any], None]]] = [
            ("Overview", "O", self._overview),
            ("Next camera", "N", lambda client: self._clips.step(1, client)),
            ("Previous camera", "P", lambda client: self._clips.step(-1, client)),
            ("Play or stop the clip", "space", self._clips.play_or_stop),
            ("Add this view to the path", "K", self._path.add),
        ]
        for label, key, run in commands:

            def trigger(event: Any, run: Callable[[Any], None] = run) -> None:
                run(event.client)

            self._server.gui.add_command(label, hotkey=key).on_trigger(trigger)

    def _stand(self, number: int, frame: int, client: "viser.ClientHandle") -> None:
        self._clips.stand(number, frame, client)

    def _overview(self, client: "viser.ClientHandle | None") -> None:
        if client is None:
            return
        self._clips.leave()
        self._standing.stand(client, self._home(client.camera.aspect)[0])
        self._standing.forget(client.client_id)

    def _chosen_start(self) -> tuple[str, Cameras]:
        number, frame = self._clips.chosen
        start = "input" if number == 0 else f"{number - 1}:{frame}"
        return start, self._world.frame_camera(start)

    def _extend(self, draft: PathDraft, name: str) -> None:
        world = self._world
        manifest = world.manifest
        scale = SceneScale(manifest.radius, manifest.metric, torch.tensor(manifest.up))

        def work(on_progress: OnProgress) -> str:
            path = draft.write(world.folder / "paths", name, scale, manifest.request.frames)
            self._actions.extend(world, path, draft.start, on_progress)
            on_progress("showing the new clip", 1.0)
            self._world = World(world.folder)
            content = self._actions.read(self._world)
            self._load(content)
            self._path.reset()
            self._clips.choose(len(self._world.clips))
            return "; ".join(filter(None, (f"the world has {len(self._world.clips)} clips now", content.note)))

        self._jobs.start("Extend", work)

    def _export(self, form: str, client: "viser.ClientHandle | None") -> None:
        def work(on_progress: OnProgress) -> str:
            out = self._new_export(form)
            on_progress(f"writing {out.name}", 0.5)
            out.parent.mkdir(exist_ok=True)
            self._actions.export(self._world, form, out)
            return f"wrote {out}"

        try:
            self._jobs.start("Export", work)
        except InputError as error:
            notify(client, "Not yet", str(error))

    def _new_export(self, form: str) -> Path:
        folder, suffix = self._world.folder / "exports", self._actions.formats[form]
        out, number = folder / f"{form}{suffix}", 2
        while out.exists():
            out, number = folder / f"{form}-{number}{suffix}", number + 1
        return out

    def _greet(self, client: "viser.ClientHandle") -> None:
        client.camera.on_update(self._on_move)
        self._layers.send(client)

    def _forget(self, client: "viser.ClientHandle") -> None:
        if self._clips.has_visitor(client):
            self._clips.leave()
        self._layers.forget(client.client_id)
        self._standing.forget(client.client_id)
        self._moved.pop(client.client_id, None)

    def _on_move(self, camera: Any) -> None:
        client = camera.client
        if self._clips.has_visitor(client) and not self._clips.is_playing and self._standing.has_left(client):
            self._clips.leave()
        if self._fewer.value and self._layers.points.visible:
            in_motion = _DRAWN_IN_MOTION / max(self._layers.total, 1)
            if client.client_id not in self._moved and in_motion < self._share_at_rest:
                self._layers.points.draw_at_most(in_motion, client.client_id)
            self._moved[client.client_id] = time.monotonic()

    def _rest_loop(self) -> None:
        """Draw all points again in the browsers whose view has come to rest."""
        while not self._closed.wait(0.1):
            for client_id, moved in list(self._moved.items()):
                if time.monotonic() - moved > _REST:
                    self._moved.pop(client_id, None)
                    self._layers.points.draw_at_most(self._share_at_rest, client_id)


def _frames_of(clip: Clip) -> Callable[[int], UInt8[np.ndarray, "h w 3"]]:
    return lambda frame: _read_frame(clip.folder / "frames" / f"{frame:03d}.png")


@lru_cache(_KEPT_FRAMES)
def _read_frame(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A lossless frame as bytes."""
    return np.asarray(to_image(load_png(path)))
