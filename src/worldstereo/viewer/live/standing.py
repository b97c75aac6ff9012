"""Standing exactly at a camera, and noticing when somebody leaves."""

import time
from typing import TYPE_CHECKING

import numpy as np

from worldstereo.cameras.cameras import Cameras
from worldstereo.viewer.live.view_space import ViewPose, ViewSpace, window_fov

if TYPE_CHECKING:
    import viser

_AHEAD = 5.0  # the point that the view turns about when one leaves, in units of viser: the median depth
_LENGTH, _ANGLE = 0.02, 0.01  # what counts as leaving: units of viser, radians
_SETTLING = 1.0  # seconds in which a browser may still report where it was before


class Standing:
    """Where each browser stands, if it stands at a camera."""

    def __init__(self, space: ViewSpace) -> None:
        self._space = space
        self._poses: dict[int, tuple[ViewPose, float]] = {}

    def stand(self, client: "viser.ClientHandle", camera: Cameras) -> None:
        """Move a browser's view to the one camera, so that its whole picture fits into the window."""
        pose = self._space.pose(camera.cam_from_world[0])
        forward = camera.forward[0].double().cpu().numpy()
        view = client.camera
        with client.atomic():
            view.position = pose.position
            view.look_at = pose.position + _AHEAD * forward
            view.wxyz = pose.wxyz
            view.fov = window_fov(camera, view.aspect)
        client.flush()
        self._poses[client.client_id] = (pose, time.monotonic())

    def has_left(self, client: "viser.ClientHandle") -> bool:
        """Whether a browser that stood at a camera has moved away; true once."""
        pose, since = self._poses.get(client.client_id, (None, 0.0))
        if pose is None or time.monotonic() - since < _SETTLING:
            return False
        if not view_pose(client).differs(pose, _LENGTH, _ANGLE):
            return False
        self.forget(client.client_id)
        return True

    def forget(self, client_id: int) -> None:
        """The browser stands nowhere, or has gone."""
        self._poses.pop(client_id, None)

    @property
    def anyone(self) -> bool:
        """Whether any browser stands at a camera."""
        return bool(self._poses)


def view_pose(client: "viser.ClientHandle") -> ViewPose:
    """Where a browser's view is."""
    return ViewPose(np.array(client.camera.wxyz), np.array(client.camera.position))
