"""The pages in a real browser: headless Chromium, where there is one."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
import torch
from PIL import Image

from viewer_scene import MARKER, camera, marked_wall, paths, picture, sky, written_report
from worldstereo.viewer.preview import write_preview_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for found in map(shutil.which, BROWSERS) if found), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found ({', '.join(BROWSERS)})")

SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_GL = ("--disable-3d-apis",)
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=6000",
)

WATCH = """
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message || event.target.outerHTML.slice(0, 80))), true);
addEventListener("securitypolicyviolation", (event) => problems.push("blocked " + event.blockedURI));
"""

PROBE = """
const figure = document.querySelector("figure.scene"), { view } = figure, { canvas } = view, { gl } = view.painter;
const found = {};
function paint() { // the pixels of the picture as it is now, rows from the top
  view.glide = null;
  view.paint(performance.now());
  const bytes = new Uint8Array(4 * canvas.width * canvas.height);
  gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
  return (x, y) => bytes.subarray(4 * ((canvas.height - 1 - y) * canvas.width + x)).slice(0, 3);
}
function share(test) {
  const at = paint();
  let count = 0;
  for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) count += test(at(x, y));
  return count / (canvas.width * canvas.height);
}
function marker(path, frame) { // the middle of the magenta pixels, in pixels of the camera's picture
  view.stand(path, frame);
  const at = paint(), { aspect } = view.view, scale = Math.min(canvas.width / aspect, canvas.height);
  let n = 0, sx = 0, sy = 0;
  for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
    const [r, g, b] = at(x, y);
    if (r > 200 && g < 60 && b > 200) { n++; sx += x + 0.5; sy += y + 0.5; }
  }
  const [u, v] = [(sx / n - canvas.width / 2) / scale + aspect / 2, (sy / n - canvas.height / 2) / scale + 0.5];
  return [n, u * 48, v * 48];
}
const key = (key, more) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true, ...more }));
const toggle = (box, on) => { box.checked = on; box.dispatchEvent(new Event("input", { bubbles: true })); };
async function probe() {
  found.pointsDrawn = Number(figure.dataset.pointsDrawn);
  found.size = [canvas.width, canvas.height, canvas.clientWidth * devicePixelRatio];
  const wall = ([r, g, b]) => g > r && g > b && g > 80 && Math.min(r, b) < 140;
  found.wall = share(wall);
  toggle(figure.querySelector("[data-show=cloud]"), false);
  found.wallHidden = share(wall);
  toggle(figure.querySelector("[data-show=cloud]"), true);
  const orange = ([r, g, b]) => Math.abs(r - 242) + Math.abs(g - 142) + Math.abs(b - 28) < 12;
  found.orange = share(orange);
  toggle(figure.querySelector("[data-path='1'][type=checkbox]"), false);
  found.orangeHidden = share(orange);
  toggle(figure.querySelector("[data-path='1'][type=checkbox]"), true);
  const home = { ...view.orbit };
  key("ArrowLeft"); key("+"); key("ArrowUp", { shiftKey: true });
  found.keys = [view.orbit.yaw - home.yaw, view.orbit.distance / home.distance, view.orbit.pivot[1] - home.pivot[1]];
  key("0"); paint();
  found.homeAgain = Math.abs(view.orbit.yaw - home.yaw) + Math.abs(view.orbit.distance - home.distance);
  canvas.setPointerCapture = () => {}; // made-up pointers cannot be captured
  const box = canvas.getBoundingClientRect();
  const point = (kind, pointerId, x, y, more) => canvas.dispatchEvent(new PointerEvent(`pointer${kind}`,
    { pointerId, clientX: box.x + x, clientY: box.y + y, buttons: 1, ...more }));
  point("down", 1, 100, 100); point("move", 1, 120, 110);
  found.drag = [view.orbit.yaw - home.yaw, view.orbit.pitch - home.pitch].map((angle) => angle * box.height);
  point("move", 1, 120, 110); point("down", 2, 220, 110); point("move", 2, 320, 110);
  found.pinch = view.orbit.distance / home.distance;
  point("up", 1, 120, 110); point("up", 2, 320, 110);
  const wheel = () => canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, cancelable: true }));
  const before = view.orbit.distance;
  wheel();
  found.wheelUnfocused = view.orbit.distance / before;
  canvas.focus({ preventScroll: true });
  wheel();
  found.wheelFocused = view.orbit.distance / before;
  key("0"); paint();
  const { lens, aspect, eye } = view.view, axes = axesOf(view.view.turn);
  const offset = add(view.paths[2].views[4].eye, eye, -1), [u, v, depth] = axes.map((axis) => dot(axis, offset));
  const scale = Math.min(box.width / aspect, box.height);
  canvas.dispatchEvent(new MouseEvent("dblclick", {
    clientX: box.x + box.width / 2 + scale * (lens[0] * u / depth + lens[2] - aspect / 2),
    clientY: box.y + box.height / 2 + scale * (lens[1] * v / depth + lens[3] - 0.5) }));
  found.picked = [view.chosen, view.frame, view.standing];
  found.markers = [[0, 0], [1, 0], [1, 4], [2, 3], [2, 2.5]].map((at) => [...at, ...marker(...at)]);
  found.status = figure.querySelector(".scene-status").textContent;
  key("ArrowLeft"); paint();
  found.free = !view.standing && Math.abs(view.orbit.distance) > 0;
  document.querySelector("button[data-fly='2']").click();
  found.flies = [view.chosen, view.standing, Boolean(view.playing)];
  await new Promise((done) => setTimeout(done, 2500));
  view.paint(performance.now());
  found.landed = [view.frame, Boolean(view.playing)];
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  found.videos = await Promise.all([...document.querySelectorAll("video")].map(async (video) => {
    const picture = document.createElement("canvas").getContext("2d");
    picture.drawImage(video, 0, 0);
    return [video.readyState, video.duration, video.videoWidth, video.videoHeight,
            picture.getImageData(8, 8, 1, 1).data[0], video.error && video.error.message];
  }));
}
setTimeout(() => probe().catch((error) => problems.push(String(error.stack))).then(() => {
  found.problems = problems;
  document.body.dataset.found = JSON.stringify(found);
}), 400);
"""


def run_browser(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(BROWSER), *QUIET, profile, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not re.findall(r"^.*CONSOLE.*$", done.stderr, re.MULTILINE), "the page wrote to the console"
    return done


def probed(page: Path, script: str, folder: Path, *options: str) -> dict:
    """What the script finds out inside the page."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", f"<head><script>{WATCH}</script>", 1)
    text = f"<script>{script}</script></body>".join(text.rsplit("</body>", 1))
    changed = folder / "probed.html"
    changed.write_text(text, encoding="utf-8")
    dom = run_browser(changed, folder, "--dump-dom", *options).stdout
    return json.loads(unescape(re.search(r'data-found="([^"]*)"', dom).group(1)))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return written_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def found(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return probed(report, PROBE, folder, *SOFTWARE_GL, "--window-size=800,700")


def test_nothing_goes_wrong(found):
    assert found["problems"] == []
    assert found["wide"], "the page must not scroll sideways"


def test_the_scene_is_drawn_and_can_be_hidden(found):
    assert found["pointsDrawn"] == len(marked_wall()) + len(sky())
    assert found["size"][0] == pytest.approx(found["size"][2], abs=1)
    assert found["wall"] > 0.05
    assert found["wallHidden"] < found["wall"] / 20
    assert found["orange"] > 0.0005
    assert found["orangeHidden"] == 0


def test_the_keyboard_moves_the_view(found):
    yaw, zoom, lift = found["keys"]
    assert yaw == pytest.approx(-0.08)
    assert zoom == pytest.approx(0.9)
    assert lift != 0
    assert found["homeAgain"] == pytest.approx(0, abs=1e-9)


def test_mouse_and_fingers_move_the_view(found):
    yaw, pitch = found["drag"]
    assert (yaw, pitch) == pytest.approx((-60, 30), abs=1), "three radians a height"
    assert found["pinch"] == pytest.approx(0.5, abs=0.01), "fingers twice as far apart"
    assert found["wheelUnfocused"] == 1, "the page scrolls"
    assert found["wheelFocused"] > 1.1
    assert found["picked"] == [2, 4, True], "a double click stands at the camera"


def test_standing_at_a_camera_shows_exactly_its_view(found):
    for path, frame, count, x, y in found["markers"]:
        assert count > 20
        cameras = camera() if path == 0 else paths()[path - 1].cameras
        before, after = cameras[int(frame)], cameras[min(int(frame) + 1, len(cameras) - 1)]
        ends = torch.stack([c.project(MARKER[None])[0][0, 0] for c in (before, after)])
        expected = ends[0] + (ends[1] - ends[0]) * (frame % 1)
        assert (x, y) == pytest.approx(expected.tolist(), abs=0.4), f"path {path} frame {frame}"
    assert found["status"].startswith("Standing at truck-left")
    assert found["free"], "the arrow keys leave the camera"


def test_a_clip_is_flown_along(found):
    assert found["flies"] == [2, True, True]
    assert found["landed"] == [4, False], "it stops at the last frame"


def test_the_videos_play(found):
    assert len(found["videos"]) == 2
    for ready, duration, width, height, grey, error in found["videos"]:
        assert error is None
        assert ready >= 2, "a frame is there"
        assert duration == pytest.approx(5 / 16, abs=0.01)
        assert (width, height) == (64, 48)
        assert grey == pytest.approx(0.7 * 255, abs=4)


def test_without_webgl_a_message_and_the_still_picture(report, tmp_path):
    script = """setTimeout(() => {
      const box = (name) => document.querySelector(name).getBoundingClientRect();
      document.body.dataset.found = JSON.stringify({ problems, canvas: box("figure canvas").height,
        still: box(".scene-still").height, bar: box(".scene-bar").height,
        message: document.querySelector(".scene-message").textContent });
    }, 300);"""
    found = probed(report, script, tmp_path, *NO_GL)
    assert found["problems"] == []
    assert found["canvas"] == found["bar"] == 0
    assert found["still"] > 100
    assert "still picture" in found["message"]


@pytest.mark.parametrize("size", ["1280,900", "390,844"])
def test_the_preview_page_is_not_blank(tmp_path, size):
    write_preview_page(tmp_path / "p.html", marked_wall(), sky(), paths(), picture(), camera())
    shot = tmp_path / "shot.png"
    run_browser(tmp_path / "p.html", tmp_path, *SOFTWARE_GL, f"--window-size={size}", f"--screenshot={shot}")
    colors = Image.open(shot).convert("RGB").getcolors(1 << 24)
    assert len(colors) > 500
    orange = sum(count for count, (r, g, b) in colors if abs(r - 242) + abs(g - 142) + abs(b - 28) < 12)
    assert orange > 300, "the first path and its swatch"
