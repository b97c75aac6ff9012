"""How long the spatial-stereo memory takes to answer: a bank of 2,000 frames, 20 targets, a cloud of 400,000 points.

Run as a script. The baseline is the coverage rule written plainly: for each bank camera all points of the cloud
through a depth buffer in torch, then a look-up for every target. It is timed on a few bank cameras and scaled up.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry import PointCloud
from worldstereo.memory.coverage import coverage_scores
from worldstereo.memory.pointmaps import SceneBox, render_pointmaps
from worldstereo.memory.retrieval import choose, published_scores, view_features

ROOM = torch.tensor([8.0, 3.0, 6.0])
GRID = (48, 28)


def room(points: int, generator: torch.Generator) -> PointCloud:
    """Points on the six sides of a room."""
    inside = torch.rand(points, 3, generator=generator) - 0.5
    axis = torch.randint(0, 3, (points,), generator=generator)
    inside[torch.arange(points), axis] = 0.5 * inside[torch.arange(points), axis].sign()
    return PointCloud(inside * ROOM, torch.rand(points, 3, generator=generator))


def views(count: int, generator: torch.Generator) -> Cameras:
    """Cameras anywhere in the room, looking in any horizontal direction."""
    yaw = torch.rand(count, generator=generator) * 2 * torch.pi
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, 0, 0] = pose[:, 2, 2] = yaw.cos()
    pose[:, 2, 0] = yaw.sin()
    pose[:, 0, 2] = -yaw.sin()
    eyes = (torch.rand(count, 3, generator=generator) - 0.5) * ROOM * 0.7
    pose[:, :3, 3] = -(pose[:, :3, :3] @ eyes[..., None])[..., 0]
    return Cameras.from_fov(60.0, 832, 480).with_poses(pose)


def plain_coverage(targets: Cameras, bank: Cameras, cloud: PointCloud) -> Tensor:
    """Share of the points seen by each target that each bank camera sees (no factors for angle and scale)."""

    def seen(camera: Cameras) -> Tensor:
        small = camera.resized(*GRID)
        pixels, depth = small.project(cloud.points)
        column, row = pixels[0].floor().long().unbind(dim=1)
        inside = (depth[0] > 0) & (column >= 0) & (column < GRID[0]) & (row >= 0) & (row < GRID[1])
        cell = (row * GRID[0] + column)[inside]
        nearest = torch.full((GRID[0] * GRID[1],), torch.inf).scatter_reduce(0, cell, depth[0][inside], "amin")
        mask = torch.zeros(len(cloud), dtype=torch.bool)
        mask[inside] = depth[0][inside] <= 1.05 * nearest[cell]
        return mask

    wanted = torch.stack([seen(targets[k]) for k in range(len(targets))])
    total = wanted.sum(dim=1)
    return torch.stack([(wanted & seen(bank[k])).sum(dim=1) / total for k in range(len(bank))], dim=1)


def timed(label: str, work: Callable[[], object], repeats: int = 3) -> float:
    """Print and return the best wall time of a few, after one call that compiles; CPU time beside it."""
    work()
    best = (float("inf"), 0.0)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{label:58s} {best[0]:8.3f} s   (CPU {best[1]:.3f} s)")
    return best[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=int, default=2000)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--points", type=int, default=400_000)
    parser.add_argument("--baseline-frames", type=int, default=40)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    cloud, bank, targets = (
        room(options.points, generator),
        views(options.bank, generator),
        views(options.targets, generator),
    )
    print(f"{options.bank} bank frames, {options.targets} targets, {options.points} points")

    def answer() -> None:
        scores = coverage_scores(targets, bank, cloud).double().numpy()
        choose(scores, view_features(bank, 3.0), max_references=8, least=0.1)

    ours = timed("coverage rule and selection", answer)
    timed("published rule", lambda: published_scores(targets, bank))
    some = bank[slice(options.baseline_frames)]
    plain = timed(f"plain coverage, {len(some)} bank frames", lambda: plain_coverage(targets, some, cloud), repeats=1)
    plain *= (len(bank) + len(targets)) / (len(some) + len(targets))  # its time goes by depth buffers
    print(f"plain coverage, whole bank (scaled up) {plain:.1f} s: {plain / ours:.0f} times the coverage rule")
    box = SceneBox.of(cloud)
    timed("pointmaps of 28 views at 832×480", lambda: render_pointmaps(cloud, bank[slice(28)], box), repeats=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory of the process {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
