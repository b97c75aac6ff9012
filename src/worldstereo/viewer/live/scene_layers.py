"""The scene as nodes of viser: points that come coarse first, splats, mesh, sky."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.viewer.live.levels import Part, cut_into_parts
from worldstereo.viewer.live.view_space import ViewSpace

if TYPE_CHECKING:
    import viser

POINT_LIMIT = 2_000_000  # sent to a browser
SPLAT_LIMIT = 400_000
SKY_LIMIT = 60_000
_PAUSE = 0.05  # seconds between parts, so that the page draws one before the next arrives
_SPLATS_AT_ONCE = 100_000
_FROM_GLTF = (0.0, 1.0, 0.0, 0.0)  # half a turn about x: from y up, z backward to OpenCV axes


@dataclass(frozen=True)
class SceneContent:
    """What there is of a scene.

    Attributes:
        cloud, sky: points.
        splats: read when they are first shown; none where the world has none.
        mesh: the same, as binary glTF: x right, y up, z backward.
        note: one sentence where splats and mesh do not show all that the points show; empty where they do.
    """

    cloud: PointCloud
    sky: PointCloud
    splats: Callable[[], GaussianSplats] | None = None
    mesh: Callable[[], bytes] | None = None
    note: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be shown, the best first: the points where they show more."""
        given = [("splats", self.splats), ("mesh", self.mesh)]
        solids = tuple(name for name, read in given if read is not None)
        return ("points", *solids) if self.note else (*solids, "points")


class CloudLayer:
    """Points, sent to each browser part by part.

    They are nodes of the single browser, not of the server: viser would send the server's nodes to a new browser all
    at once.
    """

    def __init__(self, server: "viser.ViserServer", name: str, space: ViewSpace) -> None:
        self._server = server
        self._space = space
        self._name = name
        self._root = server.scene.add_frame(name, show_axes=False)
        self._lock = threading.RLock()
        self._parts: list[Part] = []
        self._nodes: dict[int, list[Any]] = {}
        self._most = 1.0
        self._growth = 1.0

    @property
    def visible(self) -> bool:
        """Whether the layer is shown."""
        return bool(self._root.visible)

    @visible.setter
    def visible(self, shown: bool) -> None:
        self._root.visible = shown

    def show(self, parts: list[Part]) -> None:
        """Show other points in every browser."""
        with self._lock:
            self._parts = parts
            for nodes in self._nodes.values():
                for node in nodes:
                    node.remove()
            self._nodes = {}
        for client in self._server.get_clients().values():
            threading.Thread(target=self.send, args=(client,), daemon=True).start()

    def send(self, client: "viser.ClientHandle") -> None:
        """Send the points to a browser, coarse first; returns when all are on their way, or it has gone."""
        with self._lock:
            parts, nodes = self._parts, self._nodes.setdefault(client.client_id, [])
        for index, part in enumerate(parts):
            with self._lock:
                if parts is not self._parts or client.client_id not in self._server.get_clients():
                    return
                nodes.append(
                    client.scene.add_point_cloud(
                        f"{self._name}/{index:03d}",
                        part.points * np.float32(self._space.scale),
                        part.colors,
                        point_size=self._size(part, part.shown_with),
                        point_shape="circle",
                        point_shading="flat",
                        precision="float32",
                        visible=part.shown_before < self._most,
                    )
                )
                is_level_full = index + 1 == len(parts) or parts[index + 1].shown_before > part.shown_before
                if is_level_full:
                    self._arrange(client.client_id, self._most)
            if is_level_full:
                client.flush()
                time.sleep(_PAUSE)

    def forget(self, client_id: int) -> None:
        """A browser has gone."""
        with self._lock:
            self._nodes.pop(client_id, None)

    def draw_at_most(self, share: float, client_id: int | None = None) -> None:
        """Draw this share of the points, in every browser for good, or in one for the moment."""
        with self._lock:
            if client_id is None:
                self._most = share
            for number in list(self._nodes) if client_id is None else [client_id]:
                self._arrange(number, share)

    def grow(self, factor: float) -> None:
        """Draw points larger or smaller than they are spaced."""
        with self._lock:
            self._growth = factor
            for number in self._nodes:
                self._arrange(number, self._most)

    def _arrange(self, client_id: int, most: float) -> None:
        """Visibility and sizes for the share of points that is shown now."""
        nodes = self._nodes.get(client_id, [])
        there = [part for part, _ in zip(self._parts, nodes, strict=False) if part.shown_before < most]
        shown = there[-1].shown_with if there else 0.0
        for part, node in zip(self._parts, nodes, strict=False):
            node.visible = part.shown_before < most
            if node.visible:
                node.point_size = self._size(part, shown)

    def _size(self, part: Part, share: float) -> float:
        return part.point_size(share) * self._space.scale * self._growth


class SceneLayers:
    """All that is shown of a scene; one of points, splats and mesh at a time, and the sky."""

    def __init__(self, server: "viser.ViserServer", space: ViewSpace) -> None:
        self._server = server
        self._space = space
        self.points = CloudLayer(server, "/points", space)
        self.sky = CloudLayer(server, "/sky", space)
        self._content = SceneContent(PointCloud.empty(), PointCloud.empty())
        self._solids: dict[str, Any] = {}
        self.total = 0

    def load(self, content: SceneContent, observer: Float[np.ndarray, "3"]) -> None:
        """Take a scene's content, in place of what was shown before."""
        self._content = content
        for node in self._solids.values():
            node.remove()
        self._solids = {}
        self.total = min(len(content.cloud), POINT_LIMIT)
        self.points.show(cut_into_parts(content.cloud, observer, POINT_LIMIT))
        self.sky.show(cut_into_parts(content.sky, observer, SKY_LIMIT))

    def send(self, client: "viser.ClientHandle") -> None:
        """Send points and sky to a new browser."""
        self.points.send(client)
        self.sky.send(client)

    def forget(self, client_id: int) -> None:
        """A browser has gone."""
        self.points.forget(client_id)
        self.sky.forget(client_id)

    def choose(self, kind: str) -> None:
        """Show one of the content's `kinds`; splats and mesh are read at the first time.

        Raises:
            InputError: the file cannot be read.
        """
        if kind != "points" and kind not in self._solids:
            self._solids[kind] = self._add_splats() if kind == "splats" else self._add_mesh()
        self.points.visible = kind == "points"
        for name, node in self._solids.items():
            node.visible = name == kind

    def _add_splats(self) -> Any:
        """Splats in several nodes, the most visible first; viser sorts all of them together."""
        read = self._content.splats
        assert read is not None
        splats = read()
        weight = splats.opacities * splats.scales.sort(dim=1).values[:, 1:].prod(dim=1)
        splats = splats[weight.argsort(descending=True)[:SPLAT_LIMIT]]
        root = self._server.scene.add_frame("/splats", show_axes=False)
        for number, start in enumerate(range(0, len(splats), _SPLATS_AT_ONCE)):
            part = splats[slice(start, start + _SPLATS_AT_ONCE)]
            self._server.scene.add_gaussian_splats(
                f"/splats/{number:02d}",
                self._space.points(part.means),
                covariances(part) * np.float32(self._space.scale**2),
                part.colors.clamp(0, 1).numpy(),
                part.opacities[:, None].numpy(),
            )
        return root

    def _add_mesh(self) -> Any:
        read = self._content.mesh
        assert read is not None
        return self._server.scene.add_glb(
            "/mesh", read(), scale=self._space.scale, wxyz=_FROM_GLTF, cast_shadow=False, receive_shadow=False
        )


def covariances(splats: GaussianSplats) -> Float[np.ndarray, "n 3 3"]:
    """Covariance matrices in world coordinates, float32: axes · squared scales · axes transposed."""
    axes = matrix_from_quaternion(splats.rotations.float()) * splats.scales[:, None, :].float()
    return (axes @ axes.transpose(1, 2)).numpy()
