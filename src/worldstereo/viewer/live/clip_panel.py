"""The controls of clips: choose one, stand at its cameras, play it, compare it with the reconstruction."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from worldstereo.viewer.live.camera_layer import CameraLayer, ShownClip
from worldstereo.viewer.live.compare import ComparedPicture
from worldstereo.viewer.live.player import Player
from worldstereo.viewer.live.standing import Standing
from worldstereo.viewer.live.view_space import ViewSpace, flight

if TYPE_CHECKING:
    import viser

_FRAMES_PER_SECOND = 16


class ClipPanel:
    """One clip and one frame are chosen; a browser may stand there."""

    def __init__(self, server: "viser.ViserServer", space: ViewSpace, cameras: CameraLayer, standing: Standing) -> None:
        self._cameras = cameras
        self._standing = standing
        self._compared = ComparedPicture(server, space)
        self._lock = threading.RLock()
        self._clips: list[ShownClip] = []
        self._visitor: Any = None
        self._player = Player(self._play_frame, self._show_stopped)
        gui = server.gui
        self._clip = gui.add_dropdown("Clip", ("-",))
        self._frame = gui.add_slider("Frame", 0, 1, 1, 0)
        self._walk = gui.add_button_group("Go", ("◀", "Stand here", "▶"))
        self._play = gui.add_button("Play", icon=None, hint="Plays the clip; at a camera, the view flies along.")
        self._rate = gui.add_slider("Frames a second", 1, 30, 1, _FRAMES_PER_SECOND)
        self._repeat = gui.add_checkbox("Repeat", False)
        self._wipe = gui.add_slider(
            "Compare",
            0.0,
            1.0,
            0.01,
            0.5,
            hint="At a camera: how much of the generated frame hides the reconstruction.",
        )
        self._picture = gui.add_image(np.zeros((9, 16, 3), np.uint8), label="Generated frame", format="jpeg")
        self._connect(server)

    @property
    def chosen(self) -> tuple[int, int]:
        """Number of the clip (0 = the input) and frame."""
        return self._number, int(self._frame.value)

    def show(self, clips: list[ShownClip]) -> None:
        """Offer these clips; the first one is chosen, or the one of the same name as before."""
        with self._lock:
            before = self._clip.value
            self._clips = clips
            self._cameras.show(clips)
            names = tuple(f"{number} {clip.name}" for number, clip in enumerate(clips))
            self._clip.options = names
            self._clip.value = before if before in names else names[min(1, len(names) - 1)]
            self._fit_slider()
            self._refresh()

    def stand(self, number: int, frame: int, client: "viser.ClientHandle | None") -> None:
        """Choose a clip's frame, and move a browser's view to its camera."""
        self._player.stop()
        with self._lock:
            self._choose(number, frame)
            self._visitor = client
            self._refresh()

    def choose(self, number: int) -> None:
        """Choose a clip's first frame; nobody's view moves."""
        self.stand(number, 0, None)

    def step(self, frames: int, client: "viser.ClientHandle | None") -> None:
        """Stand at a camera before or after the chosen one."""
        number, frame = self.chosen
        self.stand(number, min(max(frame + frames, 0), len(self._clips[number].cameras) - 1), client)

    def play_or_stop(self, client: "viser.ClientHandle | None") -> None:
        """Play the chosen clip from the chosen frame, or stop."""
        if self._player.is_playing:
            self._player.stop()
            return
        number, frame = self.chosen
        frames = len(self._clips[number].cameras)
        first = 0.0 if frame >= frames - 1 else float(frame)
        self._play.label = "Stop"
        self._player.play(frames, first, lambda: float(self._rate.value), bool(self._repeat.value))

    def leave(self) -> None:
        """Stand nowhere."""
        self._player.stop()
        with self._lock:
            self._visitor = None
            self._compared.hide()
            self._cameras.visible = True

    def has_visitor(self, client: "viser.ClientHandle") -> bool:
        """Whether that browser stands at the chosen camera."""
        return self._visitor is not None and self._visitor.client_id == client.client_id

    @property
    def is_playing(self) -> bool:
        """Whether a clip plays."""
        return self._player.is_playing

    @property
    def _number(self) -> int:
        return int(str(self._clip.value).split(" ", 1)[0])

    def _connect(self, server: "viser.ViserServer") -> None:
        @self._clip.on_update
        def _(event: Any) -> None:
            if event.client is not None:
                self._player.stop()
                with self._lock:
                    self._fit_slider()
                    self._frame.value = 0
                    self._refresh()

        @self._frame.on_update
        def _(event: Any) -> None:
            if event.client is not None:
                self._player.stop()
                with self._lock:
                    self._refresh()

        @self._walk.on_click
        def _(event: Any) -> None:
            self.step({"◀": -1, "▶": 1}.get(event.target.value, 0), event.client)

        @self._play.on_click
        def _(event: Any) -> None:
            self.play_or_stop(event.client)

        @self._wipe.on_update
        def _(event: Any) -> None:
            if event.client is not None:
                with self._lock:
                    self._compare()

    def _choose(self, number: int, frame: int) -> None:
        self._clip.value = self._clip.options[number]
        self._fit_slider()
        self._frame.value = frame

    def _fit_slider(self) -> None:
        last = len(self._clips[self._number].cameras) - 1
        if self._frame.value > last:
            self._frame.value = last
        self._frame.max = max(last, 1)
        self._frame.disabled = last == 0

    def _play_frame(self, at: float) -> None:
        with self._lock:
            number, shown = self.chosen
            clip = self._clips[number]
            frame = min(int(at), len(clip.cameras) - 1)
            if frame != shown:
                self._frame.value = frame
                self._refresh()
            elif self._visitor is not None and self._wipe.value == 0:
                self._standing.stand(self._visitor, flight(clip.cameras, at))

    def _show_stopped(self) -> None:
        self._play.label = "Play"

    def _refresh(self) -> None:
        """Picture, view and comparison for the chosen frame."""
        number, frame = self.chosen
        clip = self._clips[number]
        self._picture.image = clip.picture(frame)
        if self._visitor is not None:
            self._cameras.visible = False
            self._standing.stand(self._visitor, clip.cameras[frame])
        self._compare()

    def _compare(self) -> None:
        if self._visitor is None:
            self._compared.hide()
            return
        number, frame = self.chosen
        clip = self._clips[number]
        self._compared.show(clip.cameras[frame], clip.picture(frame), float(self._wipe.value))
