"""Clips as frusta with thumbnails along a line; a click on one chooses it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from worldstereo.cameras.cameras import Cameras
from worldstereo.viewer.live.view_space import ViewSpace, picture_fov
from worldstereo.viewer.paths import frustum_frames

if TYPE_CHECKING:
    import viser

_THUMBNAIL_WIDTH = 192
_SIZE = 0.3  # of a frustum, units of viser
_LINE = 2.0  # pixels

OnChosen = Callable[[int, int, "viser.ClientHandle"], None]
"""Called as (number of the clip, frame, whose browser)."""


@dataclass(frozen=True, eq=False)
class ShownClip:
    """A clip, or the input as a clip of one frame.

    Attributes:
        name: plain text.
        cameras: one a frame.
        picture: reads a frame, RGB.
        color: `#rrggbb`.
    """

    name: str
    cameras: Cameras
    picture: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    color: str


class CameraLayer:
    """The frusta of all clips."""

    def __init__(self, server: "viser.ViserServer", space: ViewSpace, on_chosen: OnChosen) -> None:
        self._server = server
        self._space = space
        self._on_chosen = on_chosen
        self._root = server.scene.add_frame("/cameras", show_axes=False)
        self._size = 1.0
        self._frusta: list[tuple[Any, np.ndarray]] = []
        self._nodes: list[Any] = []

    @property
    def visible(self) -> bool:
        """Whether the layer is shown."""
        return bool(self._root.visible)

    @visible.setter
    def visible(self, shown: bool) -> None:
        self._root.visible = shown

    def show(self, clips: list[ShownClip]) -> None:
        """Draw these clips in place of those before."""
        for node in self._nodes:
            node.remove()
        self._frusta, self._nodes = [], []
        for number, clip in enumerate(clips):
            self._draw(number, clip)

    def resize(self, factor: float) -> None:
        """Draw frusta larger or smaller."""
        self._size = factor
        with self._server.atomic():
            for frustum, _ in self._frusta:
                frustum.scale = _SIZE * factor

    def show_pictures(self, shown: bool) -> None:
        """With or without thumbnails in the frusta."""
        for frustum, thumbnail in self._frusta:
            frustum.image = thumbnail if shown else None

    def _draw(self, number: int, clip: ShownClip) -> None:
        color = rgb(clip.color)
        centers = self._space.points(clip.cameras.centers)
        if len(centers) > 1:
            self._nodes.append(add_line(self._server, f"/cameras/{number:03d}/line", centers, color))
        fov, aspect = picture_fov(clip.cameras[0])
        for frame in frustum_frames(len(clip.cameras)):
            pose = self._space.pose(clip.cameras.cam_from_world[frame])
            thumbnail = small(clip.picture(frame))
            node = self._server.scene.add_camera_frustum(
                f"/cameras/{number:03d}/{frame:03d}",
                fov,
                aspect,
                scale=_SIZE * self._size,
                thickness=_LINE,
                thickness_units="screen",
                color=color,
                image=thumbnail,
                format="jpeg",
                cast_shadow=False,
                receive_shadow=False,
                wxyz=pose.wxyz,
                position=pose.position,
            )

            @node.on_click
            def _(event: Any, number: int = number, frame: int = frame) -> None:
                self._on_chosen(number, frame, event.client)

            self._frusta.append((node, thumbnail))
            self._nodes.append(node)


def add_line(
    server: "viser.ViserServer", name: str, points: Float[np.ndarray, "n 3"], color: tuple[int, int, int]
) -> Any:
    """A line through points in units of viser."""
    segments = np.stack([points[:-1], points[1:]], axis=1)
    return server.scene.add_line_segments(name, segments, color, thickness=_LINE, thickness_units="screen")


def rgb(color: str) -> tuple[int, int, int]:
    """The levels of `#rrggbb`."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def small(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
    """A thumbnail."""
    height = max(1, round(_THUMBNAIL_WIDTH * picture.shape[0] / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((_THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS))
