"""`worldstereo batch` on tiny scenes: python benchmarks/bench_batch.py [--scenes 4 8 16] [--short-side 64].

Every run is the real command in a fresh folder. Prints wall and CPU seconds of 1 and 2 workers for each number of
scenes; the cost of a further scene (the slope of a line through the points) and of the start (its intercept), with the
largest distance of a point from that line; the ratio of the slopes of 2 workers and 1; and what single runs of
`worldstereo generate` would cost, which is the baseline.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def run(*arguments: object) -> tuple[float, float]:
    """Wall and CPU seconds of a command, with all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-m", "worldstereo.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Rooms, 96×64."""
    from worldstereo.data.procedural import ProceduralScene
    from worldstereo.images import save_png

    paths = [folder / f"room-{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        scene = ProceduralScene.sample(index, kind="room")
        save_png(path, scene.render(scene.sample_cameras(1, 0, 96, 64, (65, 66))).rgb[0])
    return paths


def line(scenes: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """Slope, intercept, and the largest distance of a point from the line, as a share of the point."""
    slope, intercept = np.polyfit(scenes, seconds, 1)
    distance = max(abs(slope * n + intercept - s) / s for n, s in zip(scenes, seconds, strict=True))
    return float(slope), float(intercept), distance


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--short-side", type=int, default=64)
    parser.add_argument("--frames", type=int, default=3)
    args = parser.parse_args()
    options = {"model": "warp", "short-side": args.short_side, "frames": args.frames, "trajectory": "orbit-right:4"}
    slopes = {}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; short side {args.short_side}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = make_pictures(folder, max(args.scenes))
        wall, cpu = run(
            "generate", pictures[0], "-o", folder / "single", "--quiet", *("--short-side", args.short_side),
            *("--frames", args.frames, "-t", "orbit-right:4", "--model", "warp"),
        )  # fmt: skip
        print(f"a single run of generate: {wall:.1f} s wall, {cpu:.1f} s CPU")
        for workers in (1, 2):
            walls, cpus = [], []
            for count in args.scenes:
                listed = folder / f"{count}.jsonl"
                listed.write_text("".join(json.dumps({"picture": str(p)} | options) + "\n" for p in pictures[:count]))
                wall, cpu = run("batch", listed, "-o", folder / f"{workers}-{count}", "--workers", workers, "--quiet")
                print(f"{workers} workers, {count:3d} scenes: {wall:6.1f} s wall, {cpu:6.1f} s CPU")
                walls.append(wall)
                cpus.append(cpu)
            for what, values in (("wall", walls), ("CPU", cpus)):
                slope, start, distance = line(args.scenes, values)
                slopes[workers, what] = slope
                print(f"  {what}: {start:.1f} s + {slope:.2f} s a scene; points lie within {distance:.0%} of that line")
    print(f"a further scene with 2 workers costs {slopes[2, 'wall'] / slopes[1, 'wall']:.2f} of the wall time and "
          f"{slopes[2, 'CPU'] / slopes[1, 'CPU']:.2f} of the CPU time that it costs with 1")  # fmt: skip


if __name__ == "__main__":
    main()
