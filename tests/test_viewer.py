"""Facts about the pages that need no browser: self-contained, escaped, data within the stated precision."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from viewer_scene import NASTY, camera, marked_wall, paths, picture, sky, truck, wall, written_report
from worldstereo.cameras.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.framing import frame_scene
from worldstereo.viewer.paths import PathSketch, frustum_frames, path_color
from worldstereo.viewer.preview import draw_preview, write_preview_page
from worldstereo.viewer.report import ClipSection, Report, write_report
from worldstereo.viewer.scene_view import CLOUD_LIMIT, pack_points
from worldstereo.viewer.thinning import thinned

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with attributes and texts; complains about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def scene(self) -> dict:
        kinds = [attributes.get("type") for attributes in self.all("script")]
        return json.loads(self.texts["script"][kinds.index("application/json")])


@pytest.fixture(scope="module")
def report_path(tmp_path_factory):
    return written_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(report_path):
    return Page(report_path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def preview(tmp_path_factory):
    path = tmp_path_factory.mktemp("preview") / "preview.html"
    write_preview_page(path, marked_wall(), sky(), paths(), picture(), title=NASTY)
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_is_fetched(report, preview):
    for page in (report, preview):
        for _, attributes in page.elements:
            for name in ("src", "href", "action", "poster", "srcset", "data"):
                assert (attributes.get(name) or "data:").startswith("data:")
        (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy
        assert not re.search(r"url\(|@import|https?://", "".join(page.texts["style"]))


def test_texts_are_escaped(report, preview):
    for page in (report, preview):
        assert page.texts["title"] == [NASTY]
        assert page.texts["h1"] == [NASTY]
        assert len(page.all("script")) == 2, "the scene's data and our script, nothing injected"
    assert ("file", NASTY) in zip(report.texts["th"], report.texts["td"], strict=True)
    assert report.texts["li"].count("a note with <i>tags</i>") == 2
    assert "made by the baseline <warp>" in report.texts["p"]
    assert [path["name"] for path in report.scene["paths"]] == ["input", "truck-right <1>", "truck-left"]
    assert not report.all("i")


def test_the_data_cannot_close_its_element(tmp_path):
    evil = [PathSketch("</script><!--<script>", truck(1.0))]
    write_preview_page(tmp_path / "p.html", wall(), PointCloud.empty(), evil, picture())
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.scene["paths"][1]["name"] == "</script><!--<script>"
    assert len(page.all("script")) == 2


def test_the_videos_are_inside(report, report_path):
    sources = [attributes["src"] for attributes in report.all("video")]
    for index, source in enumerate(sources):
        kind, data = source.split(",")
        assert kind == "data:video/mp4;base64"
        assert base64.b64decode(data) == (report_path.parent / f"{index}.mp4").read_bytes()
    assert len(sources) == 2
    assert all("controls" in attributes and attributes["aria-label"] for attributes in report.all("video"))


def test_every_picture_decodes_and_has_a_description(report, preview):
    for page in (report, preview):
        assert len(page.all("img")) == 3
        for attributes in page.all("img"):
            image = Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1])))
            image.load()
            assert attributes["alt"]


def unpack(packed: dict) -> tuple[np.ndarray, np.ndarray]:
    levels = np.frombuffer(base64.b64decode(packed["positions"]), "<u2").reshape(-1, 3).astype(np.float64)
    boxes = np.array(packed["boxes"]).reshape(-1, 2, 3)[np.arange(len(levels)) // packed["block"]]
    colors = np.frombuffer(base64.b64decode(packed["colors"]), np.uint8).reshape(-1, 3)
    assert len(levels) == len(colors) == packed["count"]
    return boxes[:, 0] + levels * boxes[:, 1], colors


def test_the_page_holds_the_points(report):
    for kind, cloud in (("cloud", marked_wall()), ("sky", sky())):
        points, colors = unpack(report.scene["points"][kind])
        order = cloud.points.double().norm(dim=1).argsort(stable=True)
        expected = cloud.points[order].numpy()
        assert np.abs(points - expected).max() <= np.linalg.norm(expected, axis=1).max() / 65535
        assert np.array_equal(colors, (cloud.colors[order] * 255).round().byte().numpy())


def test_far_points_cost_near_ones_no_precision():
    near = wall(20_000)
    far = PointCloud(torch.tensor([[0.0, 0.0, 1e6], [1e6, 0.0, 0.0]]), torch.zeros(2, 3))
    points, _ = unpack(pack_points(PointCloud.cat([far, near]), np.zeros(3)))
    order = near.points.double().norm(dim=1).argsort(stable=True)
    whole = (len(near) // 4096) * 4096
    error = np.abs(points[:whole] - near.points[order][:whole].numpy())
    assert error.max() < 1e-4, "a single bounding box would give 7.6"


def test_pages_pack_the_cameras(report):
    packed = report.scene["paths"][1]
    cameras = paths()[0].cameras
    pose = torch.tensor(packed["poses"])
    assert torch.allclose(pose[:, 9:], cameras.centers, atol=1e-6)
    assert torch.allclose(pose[:, :9].reshape(-1, 3, 3), cameras.world_from_cam[:, :3, :3], atol=1e-6)
    k = cameras.intrinsics[0] / cameras.height
    assert torch.allclose(torch.tensor(packed["lenses"][0]), torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]))
    assert packed["color"] == path_color(0)
    atlas = Image.open(io.BytesIO(base64.b64decode(packed["atlas"].split(",")[1])))
    assert atlas.width == 192 * len(packed["frusta"])


def test_thinning_is_even_and_repeatable():
    points = torch.arange(30_000.0)[:, None].expand(-1, 3)
    cloud = PointCloud(points.contiguous(), torch.zeros(30_000, 3))
    few = thinned(cloud, 1000)
    assert torch.equal(few.points, thinned(cloud, 1000).points)
    assert torch.equal((few.points[:, 0] // 30).long(), torch.arange(1000)), "one point of each run of thirty"
    assert thinned(cloud, 30_000) is cloud


def test_a_large_cloud_stays_a_small_page(tmp_path):
    generator = torch.Generator().manual_seed(0)
    count = CLOUD_LIMIT * 2
    cloud = PointCloud(torch.randn(count, 3, generator=generator), torch.rand(count, 3, generator=generator))
    write_preview_page(tmp_path / "p.html", cloud, cloud, paths(), picture(1200, 2000))
    assert (tmp_path / "p.html").stat().st_size < 8e6
    page = Page((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.scene["points"]["cloud"]["count"] == CLOUD_LIMIT


def test_pages_are_deterministic(tmp_path):
    for name in ("a.html", "b.html"):
        write_preview_page(tmp_path / name, marked_wall(), sky(), paths(), picture(), camera())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_next_to_nothing_can_be_drawn(tmp_path, count):
    cloud = wall(10)[:count]
    write_preview_page(tmp_path / "p.html", cloud, PointCloud.empty(), [], picture())
    write_preview_page(tmp_path / "p.html", cloud, cloud, [PathSketch("one", camera())], picture())
    assert Page((tmp_path / "p.html").read_text(encoding="utf-8")).scene["points"]["cloud"]["count"] == count


def test_a_missing_video_is_named(tmp_path):
    clip = ClipSection("c", camera(), tmp_path / "none.mp4")
    empty = PointCloud.empty()
    with pytest.raises(InputError, match=r"none\.mp4: no such file"):
        write_report(tmp_path / "r.html", Report("t", picture(), picture(), wall(), empty, (clip,), camera()))
    assert not (tmp_path / "r.html").exists()


def test_framing_follows_the_input_and_sees_every_camera():
    tilt = torch.eye(4)
    tilt[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.7, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    rolled = camera().with_poses(tilt[None])
    framing = frame_scene(marked_wall(), paths(), rolled)
    assert np.allclose(framing.up, -tilt[1, :3].numpy(), atol=1e-6)
    assert np.allclose(framing.north, [0, 0, 1], atol=1e-6)
    assert not framing.all_around
    overview, pivot = framing.overview(300, 200)
    pixels, depth = overview.project(torch.cat([path.cameras.centers for path in paths()] + [rolled.centers]))
    assert bool((depth > 0).all())
    assert bool(((pixels > 0) & (pixels < torch.tensor([300, 200]))).all())
    middle, _ = overview.project(torch.from_numpy(pivot).float()[None])
    assert torch.allclose(middle, torch.tensor([150.0, 100.0]), atol=0.01)


def test_a_rig_that_looks_everywhere_is_all_around():
    turns = [torch.tensor([[0.0, 0.0, a], [0.0, 0.0, 0.0], [-a, 0.0, 0.0]]) for a in (0.0, 1.5708, 3.1416, 4.7124)]
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, :3, :3] = torch.stack([torch.linalg.matrix_exp(turn) for turn in turns])
    framing = frame_scene(marked_wall(), [], camera().with_poses(poses))
    assert framing.all_around
    assert np.allclose(framing.up, [0, -1, 0], atol=1e-3)


def test_frusta_include_both_ends():
    assert frustum_frames(1) == [0]
    assert frustum_frames(4) == [0, 1, 2, 3]
    assert frustum_frames(21) == [0, 4, 8, 12, 16, 20]
    assert frustum_frames(81)[-1] == 80


def test_the_still_picture_shows_paths_points_and_scale():
    plain = draw_preview(marked_wall(), [], sky(), camera())
    assert plain.shape == (3, 900, 1600)
    drawn = draw_preview(marked_wall(), paths(), sky(), camera(), unit=("m", 1.0))
    pixels = (drawn * 255).round().permute(1, 2, 0).reshape(-1, 3)
    for index in range(2):
        color = torch.tensor([int(path_color(index)[i : i + 2], 16) for i in (1, 3, 5)]).float()
        assert ((pixels - color).abs().amax(dim=1) < 2).sum() > 1000
        assert ((plain.permute(1, 2, 0).reshape(-1, 3) * 255 - color).abs().amax(dim=1) < 2).sum() < 20
    panel = drawn[:, 433:856, :795]  # the input's view: where the marker must be
    fitted = 423 / camera().height
    at, _ = camera().project(torch.tensor([[0.5, 0.3, 3.0]]))
    x = (795 - camera().width * fitted) / 2 + at[0, 0, 0] * fitted
    y = at[0, 0, 1] * fitted
    magenta = (panel[0] > 0.55) & (panel[1] < 0.25) & (panel[2] > 0.55)
    rows, columns = magenta.nonzero(as_tuple=True)
    assert abs(columns.float().mean() - x) < 4
    assert abs(rows.float().mean() - y) < 4


def test_the_scale_bar_is_as_long_as_it_says():
    cameras = Cameras.from_fov(60.0, 64, 48)
    one = draw_preview(wall(), [PathSketch("p", cameras)], unit=("m", 1.0))
    ten = draw_preview(wall(), [PathSketch("p", cameras)], unit=("dm", 0.1))
    bar_row = slice(423 - 18 - 1, 423 - 18 + 1)
    lengths = [int((picture[:, bar_row, 805:].amin(dim=0) > 0.9).any(dim=0).sum()) for picture in (one, ten)]
    assert lengths[0] == lengths[1] > 40, "1 m is 10 dm"


def test_a_report_holds_the_flight_through_the_splats_and_the_figures(tmp_path):
    from worldstereo.video import write_video

    flight = tmp_path / "fly_through.mp4"
    write_video(flight, torch.full((3, 3, 48, 64), 0.5))
    figures = (("cloud: points", "1,234"),)
    common = {"input_picture": picture(), "depth_picture": picture(), "cloud": wall(), "sky": sky(), "clips": ()}
    report = Report(NASTY, **common, input_cameras=camera(), fly_through=flight, reconstruction=figures)
    write_report(tmp_path / "report.html", report)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (video,) = page.all("video")
    assert base64.b64decode(video["src"].split(",", 1)[1]) == flight.read_bytes()
    assert "cloud: points" in page.texts["th"]
    assert "1,234" in page.texts["td"]
