"""A still picture of a scene and its camera paths from four sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.framing import CUT_AWAY_COSINE, Framing, frame_scene
from worldstereo.viewer.paths import PathSketch, frustum_frames, path_color
from worldstereo.viewer.thinning import thinned

_BACKGROUND, _INK, _SOFT = (18, 19, 22), (240, 241, 244), (160, 166, 176)
_INPUT_COLOR = "#ffffff"
_GAP, _LEGEND_HEIGHT, _TEXT_SIZE = 10, 44, 17
_OVERSAMPLING = 2  # lines are drawn larger and shrunk, which smooths them
_MARGIN = 44  # pixels around the scene
_POINT_LIMIT = 300_000
_FADE = 0.75  # the points step back behind the paths
_FRUSTUM_SIZE = 0.07  # image height of a drawn frustum, of the scene's radius


def draw_preview(
    cloud: PointCloud,
    paths: Sequence[PathSketch],
    sky: PointCloud | None = None,
    input_cameras: Cameras | None = None,
    unit: tuple[str, float] = ("units", 1.0),
    size: tuple[int, int] = (1600, 900),
) -> Float[Tensor, "3 h w"]:
    """Draw the scene with its camera paths: an overview, the input's view, from above and from the right.

    Args:
        cloud: the points.
        paths: the paths, each in its colour with a frustum every few frames.
        sky: points that only the input's view shows.
        input_cameras: where the input was taken; the first camera of the first path by default.
        unit: the scale bars' unit and its length in the world, e.g. `("m", 1.0)` or `("r", median_depth)`.
        size: width and height of the picture in pixels.

    Returns:
        The picture, RGB in [0, 1].
    """
    input_cameras = first_camera(paths) if input_cameras is None else input_cameras
    framing = frame_scene(cloud, paths, input_cameras)
    width, height = size
    panel = ((width - _GAP) // 2, (height - _LEGEND_HEIGHT - _GAP) // 2)
    some = thinned(cloud, _POINT_LIMIT)
    with_sky = some if sky is None else PointCloud.cat([some, thinned(sky, _POINT_LIMIT)])
    above = np.stack([framing.east, -framing.north, -framing.up])
    beside = np.stack([framing.north, -framing.up, -framing.east])
    size_of_frusta = _FRUSTUM_SIZE * framing.radius
    everything = [_Lines.of(PathSketch("input", input_cameras), _INPUT_COLOR, 1.5 * size_of_frusta)]
    everything += [_Lines.of(path, path_color(i), size_of_frusta) for i, path in enumerate(paths)]
    ends = [_Lines.end(path, path_color(i), framing) for i, path in enumerate(paths)]
    overview = _perspective(framing.overview(*panel)[0])
    views = [
        ("Overview", overview, _cut_away(some, framing, overview), everything),
        ("From above", _orthographic(framing, above, panel), some, everything),
        ("What the last frames see of the input", _perspective(_contained(input_cameras[0], *panel)), with_sky, ends),
        ("From the right", _orthographic(framing, beside, panel), some, everything),
    ]
    canvas = Image.new("RGB", size, _BACKGROUND)
    for index, (title, view, points, lines) in enumerate(views):
        picture = _draw_points(view, points, panel)
        _draw_lines(picture, view, lines)
        draw = ImageDraw.Draw(picture)
        _write(draw, 12, 8, title, _INK)
        if not view.perspective:
            _draw_scale_bar(draw, panel, float(view.intrinsics[0, 0]) * unit[1], unit[0])
        canvas.paste(picture, ((index % 2) * (panel[0] + _GAP), (index // 2) * (panel[1] + _GAP)))
    _draw_legend(ImageDraw.Draw(canvas), paths, height)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255


def first_camera(paths: Sequence[PathSketch]) -> Cameras:
    """The camera that the first path starts at; one at the origin when there are no paths."""
    return paths[0].cameras[0] if paths else Cameras.from_fov(60.0, 640, 480)


@dataclass(frozen=True)
class _View:
    """A camera that need not be in perspective; `near` is the least depth that can be drawn."""

    rotation: Float[np.ndarray, "3 3"]
    eye: Float[np.ndarray, "3"]
    intrinsics: Float[np.ndarray, "3 3"]
    near: float
    perspective: bool

    def to_camera(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        return (points - self.eye) @ self.rotation.T

    def to_pixels(self, camera: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        depth = camera[:, 2:] if self.perspective else np.ones_like(camera[:, 2:])
        return camera[:, :2] / depth @ self.intrinsics[:2, :2].T + self.intrinsics[:2, 2]

    def segments(
        self, start: Float[np.ndarray, "n 3"], end: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m 2"]]:
        """Pixels of the ends of world segments, cut at the near plane; segments behind it are left out."""
        a, b = self.to_camera(start), self.to_camera(end)
        kept = (a[:, 2] > self.near) | (b[:, 2] > self.near)
        a, b = a[kept], b[kept]
        for one, other in ((a, b), (b, a)):
            behind = one[:, 2] <= self.near
            part = (self.near - one[behind, 2]) / (other[behind, 2] - one[behind, 2])
            one[behind] += part[:, None] * (other[behind] - one[behind])
            one[behind, 2] = self.near
        return self.to_pixels(a), self.to_pixels(b)


@dataclass(frozen=True)
class _Lines:
    """World segments (starts, ends, width in pixels) in one colour."""

    color: str
    segments: tuple[tuple[np.ndarray, np.ndarray, float], ...]

    @classmethod
    def of(cls, path: PathSketch, color: str, size: float) -> "_Lines":
        """The path and its frusta, whose images are `size` high."""
        centers = path.cameras.centers.double().cpu().numpy()
        chosen = path.cameras[frustum_frames(len(path.cameras))]
        depths = size * chosen.intrinsics[:, 1, 1].double().cpu() / chosen.height
        return cls(color, ((centers[:-1], centers[1:], 2.6), (*_frustum_edges(chosen, depths), 1.5)))

    @classmethod
    def end(cls, path: PathSketch, color: str, framing: Framing) -> "_Lines":
        """The outline of the last frame at the depth of the pivot."""
        last = path.cameras[len(path.cameras) - 1]
        ahead = last.project(torch.from_numpy(framing.pivot).to(last.cam_from_world)[None])[1][0].double().cpu()
        starts, ends = _frustum_edges(last, ahead.clamp(min=0.1 * framing.radius))
        return cls(color, ((starts[4:8], ends[4:8], 2.0),))


def _perspective(camera: Cameras) -> _View:
    pose = camera.cam_from_world[0].double().cpu().numpy()
    eye = camera.centers[0].double().cpu().numpy()
    return _View(pose[:3, :3], eye, camera.intrinsics[0].double().cpu().numpy(), near=1e-4, perspective=True)


def _orthographic(framing: Framing, axes: Float[np.ndarray, "3 3"], panel: tuple[int, int]) -> _View:
    core = (framing.core - framing.pivot) @ axes[:2].T
    low, high = core.min(axis=0), core.max(axis=0)
    size = np.maximum(high - low, 1e-3 * framing.radius)
    scale = float(((np.array(panel) - 2 * _MARGIN) / size).min())
    cx, cy = np.array(panel) / 2 - scale * (low + high) / 2
    intrinsics = np.array([[scale, 0, cx], [0, scale, cy], [0, 0, 1]])
    return _View(axes, framing.pivot, intrinsics, near=-np.inf, perspective=False)


def _contained(camera: Cameras, width: int, height: int) -> Cameras:
    """The camera with a picture of the given size that holds all of its own picture, as large as it fits."""
    scale = min(width / camera.width, height / camera.height)
    fitted = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    return fitted.cropped((fitted.width - width) // 2, (fitted.height - height) // 2, width, height)


def _cut_away(cloud: PointCloud, framing: Framing, view: _View) -> PointCloud:
    """Where the input looks all around: the cloud without what is seen from behind, such as the near wall of a room."""
    if not framing.all_around:
        return cloud
    points = cloud.points.double().cpu().numpy()
    seen, looked = points - framing.observer, points - view.eye
    cosine = (seen * looked).sum(axis=1) / np.maximum(
        np.linalg.norm(seen, axis=1) * np.linalg.norm(looked, axis=1), 1e-12
    )
    return cloud[torch.from_numpy(cosine >= CUT_AWAY_COSINE).to(cloud.points.device)]


def _draw_points(view: _View, cloud: PointCloud, panel: tuple[int, int]) -> Image.Image:
    """Points as small squares: nearest in front in perspective; averaged as through glass otherwise."""
    width, height = panel
    camera = view.to_camera(cloud.points.double().cpu().numpy())
    shown = camera[:, 2] > view.near
    camera, colors = camera[shown], cloud.colors.cpu().numpy()[shown]
    corner = np.floor(view.to_pixels(camera)).clip(-9, max(panel) + 9).astype(np.int64)
    inside = ((corner >= 0) & (corner < panel)).all(axis=1)
    side = int(np.clip(np.ceil(1.5 * np.sqrt(width * height / max(1, inside.sum()))), 1, 6))
    total, weight = np.zeros((height * width, 3)), np.zeros(height * width)
    order = np.argsort(-camera[:, 2], kind="stable")
    nearest = np.full(height * width, -1)
    for dy in range(side):
        for dx in range(side):
            x, y = corner[order, 0] + dx - side // 2, corner[order, 1] + dy - side // 2
            ok = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixel, rank = (y * width + x)[ok], np.flatnonzero(ok)
            if view.perspective:
                front = np.full(height * width, -1)
                front[pixel] = rank  # of equal pixels the last one stays: the nearest
                np.maximum(nearest, front, out=nearest)
            else:
                weight += np.bincount(pixel, minlength=len(weight))
                for channel in range(3):
                    total[:, channel] += np.bincount(pixel, colors[order[rank], channel], minlength=len(weight))
    if view.perspective:
        weight = (nearest >= 0).astype(float)
        total = colors[order[nearest]] * weight[:, None] if len(order) else total
    opacity = _FADE * (1 - np.exp(-2.0 * weight))[:, None]
    picture = opacity * total / np.maximum(weight, 1)[:, None] + (1 - opacity) * np.array(_BACKGROUND) / 255
    return Image.fromarray((picture * 255).round().astype(np.uint8).reshape(height, width, 3))


def _draw_lines(picture: Image.Image, view: _View, everything: Sequence[_Lines]) -> None:
    """World segments, smoothed, over the picture."""
    layer = Image.new("RGBA", (picture.width * _OVERSAMPLING, picture.height * _OVERSAMPLING))
    draw = ImageDraw.Draw(layer)
    for lines in everything:
        for start, end, width in lines.segments:
            for a, b in zip(*view.segments(start, end), strict=True):
                line = np.clip(np.stack([a, b]) * _OVERSAMPLING, -1e5, 1e5)
                draw.line([tuple(point) for point in line.tolist()], lines.color, round(width * _OVERSAMPLING))
    layer = layer.resize(picture.size, Image.Resampling.BOX)
    picture.paste(layer, mask=layer.getchannel("A"))


def _frustum_edges(
    cameras: Cameras, depths: Float[Tensor, " n"]
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "m 3"]]:
    """World segments of frusta up to image planes at the depths: from the eye, around, and a roof on the upper edge."""
    k = cameras.intrinsics.double().cpu()
    w, h = float(cameras.width), float(cameras.height)
    image = [[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1], [0.35 * w, 0, 1], [0.65 * w, 0, 1], [0.5 * w, -0.3 * h, 1]]
    pixels = torch.tensor(image, dtype=torch.float64)
    rays = torch.einsum("nij,pj->npi", torch.linalg.inv(k), pixels) * depths[:, None, None]
    pose = cameras.world_from_cam.double().cpu()
    corner = (torch.einsum("nij,npj->npi", pose[:, :3, :3], rays) + pose[:, None, :3, 3]).numpy()
    eye = np.broadcast_to(pose[:, None, :3, 3].numpy(), corner.shape)
    starts = [eye[:, 0:4], corner[:, 0:4], corner[:, [4, 6]]]
    ends = [corner[:, 0:4], corner[:, [1, 2, 3, 0]], corner[:, [6, 5]]]
    return np.concatenate(starts, 1).reshape(-1, 3), np.concatenate(ends, 1).reshape(-1, 3)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, panel: tuple[int, int], pixels: float, unit: str) -> None:
    """A bar of 1, 2 or 5 times a power of ten units, about a fifth of the panel wide; `pixels` is the unit's length."""
    wanted = 0.2 * panel[0] / pixels
    power = 10.0 ** floor(log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted * 1.0001)
    right, y = panel[0] - 16, panel[1] - 18
    left = right - length * pixels
    draw.line([(left, y), (right, y)], _INK, 3)
    for x in (left, right):
        draw.line([(x, y - 5), (x, y + 5)], _INK, 2)
    text = f"{length:g} {unit}"
    _write(draw, (left + right - draw.textlength(text, font=_font())) / 2, y - 28, text, _INK)


def _draw_legend(draw: ImageDraw.ImageDraw, paths: Sequence[PathSketch], height: int) -> None:
    x, y = 14.0, height - _LEGEND_HEIGHT / 2
    entries = [("input", _INPUT_COLOR), *((path.name, path_color(index)) for index, path in enumerate(paths))]
    for name, color in entries:
        draw.ellipse([x, y - 7, x + 14, y + 7], color)
        _write(draw, x + 22, y - 11, name, _SOFT)
        x += 22 + draw.textlength(name, font=_font()) + 30


def _write(draw: ImageDraw.ImageDraw, x: int | float, y: int | float, text: str, color: tuple[int, int, int]) -> None:
    draw.text((x, y), text, color, font=_font(), stroke_width=2, stroke_fill=_BACKGROUND)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
