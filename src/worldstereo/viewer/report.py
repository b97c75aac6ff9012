"""The report of a world: one page that shows everything and needs nothing else."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.files import write_text
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.video import read_video
from worldstereo.viewer.page import data_url, page, picture_card, table
from worldstereo.viewer.paths import PathSketch, path_color
from worldstereo.viewer.scene_view import scene_section
from worldstereo.viewer.still import draw_preview


@dataclass(frozen=True)
class ClipSection:
    """A clip as the report shows it: its video (an MP4 file) and remarks in plain text."""

    name: str
    cameras: Cameras
    video: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: plain text, as all texts here.
        input_picture: RGB in [0, 1].
        depth_picture: the input's depth, already coloured.
        cloud, sky: the points of the world.
        clips: in the order of their making.
        input_cameras: the camera of the photo or the rig of the panorama.
        settings: names and values.
        figures: names and values of what was measured.
        banner: a remark above all else, such as which generator made the clips.
        unit: of the scale bars, and its length in the world.
        fly_through: a video rendered from the splats, if there is one.
        reconstruction: names and values of what was measured in reconstructing.
    """

    title: str
    input_picture: Float[Tensor, "3 h w"]
    depth_picture: Float[Tensor, "3 i j"]
    cloud: PointCloud
    sky: PointCloud
    clips: tuple[ClipSection, ...]
    input_cameras: Cameras
    settings: tuple[tuple[str, str], ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    banner: str | None = None
    unit: tuple[str, float] = ("units", 1.0)
    fly_through: Path | None = None
    reconstruction: tuple[tuple[str, str], ...] = ()


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one self-contained HTML file; atomic. About 6 MB at most, and the videos.

    Raises:
        InputError: a video is missing or unreadable, or the file cannot be written.
    """
    paths = [_pictured(clip) for clip in report.clips]
    picture = report.input_picture[None] if len(report.input_cameras) == 1 else None
    observer = PathSketch("input", report.input_cameras, picture)
    still = draw_preview(report.cloud, paths, report.sky, report.input_cameras, report.unit)
    scene = scene_section(report.cloud, report.sky, observer, paths, still)
    cards = "\n".join(_clip_card(index, clip) for index, clip in enumerate(report.clips))
    clips = f'<section>\n<h2>Clips</h2>\n<div class="cards">\n{cards}\n</div>\n</section>' if cards else ""
    banner = f'<p class="note" role="note">{escape(report.banner)}</p>' if report.banner else ""
    body = f"""<header>
<h1>{escape(report.title)}</h1>
{banner}
</header>
<main>
{scene}
{_fly_through_section(report.fly_through)}
{clips}
<section>
<h2>Input</h2>
<div class="cards large">
{picture_card(report.input_picture, "Input picture")}
{picture_card(report.depth_picture, "Depth")}
</div>
</section>
<div class="tables">
{table(report.figures, "Figures")}
{table(report.reconstruction, "Reconstruction")}
{table(report.settings, "Settings")}
</div>
</main>
<footer>Made by worldstereo. Cameras use OpenCV axes (x right, y down, z forward). \
The 3D view holds at most 300,000 of the {len(report.cloud):,} points.</footer>"""
    write_text(path, page(report.title, body))


def _pictured(clip: ClipSection) -> PathSketch:
    """The clip's path, with the video's frames where there is one a camera."""
    frames = read_video(clip.video)
    return PathSketch(clip.name, clip.cameras, frames if len(frames) == len(clip.cameras) else None)


def _video_url(path: Path) -> str:
    try:
        return data_url(path.read_bytes(), "video/mp4")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _fly_through_section(video: Path | None) -> str:
    """The flight through the splats; nothing where there is none."""
    if video is None:
        return ""
    return f"""<section>
<h2>Flight through the splats</h2>
<figure class="card full"><video controls loop muted playsinline preload="auto" \
aria-label="Flight through the splats" src="{_video_url(video)}"></video></figure>
</section>"""


def _clip_card(index: int, clip: ClipSection) -> str:
    name = escape(clip.name)
    notes = "".join(f"<li>{escape(note)}</li>" for note in clip.notes)
    return f"""<figure class="card">
<video controls loop muted playsinline preload="auto" width="{clip.cameras.width}" height="{clip.cameras.height}" \
aria-label="Clip {name}" src="{_video_url(clip.video)}"></video>
<figcaption>
<div class="row" style="--path: {path_color(index)}"><h3><span class="swatch" aria-hidden="true"></span>{name}</h3>
<button type="button" data-fly="{index + 1}" aria-label="Fly along {name} in 3D">Fly in 3D</button></div>
{f"<ul>{notes}</ul>" if notes else ""}
</figcaption>
</figure>"""
