"""The picture of a camera laid over what is seen from there, up to a line that can be moved."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from worldstereo.cameras.cameras import Cameras
from worldstereo.viewer.live.view_space import ViewSpace

if TYPE_CHECKING:
    import viser

_BEFORE_EYE = 0.05  # units of viser: nearer than anything, farther than the nearest visible distance
_QUALITY = 90  # of the JPEG


def plane_of_picture(camera: Cameras, share: float) -> tuple[int, Float[np.ndarray, "2"], Float[np.ndarray, "3"]]:
    """Where the left part of a camera's picture lies on the plane z = 1 before it.

    Args:
        camera: one camera; its principal point may lie anywhere.
        share: of the picture's width, in [0, 1].

    Returns:
        columns of the part, at least 1; its width and height; its middle in camera coordinates.
    """
    k = camera.intrinsics[0].double().numpy()
    columns = max(1, round(share * camera.width))
    left, right = (0 - k[0, 2]) / k[0, 0], (columns - k[0, 2]) / k[0, 0]
    top, bottom = (0 - k[1, 2]) / k[1, 1], (camera.height - k[1, 2]) / k[1, 1]
    middle = np.array([(left + right) / 2, (top + bottom) / 2, 1.0])
    return columns, np.array([right - left, bottom - top]), middle


class ComparedPicture:
    """A picture that hides the left part of the view from its camera."""

    def __init__(self, server: "viser.ViserServer", space: ViewSpace) -> None:
        self._server = server
        self._space = space
        self._node: Any = None

    def show(self, camera: Cameras, picture: UInt8[np.ndarray, "h w 3"], share: float) -> None:
        """Lay the left `share` of the picture before its camera, in place of what was there."""
        if share <= 0:
            self.hide()
            return
        columns, size, middle = plane_of_picture(camera, share)
        pose = self._space.pose(camera.cam_from_world[0])
        rotation = camera.cam_from_world[0, :3, :3].double().numpy().T
        self._node = self._server.scene.add_image(
            "/picture",
            np.ascontiguousarray(picture[:, :columns]),
            *(size * _BEFORE_EYE),
            format="jpeg",
            jpeg_quality=_QUALITY,
            cast_shadow=False,
            receive_shadow=False,
            wxyz=pose.wxyz,
            position=pose.position + rotation @ middle * _BEFORE_EYE,
        )

    def hide(self) -> None:
        """Take the picture away."""
        if self._node is not None:
            self._node.remove()
            self._node = None
