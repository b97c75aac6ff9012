"""The interactive 3D view: a scene packed into a piece of HTML that `assets/scene.js` draws."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.framing import CUT_AWAY_COSINE, OVERVIEW_FOV_DEGREES, Framing, frame_scene
from worldstereo.viewer.page import data_url, embedded_json, picture_url, to_image
from worldstereo.viewer.paths import PathSketch, frustum_frames, path_color
from worldstereo.viewer.thinning import footprint, thinned

CLOUD_LIMIT, SKY_LIMIT = 300_000, 60_000  # points in a page
_BLOCK = 4096  # points that share a bounding box
_LEVELS = 65535
_THUMBNAIL_WIDTH = 192
_OVERVIEW_SIZE = (300, 200)


def scene_section(
    cloud: PointCloud, sky: PointCloud, observer: PathSketch, paths: Sequence[PathSketch], still: Float[Tensor, "3 h w"]
) -> str:
    """The HTML of the interactive view.

    Args:
        cloud, sky: the points; thinned to 300,000 and 60,000.
        observer: the camera of the photo, or the rig of the panorama.
        paths: the camera paths, each drawn in its colour, with its frames in the frusta.
        still: what is shown where the view cannot be drawn.
    """
    framing = frame_scene(cloud, paths, observer.cameras)
    data = pack_scene(framing, cloud, sky, observer, paths)
    sky_box = '<label><input type="checkbox" data-show="sky" checked>sky</label>' if len(sky) else ""
    has_pictures = any(path["atlas"] for path in data["paths"])
    pictures_box = '<label><input type="checkbox" data-show="pictures" checked>frames</label>' if has_pictures else ""
    legend = "\n".join(_legend_row(index, path) for index, path in enumerate(data["paths"]))
    return f"""<figure class="scene" aria-label="The scene in 3D">
<div class="scene-stage">
<img class="scene-still" src="{picture_url(still)}" alt="The points and the camera paths, drawn from four sides">
<canvas tabindex="0" hidden aria-label="Interactive 3D view. Arrow keys turn, shift and arrow keys move, plus and \
minus zoom, 0 shows the overview, space plays the chosen path, comma and full stop step through its frames."></canvas>
<div class="scene-gate" hidden></div>
<p class="scene-status" role="status"></p>
</div>
<p class="scene-message" hidden></p>
<div class="scene-bar" hidden>
<div class="scene-player">
<button type="button" data-action="overview">Overview</button>
<button type="button" data-action="play" aria-label="Play the chosen path"><span aria-hidden="true">▶</span></button>
<input type="range" data-action="frame" min="0" max="0" step="any" value="0" aria-label="Frame of the chosen path">
<output></output>
</div>
<ul class="scene-legend">
{legend}
</ul>
<fieldset class="scene-options">
<legend>Show</legend>
<label><input type="checkbox" data-show="cloud" checked>points</label>
{sky_box}
<label><input type="checkbox" data-show="cameras" checked>cameras</label>
{pictures_box}
<label title="Hide surfaces that are seen from behind, such as the near wall of a room">\
<input type="checkbox" data-show="cutaway"{" checked" if framing.all_around else ""}>cut away</label>
<label class="scene-size">point size\
<input type="range" data-action="size" min="-1.5" max="2" step="0.1" value="0"></label>
</fieldset>
<p class="scene-help">Drag to turn, right-drag or two fingers to move, click and scroll or pinch to zoom, \
double-click a camera to stand there or a point to turn about it.</p>
</div>
<script type="application/json">{embedded_json(data)}</script>
</figure>"""


def pack_scene(
    framing: Framing, cloud: PointCloud, sky: PointCloud, observer: PathSketch, paths: Sequence[PathSketch]
) -> dict[str, Any]:
    """What `scene.js` reads: plain JSON, world coordinates and axes as everywhere."""
    cloud, sky = thinned(cloud, CLOUD_LIMIT), thinned(sky, SKY_LIMIT)
    overview, overview_pivot = framing.overview(*_OVERVIEW_SIZE)
    return {
        "observer": _rounded(framing.observer),
        "up": _rounded(framing.up),
        "north": _rounded(framing.north),
        "pivot": _rounded(framing.pivot),
        "radius": float(framing.radius),
        "facing": CUT_AWAY_COSINE,
        "overview": {
            "eye": _rounded(overview.centers[0].double().numpy()),
            "pivot": _rounded(overview_pivot),
            "fov": OVERVIEW_FOV_DEGREES,
            "aspect": _OVERVIEW_SIZE[0] / _OVERVIEW_SIZE[1],
        },
        "points": {
            "cloud": {**pack_points(cloud, framing.observer), "footprint": footprint(cloud, framing.observer)},
            "sky": {**pack_points(sky, framing.observer), "footprint": footprint(sky, framing.observer)},
        },
        "paths": [
            _pack_path(observer, None),
            *(_pack_path(path, path_color(index)) for index, path in enumerate(paths)),
        ],
    }


def pack_points(cloud: PointCloud, observer: Float[np.ndarray, "3"]) -> dict[str, Any]:
    """Points with 16-bit coordinates and 8-bit colours, base64.

    They are sorted by distance from the observer and cut into blocks of 4,096 that each have a bounding box of
    their own, so that far points cost near ones no precision: the error is at most 1/65,535 of the distance
    of the farthest point of the block (half a step of a box no wider than twice that distance).
    """
    points = cloud.points.double().cpu().numpy()
    order = np.argsort(np.linalg.norm(points - observer, axis=1), kind="stable")
    points = points[order]
    colors = cloud.colors.cpu().clamp(0, 1).mul(255).round().byte().numpy()[order]
    levels = np.empty(points.shape, "<u2")
    boxes = []
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        low = block.min(axis=0)
        step = np.maximum((block.max(axis=0) - low) / _LEVELS, 1e-12)
        levels[start : start + _BLOCK] = np.round((block - low) / step)
        boxes.append([*low.tolist(), *step.tolist()])
    return {
        "count": len(points),
        "block": _BLOCK,
        "boxes": boxes,
        "positions": base64.b64encode(levels.tobytes()).decode("ascii"),
        "colors": base64.b64encode(colors.tobytes()).decode("ascii"),
    }


def _pack_path(path: PathSketch, color: str | None) -> dict[str, Any]:
    """Per frame the `world_from_cam` rotation (row by row), the centre, and the lens in units of the image height."""
    cameras = path.cameras
    k = cameras.intrinsics.double().cpu() / cameras.height
    lens = torch.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], dim=1)
    pose = torch.cat([cameras.world_from_cam[:, :3, :3].flatten(1), cameras.centers], dim=1).double().cpu()
    frusta = frustum_frames(len(cameras))
    return {
        "name": path.name,
        "color": color,
        "aspect": cameras.width / cameras.height,
        "poses": [_rounded(row.numpy()) for row in pose],
        "lenses": [_rounded(row.numpy()) for row in lens],
        "frusta": frusta,
        "atlas": None if path.frames is None else _atlas(path.frames, frusta),
    }


def _atlas(pictures: Float[Tensor, "f 3 h w"], which: list[int]) -> str:
    """The chosen pictures side by side, small, as a JPEG data URL."""
    height = max(1, round(_THUMBNAIL_WIDTH * pictures.shape[2] / pictures.shape[3]))
    atlas = Image.new("RGB", (_THUMBNAIL_WIDTH * len(which), height))
    for place, index in enumerate(which):
        small = to_image(pictures[index]).resize((_THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS)
        atlas.paste(small, (place * _THUMBNAIL_WIDTH, 0))
    buffer = io.BytesIO()
    atlas.save(buffer, "JPEG", quality=82)
    return data_url(buffer.getvalue(), "image/jpeg")


def _legend_row(index: int, path: dict[str, Any]) -> str:
    name, color = escape(path["name"]), path["color"] or "var(--ink)"
    count = len(path["poses"])
    detail = f"{count} {'frame' if path['color'] else 'camera'}{'s' if count > 1 else ''}"
    return (
        f'<li style="--path: {color}"><label><input type="checkbox" data-path="{index}" checked>'
        f'<span class="swatch" aria-hidden="true"></span>{name} <small>{detail}</small></label>'
        f'<button type="button" data-action="fly" data-path="{index}" aria-label="Stand at the cameras of {name}">'
        f"{'Fly' if path['color'] and count > 1 else 'Stand here'}</button></li>"
    )


def _rounded(values: np.ndarray) -> list[float]:
    """As float32 numbers written short: seven digits are all they have."""
    return [float(f"{value:.7g}") for value in values.tolist()]
