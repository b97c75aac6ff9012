"""The controls of a path of one's own: keyframes placed in the scene, the curve through them, and its flight."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.trajectories import Obstacles, SceneScale
from worldstereo.errors import InputError
from worldstereo.viewer.live.camera_layer import add_line
from worldstereo.viewer.live.path_draft import PathDraft
from worldstereo.viewer.live.player import Player
from worldstereo.viewer.live.standing import Standing, view_pose
from worldstereo.viewer.live.view_space import ViewPose, ViewSpace, flight, picture_fov

if TYPE_CHECKING:
    import viser

_KEYFRAME, _FLOWN, _CUT = (255, 210, 40), (60, 220, 120), (240, 70, 70)
_SIZE, _HANDLE_SIZE = 0.35, 0.6  # of a keyframe's frustum and of the handle that moves it, units of viser
_FRAMES_PER_SECOND = 10.0
_HELP = "Move to where the camera should go, then add the view. The path leaves from the start, a frame that exists."


class PathPanel:
    """Edits one draft, and draws it in the scene."""

    def __init__(
        self,
        server: "viser.ViserServer",
        space: ViewSpace,
        standing: Standing,
        chosen_start: Callable[[], tuple[str, Cameras]],
        extend: Callable[[PathDraft, str], None],
    ) -> None:
        """
        Args:
            chosen_start: the frame that is chosen now, as `--start` takes it, and its camera.
            extend: begins to make the clip of a draft under a name.

        Both may raise InputError.
        """
        self._server = server
        self._space = space
        self._standing = standing
        self._chosen_start = chosen_start
        self._extend = extend
        self._lock = threading.RLock()
        self._draft: PathDraft | None = None
        self._scale: SceneScale | None = None
        self._obstacles = Obstacles(torch.zeros(0, 3))
        self._frames = 2
        self._nodes: list[Any] = []
        self._handle: Any = None
        self._flown: Cameras | None = None
        self._visitor: Any = None
        self._player = Player(self._fly_frame, self._show_stopped)
        gui = server.gui
        gui.add_markdown(_HELP)
        self._start = gui.add_text("Starts at", "input", disabled=True)
        start_here = gui.add_button("Start at the chosen frame", hint="The frame that is chosen under Clips.")
        add = gui.add_button("Add this view", hint="Key K.")
        self._keyframe = gui.add_dropdown("Keyframe", ("none",))
        self._edit = gui.add_button_group("", ("Go there", "Set to this view", "Remove"))
        clear = gui.add_button("Remove all")
        self._fly = gui.add_button("Fly the path")
        self._said = gui.add_text("Path", "no keyframe yet", disabled=True, multiline=True)
        self._name = gui.add_text("Name", "my-path")
        go = gui.add_button("Extend the world along it", color="green")
        self._connect(start_here, add, clear, go)

    def load(self, start_camera: Cameras, scale: SceneScale, obstacles: Obstacles, frames: int) -> None:
        """Take the scene that paths are tested in; the draft is kept if there is one."""
        with self._lock:
            self._scale, self._obstacles, self._frames = scale, obstacles, frames
            if self._draft is None:
                self._draft = PathDraft("input", start_camera)
            self._redraw()

    def add(self, client: "viser.ClientHandle | None") -> None:
        """Add a browser's view as the last keyframe."""
        if client is None or self._draft is None:
            return
        with self._lock:
            self._change(self._draft.added(self._view(client)), len(self._draft.keyframes))

    def reset(self) -> None:
        """Begin again at the same start."""
        with self._lock:
            if self._draft is not None:
                self._change(PathDraft(self._draft.start, self._draft.start_camera), None)

    def _connect(self, start_here: Any, add: Any, clear: Any, go: Any) -> None:
        @start_here.on_click
        def _(event: Any) -> None:
            start, camera = self._chosen_start()
            with self._lock:
                keyframes = () if self._draft is None else self._draft.keyframes
                self._start.value = start
                self._change(PathDraft(start, camera, keyframes), self._selected)

        @add.on_click
        def _(event: Any) -> None:
            self.add(event.client)

        @clear.on_click
        def _(event: Any) -> None:
            self.reset()

        @self._keyframe.on_update
        def _(event: Any) -> None:
            if event.client is not None:
                with self._lock:
                    self._redraw()

        @self._edit.on_click
        def _(event: Any) -> None:
            self._edit_keyframe(event.target.value, event.client)

        @self._fly.on_click
        def _(event: Any) -> None:
            self._fly_or_stop(event.client)

        @go.on_click
        def _(event: Any) -> None:
            try:
                if self._draft is None or self._scale is None:
                    return
                self._draft.sampled(self._scale, self._frames)
                self._extend(self._draft, str(self._name.value))
            except InputError as error:
                notify(event.client, "Not yet", str(error))

    @property
    def _selected(self) -> int | None:
        """The chosen keyframe, from 0."""
        number = str(self._keyframe.value)
        return int(number) - 1 if number.isdecimal() else None

    def _view(self, client: "viser.ClientHandle") -> Float[Tensor, "4 4"]:
        return self._space.cam_from_world(view_pose(client))

    def _edit_keyframe(self, what: str, client: "viser.ClientHandle") -> None:
        with self._lock:
            selected = self._selected
            if self._draft is None or selected is None:
                return
            if what == "Go there":
                self._standing.stand(client, self._draft.cameras[selected + 1])
                self._standing.forget(client.client_id)
            elif what == "Set to this view":
                self._change(self._draft.replaced(selected, self._view(client)), selected)
            else:
                fewer = self._draft.removed(selected)
                self._change(fewer, min(selected, len(fewer.keyframes) - 1) if fewer.keyframes else None)

    def _change(self, draft: PathDraft, selected: int | None) -> None:
        self._draft = draft
        names = tuple(str(number + 1) for number in range(len(draft.keyframes))) or ("none",)
        self._keyframe.options = names
        self._keyframe.value = names[0 if selected is None else min(selected, len(names) - 1)]
        self._redraw()

    def _redraw(self) -> None:
        for node in self._nodes:
            node.remove()
        self._nodes, self._flown = [], None
        draft, scale = self._draft, self._scale
        if draft is None or scale is None:
            return
        fov, aspect = picture_fov(draft.start_camera)
        for number, keyframe in enumerate(draft.keyframes):
            pose = self._space.pose(keyframe)
            node = self._server.scene.add_camera_frustum(
                f"/path/keyframe-{number:02d}",
                fov,
                aspect,
                scale=_SIZE,
                color=_KEYFRAME,
                variant="filled" if number == self._selected else "wireframe",
                thickness=3.0,
                thickness_units="screen",
                cast_shadow=False,
                receive_shadow=False,
                wxyz=pose.wxyz,
                position=pose.position,
            )

            @node.on_click
            def _(event: Any, number: int = number) -> None:
                with self._lock:
                    self._keyframe.value = str(number + 1)
                    self._redraw()

            self._nodes.append(node)
        self._place_handle()
        try:
            drawn, self._flown, share = draft.planned(scale, self._frames, self._obstacles)
        except InputError as error:
            self._said.value = str(error)
            return
        self._draw_line("/path/drawn", drawn, _CUT if share < 1 else _FLOWN)
        if share < 1:
            self._draw_line("/path/flown", self._flown, _FLOWN)
        self._said.value = describe(drawn, share, self._frames)

    def _draw_line(self, name: str, cameras: Cameras, color: tuple[int, int, int]) -> None:
        self._nodes.append(add_line(self._server, name, self._space.points(cameras.centers), color))

    def _place_handle(self) -> None:
        """The handle of the chosen keyframe: drag its arrows and arcs to move and turn it."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        selected = self._selected
        if self._draft is None or selected is None:
            return
        pose = self._space.pose(self._draft.keyframes[selected])
        handle = self._server.scene.add_transform_controls(
            "/path/handle", scale=_HANDLE_SIZE, depth_test=False, wxyz=pose.wxyz, position=pose.position
        )

        @handle.on_drag_end
        def _(event: Any) -> None:
            moved = ViewPose(handle.wxyz, handle.position)
            with self._lock:
                if self._draft is not None and selected < len(self._draft.keyframes):
                    self._change(self._draft.replaced(selected, self._space.cam_from_world(moved)), selected)

        self._handle = handle

    def _fly_or_stop(self, client: "viser.ClientHandle") -> None:
        if self._player.is_playing:
            self._player.stop()
        elif self._flown is None:
            notify(client, "Not yet", str(self._said.value))
        else:
            self._visitor = client
            self._fly.label = "Stop"
            self._player.play(len(self._flown), 0.0, lambda: _FRAMES_PER_SECOND, repeat=False)

    def _fly_frame(self, at: float) -> None:
        if self._flown is not None:
            self._standing.stand(self._visitor, flight(self._flown, at))

    def _show_stopped(self) -> None:
        self._standing.forget(self._visitor.client_id)
        self._fly.label = "Fly the path"


def describe(drawn: Cameras, share: float, frames: int) -> str:
    """A path in one sentence."""
    length = float(drawn.centers.diff(dim=0).norm(dim=1).sum())
    sentence = f"{frames} frames, {length:.3g} world units long"
    if share < 1:
        sentence += f"; shortened to {share:.0%} to keep clear of the scene"
    return sentence


def notify(
    client: "viser.ClientHandle | None",
    title: str,
    sentence: str,
    color: Literal["orange", "red", "green"] = "orange",
) -> None:
    """Show a browser a sentence for a while."""
    if client is not None:
        client.add_notification(title, sentence, auto_close_seconds=8.0, color=color)
