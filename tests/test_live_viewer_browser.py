"""The viewer in a real browser: headless Chromium, where there is one."""

import shutil
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from test_live_viewer import read
from test_world import SMALL, FlatDepth
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import WorldPipeline
from worldstereo.pipelines.world_folder import World
from worldstereo.viewer.live.scene_layers import SceneContent
from worldstereo.viewer.live.server import Actions, LiveViewer
from worldstereo.viewer.live.view_space import window_fov

pytest.importorskip("viser")
playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for found in map(shutil.which, BROWSERS) if found), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found ({', '.join(BROWSERS)})")

OPTIONS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--hide-scrollbars",
)
MARKER = torch.tensor([0.3, 0.2, 1.9])
WITHOUT_NOTES = ".mantine-Notifications-root { display: none }"  # viser remarks that WebGL runs in software
PATIENCE = 60.0  # seconds: the pictures are made in software


def with_marker(world: World) -> SceneContent:
    """The world's points, grey, and a small magenta thing."""
    content = read(world)
    spread = 0.01 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    magenta = PointCloud(MARKER + spread, torch.tensor([1.0, 0.0, 1.0]).expand(200, 3))
    grey = PointCloud(content.cloud.points, torch.full_like(content.cloud.colors, 0.6))
    return SceneContent(PointCloud.cat([magenta, grey]), content.sky)


@pytest.fixture(scope="module")
def viewer(room_photo, tmp_path_factory):
    world = WorldPipeline(WarpGenerator(), FlatDepth())(room_photo, tmp_path_factory.mktemp("live") / "w", SMALL)

    def extend(opened, path, start, on_progress):
        WorldPipeline(WarpGenerator(), FlatDepth()).extend(opened, [str(path)], start, on_progress)

    actions = Actions(with_marker, extend, lambda opened, form, out: out.write_text(form), {"ply": ".ply"})
    running = LiveViewer(world, actions, "127.0.0.1", None)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        running = play.chromium.launch(executable_path=BROWSER, args=list(OPTIONS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def page(browser, viewer):
    """One page for all tests: opening one takes most of the time."""
    problems: list[str] = []
    page = browser.new_page(viewport={"width": 760, "height": 420}, device_scale_factor=0.5)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url, viewer) else None)
    page.goto(viewer.address)
    page.add_style_tag(content=WITHOUT_NOTES)
    until(page, lambda: share(page, is_drawn) > 0.1)
    yield page
    page.close()
    assert problems == []


def is_foreign(url: str, viewer: LiveViewer) -> bool:
    return not url.startswith((viewer.address, "data:", "blob:"))


def until(page, condition, seconds: float = PATIENCE):
    """Wait until the condition holds; gives what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        page.wait_for_timeout(150)
    return found


def pixels(page) -> np.ndarray:
    """The 3D view as the browser shows it, in CSS pixels."""
    shot = Image.open(BytesIO(page.locator("canvas").first.screenshot(timeout=60_000, scale="css"))).convert("RGB")
    return np.asarray(shot).astype(int)


def is_drawn(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=2) > 90


def is_magenta(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    return (red > 150) & (blue > 150) & (green < 90)


def share(page, test) -> float:
    return float(test(pixels(page)).mean())


def client_of(viewer: LiveViewer):
    """The newest browser."""
    clients = viewer._server.get_clients()
    return clients[max(clients)]


def seen_at(page, viewer: LiveViewer, point: np.ndarray) -> tuple[float, float]:
    """Where the browser draws a point of viser, in CSS pixels; viser tells its own, fewer where it is slow."""
    import viser.transforms as transforms

    view = client_of(viewer).camera
    x, y, z = transforms.SO3(view.wxyz).inverse().apply(point - view.position)
    box = page.locator("canvas").first.bounding_box()
    focal = box["height"] / 2 / np.tan(view.fov / 2)
    return box["x"] + box["width"] / 2 + focal * x / z, box["y"] + box["height"] / 2 + focal * y / z


def frustum_in_sight(page, viewer: LiveViewer) -> tuple[float, float]:
    """The middle of the picture of the first clip's last frustum."""
    frustum = [node for node, _ in viewer._cameras._frusta if node.name.startswith("/cameras/001/")][-1]
    import viser.transforms as transforms

    depth = frustum.compute_canonical_frustum_size()[2] * frustum.scale
    return seen_at(page, viewer, frustum.position + transforms.SO3(frustum.wxyz).apply(np.array([0, 0, depth])))


def test_points_are_drawn_and_can_be_hidden(page, viewer):
    assert share(page, is_magenta) > 0
    page.get_by_label("Cameras", exact=True).uncheck()
    until(page, lambda: not viewer._cameras.visible)
    viewer._layers.points.visible = viewer._layers.sky.visible = False
    until(page, lambda: share(page, is_drawn) < 0.02)
    viewer._layers.points.visible = viewer._layers.sky.visible = True
    page.get_by_label("Cameras", exact=True).check()
    until(page, lambda: share(page, is_drawn) > 0.1)


def test_standing_at_a_camera_shows_exactly_its_view_and_compares_it(page, viewer):
    page.get_by_role("tab", name="Clips").click()
    page.get_by_role("button", name="Stand here").click()
    page.keyboard.press("n")
    until(page, lambda: viewer._clips.chosen == (1, 1))
    viewer._clips._wipe.value = 0.0
    viewer._clips._compare()
    one = viewer._world.clips[0].cameras[1]
    view = client_of(viewer).camera
    until(page, lambda: view.fov == pytest.approx(window_fov(one, view.aspect), abs=1e-3))
    pixel = one.project(MARKER[None])[0][0, 0].numpy()
    k = one.intrinsics[0].numpy()
    ray = (pixel - k[:2, 2]) / k[[0, 1], [0, 1]]
    height, width = pixels(page).shape[:2]
    focal = height / 2 / np.tan(window_fov(one, width / height) / 2)
    expected = pytest.approx((width / 2 + focal * ray[0], height / 2 + focal * ray[1]), abs=2.0)

    def marker() -> tuple[float, float]:
        rows, columns = np.nonzero(is_magenta(pixels(page)))
        return (columns.mean() + 0.5, rows.mean() + 0.5) if len(rows) else (0.0, 0.0)

    until(page, lambda: marker() == expected)
    viewer._clips._wipe.value = 1.0
    viewer._clips._compare()
    until(page, lambda: share(page, is_magenta) == 0)
    page.keyboard.press("o")
    until(page, lambda: viewer._clips._visitor is None and viewer._cameras.visible)


def test_a_click_on_a_frustum_stands_there_and_a_drag_leaves(page, viewer):
    page.keyboard.press("o")
    page.wait_for_timeout(2000)

    def clicked() -> bool:  # a slow browser may still be on its way to the overview
        page.mouse.move(*frustum_in_sight(page, viewer))
        page.wait_for_timeout(500)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(2000)
        return viewer._clips._visitor is not None

    until(page, clicked)
    assert viewer._clips.chosen[0] == 1
    page.wait_for_timeout(2500)
    page.mouse.move(200, 400)
    page.mouse.down()
    page.mouse.move(300, 380, steps=5)
    page.mouse.up()
    until(page, lambda: viewer._clips._visitor is None)
    assert viewer._cameras.visible


def test_a_clip_plays_to_its_end(page, viewer):
    page.get_by_role("tab", name="Clips").click()
    viewer._clips.choose(1)
    page.get_by_role("button", name="Play").click()
    until(page, lambda: viewer._clips.chosen == (1, 3) and not viewer._clips.is_playing)


def test_keyframes_become_a_clip(page, viewer):
    page.keyboard.press("o")
    page.get_by_role("tab", name="New path").click()
    viewer._clips.stand(1, 2, client_of(viewer))
    page.wait_for_timeout(2000)
    page.mouse.move(200, 300)
    page.mouse.down()
    page.mouse.move(215, 300, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Add this view").click()
    until(page, lambda: len(viewer._path._draft.keyframes) == 1)
    until(page, lambda: "4 frames" in viewer._path._said.value)
    page.get_by_role("button", name="Remove", exact=True).click()
    until(page, lambda: not viewer._path._draft.keyframes)
    page.keyboard.press("k")
    until(page, lambda: len(viewer._path._draft.keyframes) == 1)
    before = len(viewer._world.clips)
    page.get_by_role("button", name="Extend the world along it").click()
    until(page, lambda: not viewer._jobs.state.running and len(viewer._world.clips) == before + 1)
    assert not viewer._jobs.state.failed
    page.get_by_text(f"the world has {before + 1} clips now").first.wait_for()


def test_fingers_turn_the_view_and_tap_cameras(browser, page, viewer):
    page.goto("about:blank")
    context = browser.new_context(
        viewport={"width": 420, "height": 700}, has_touch=True, is_mobile=True, device_scale_factor=0.5
    )
    page = context.new_page()
    page.goto(viewer.address)
    page.add_style_tag(content=WITHOUT_NOTES)
    until(page, lambda: share(page, is_drawn) > 0.05)
    client = client_of(viewer)
    before = client.camera.position.copy()
    touch = context.new_cdp_session(page)

    def finger(kind: str, *places: tuple[float, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in places]})

    finger("touchStart", (200, 150))
    for x in range(210, 300, 15):
        finger("touchMove", (x, 150))
    finger("touchEnd")
    until(page, lambda: np.linalg.norm(client.camera.position - before) > 0.5)
    viewer._overview(client)
    page.wait_for_timeout(2500)
    page.touchscreen.tap(*frustum_in_sight(page, viewer))
    until(page, lambda: viewer._clips._visitor is not None)
    assert viewer._clips._visitor.client_id == client.client_id
    context.close()
