"""Seconds and peak memory of the point renderers: python benchmarks/bench_rasterizer.py [--points N] [--frames N].

Each renderer runs in its own process, so that its peak memory is its own; compiling is not counted. The plain
reference renders fewer frames (`--reference-frames`), and its seconds are scaled to all of them. The official
renderer's figures, for comparison, are those beside the parity data: 1.8 s for a frame of 30,000 points at 208×128,
18 s for one of 90,000 points at 384×240, on 2 cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from worldstereo.cameras import Cameras
from worldstereo.geometry import PointCloud
from worldstereo.geometry.rasterizer import render_points
from worldstereo.geometry.rasterizer_reference import render_points_reference
from worldstereo.geometry.sharp_rendering import render_points_sharp

RENDERERS = {"published": render_points, "reference": render_points_reference, "sharp": render_points_sharp}
OFFICIAL = ((30_000, 208, 128, 1.8), (90_000, 384, 240, 18.0))


def scene(points: int, frames: int, width: int, height: int) -> tuple[PointCloud, Cameras]:
    """A wavy wall and a floor before a camera that moves sideways, all points in view of most frames."""
    generator = torch.Generator().manual_seed(0)
    across, up = torch.rand(2, points, generator=generator) * 2 - 1
    depth = 3 + 0.5 * torch.sin(9 * across) * torch.cos(7 * up) + 2 * (torch.rand(points, generator=generator) < 0.3)
    places = torch.stack([0.95 * across * depth, 0.6 * up * depth, depth], dim=1)
    poses = torch.eye(4).repeat(frames, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.3, 0.3, frames)
    colors = torch.rand(points, 3, generator=generator)
    return PointCloud(places, colors), Cameras.from_fov(87.0, width, height).with_poses(poses)


def measure(name: str, points: int, frames: int, width: int, height: int) -> dict[str, float]:
    """Seconds, seconds of all cores, and peak memory in MiB above that before the scene was made."""
    render = RENDERERS[name]
    render(*scene(100, 1, 64, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cloud, cameras = scene(points, frames, width, height)
    start, cpu = time.perf_counter(), time.process_time()
    render(cloud, cameras)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def in_own_process(*arguments: object) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=21)
    parser.add_argument("--reference-frames", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(832, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *numbers = options.one
        print(json.dumps(measure(name, *map(int, numbers))))
        return
    width, height = options.size
    print(f"{options.points:,} points, {options.frames} frames of {width}×{height}, {torch.get_num_threads()} threads")
    plain = in_own_process("reference", options.points, options.reference_frames, width, height)
    share = options.frames / options.reference_frames
    print(
        f"  reference  {plain['seconds'] * share:8.1f} s  {plain['cpu'] * share:8.1f} CPU s  "
        f"peak {plain['mib']:7.0f} MiB  (from {options.reference_frames} frames)"
    )
    for name in ("published", "sharp"):
        result = in_own_process(name, options.points, options.frames, width, height)
        print(
            f"  {name:10s} {result['seconds']:8.1f} s  {result['cpu']:8.1f} CPU s  peak {result['mib']:7.0f} MiB  "
            f"{plain['seconds'] * share / result['seconds']:.0f}× the reference's speed, "
            f"{plain['cpu'] * share / result['cpu']:.0f}× by CPU time"
        )
    for points, wide, high, official in OFFICIAL:
        seconds = in_own_process("published", points, 20, wide, high)["seconds"] / 20
        print(
            f"  {points:,} points at {wide}×{high}: {seconds:.3f} s a frame, "
            f"official {official} s (recorded): {official / seconds:.0f}×"
        )


if __name__ == "__main__":
    main()
