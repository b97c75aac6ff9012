"""What the chosen camera paths look like in the scene, before anything is generated."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.files import write_text
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.page import page, picture_card
from worldstereo.viewer.paths import PathSketch
from worldstereo.viewer.scene_view import scene_section
from worldstereo.viewer.still import draw_preview, first_camera

__all__ = ["PathSketch", "draw_preview", "write_preview_page"]


def write_preview_page(
    path: str | Path,
    cloud: PointCloud,
    sky: PointCloud,
    paths: Sequence[PathSketch],
    picture: Float[Tensor, "3 h w"],
    input_cameras: Cameras | None = None,
    unit: tuple[str, float] = ("units", 1.0),
    title: str = "Camera paths",
) -> None:
    """Write a self-contained page: the scene in 3D with the paths, a still of it, and the input picture. Atomic.

    Args:
        path: the `.html` file.
        cloud, sky: the points.
        paths: the camera paths.
        picture: the input, RGB in [0, 1].
        input_cameras: where the input was taken; the first camera of the first path by default.
        unit: the still's scale bars, see `draw_preview`.
        title: plain text.

    Raises:
        InputError: the file cannot be written.
    """
    pictured = input_cameras is not None and len(input_cameras) == 1
    observer = PathSketch("input", input_cameras or first_camera(paths), picture[None] if pictured else None)
    still = draw_preview(cloud, paths, sky, observer.cameras, unit)
    scene = scene_section(cloud, sky, observer, paths, still)
    body = f"""<h1>{escape(title)}</h1>
<p class="soft">Nothing is generated yet: the cameras will take these paths through the points of the input.</p>
{scene}
<section>
<h2>Still pictures</h2>
{picture_card(still, "Paths from four sides", "card full")}
{picture_card(picture, "Input", "card full")}
</section>"""
    write_text(path, page(title, body))
