"""How fast a large world appears in the browser: bytes, seconds to the first points and to all, pictures a second.

    python benchmarks/bench_viewer.py [POINTS]

Opens the points of a made-up hall in headless Chromium, once in parts (as `worldstereo view` sends them), once as one
node without thinning. Pictures are counted while the view is turned. Without a GPU the browser draws in software: the
pictures a second compare the two ways with each other and say nothing of a machine with a GPU.
"""

import shutil
import sys
import time

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.viewer.live.guard import start_server, stop_server
from worldstereo.viewer.live.levels import cut_into_parts
from worldstereo.viewer.live.scene_layers import CloudLayer
from worldstereo.viewer.live.view_space import ViewSpace

OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"]
COUNT_FRAMES = "() => { window.pictures = 0; const tick = () => { pictures++; requestAnimationFrame(tick); }; tick(); }"
SECONDS_OF_TURNING = 8.0
BYTES_A_POINT = 15
DRAWN_IN_MOTION = 200_000


def hall(count: int) -> PointCloud:
    """Points on the walls of a hall of 8 × 4 × 12 units."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([8.0, 4.0, 12.0])
    wall = torch.randint(3, (count,), generator=generator)
    half = torch.tensor([4.0, 2.0, 6.0])[wall]
    points[torch.arange(count), wall] = torch.where(points[torch.arange(count), wall] > 0, half, -half)
    return PointCloud(points, torch.rand(count, 3, generator=generator))


def measure(cloud: PointCloud, in_parts: bool) -> dict[str, float]:
    """Open one page and count."""
    server = start_server("127.0.0.1", None, "benchmark")
    space = ViewSpace.of_radius(5.0)
    began = time.perf_counter()
    if in_parts:
        layer = CloudLayer(server, "/points", space)
        layer.show(cut_into_parts(cloud, np.zeros(3), 2_000_000))
        server.on_client_connect(layer.send)
    else:
        colors = cloud.colors.mul(255).byte().numpy()
        server.scene.add_point_cloud(
            "/points", space.points(cloud.points), colors, point_size=0.02, precision="float32"
        )
    prepared = time.perf_counter() - began
    arrivals: list[tuple[float, int]] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 640, "height": 400})
        page.on("websocket", lambda socket: socket.on("framereceived", lambda data: arrive(arrivals, data)))
        opened = time.perf_counter()
        page.goto(f"http://127.0.0.1:{server.get_port()}")
        while sum(size for _, size in arrivals) < BYTES_A_POINT * len(cloud):
            page.wait_for_timeout(50)
        complete = time.perf_counter()
        if in_parts:
            layer.draw_at_most(DRAWN_IN_MOTION / len(cloud))
        page.wait_for_timeout(3000)
        rate = turning(page)
        browser.close()
    stop_server(server)
    first = next(at for at, size in arrivals if size > 100_000)
    return {
        "seconds to prepare": prepared,
        "MB": sum(size for _, size in arrivals) / 1e6,
        "seconds to the first points": first - opened,
        "MB of the first points": next(size for _, size in arrivals if size > 100_000) / 1e6,
        "seconds to all": complete - opened,
        "pictures a second while turning": rate,
    }


def arrive(arrivals: list[tuple[float, int]], data: bytes | str) -> None:
    arrivals.append((time.perf_counter(), len(data)))


def turning(page: Page) -> float:
    """Pictures a second while the mouse drags to and fro."""
    page.mouse.move(200, 200)
    page.mouse.down()
    page.mouse.move(240, 210)
    page.wait_for_timeout(1500)
    page.evaluate(COUNT_FRAMES)
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS_OF_TURNING:
        step += 1
        page.mouse.move(240 + 60 * np.sin(step / 5), 210)
    pictures, seconds = page.evaluate("() => pictures"), time.perf_counter() - began
    page.mouse.up()
    return float(pictures / seconds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    cloud = hall(count)
    print(f"{count:,} points")
    for name, in_parts in (("in parts, 200,000 while moving", True), ("as one node", False)):
        print(name)
        for what, value in measure(cloud, in_parts).items():
            print(f"  {what:32s} {value:8.2f}")


if __name__ == "__main__":
    main()
