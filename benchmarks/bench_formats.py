"""Seconds, size and peak memory of every format: python benchmarks/bench_formats.py [--points N] [--splats N].

Each format is written and read in a process of its own; peak memory is that beyond the data themselves being made.
The mesh has as many vertices as there are points and twice as many triangles; COLMAP's points have 20,000 tracks of 20
images.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import Observations, read_colmap_points, write_colmap_binary, write_colmap_text
from worldstereo.exporters.glb import read_glb, write_glb
from worldstereo.exporters.gltf_splats import read_gltf_splats, write_gltf_splats
from worldstereo.exporters.ply import read_ply, write_ply
from worldstereo.exporters.splat_ply import read_splat_ply, write_splat_ply
from worldstereo.exporters.spz import read_spz, write_spz
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh

IMAGES = 20


def cloud(count: int) -> PointCloud:
    """A wavy wall with smooth colours."""
    generator = torch.Generator().manual_seed(0)
    across, up = torch.rand(2, count, generator=generator) * 2 - 1
    points = torch.stack([3 * across, 2 * up, 4 + torch.sin(3 * across) * torch.cos(2 * up)], dim=1)
    return PointCloud(points, torch.sigmoid(torch.stack([across, up, across + up], dim=1)))


def splats(count: int) -> GaussianSplats:
    """One on each point of the wall."""
    wall, generator = cloud(count), torch.Generator().manual_seed(1)
    turns = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1)
    sizes = torch.rand(count, 3, generator=generator) * 0.02 + 0.003
    return GaussianSplats(wall.points, sizes, turns, torch.rand(count, generator=generator) * 0.9 + 0.05, wall.colors)


def mesh(count: int) -> TriangleMesh:
    """Triangles between the points, two a point."""
    wall = cloud(count)
    return TriangleMesh(wall.points, torch.randint(0, count, (2 * count, 3)), wall.colors)


def write_model(write: Callable[..., None]) -> Callable[[Path, PointCloud], None]:
    """A writer of COLMAP models with tracks."""

    def write_with_tracks(path: Path, points: PointCloud) -> None:
        followed = min(20_000, len(points))
        image = torch.arange(IMAGES).repeat_interleave(followed)
        seen = Observations(image, torch.arange(followed).repeat(IMAGES), torch.rand(IMAGES * followed, 2) * 480)
        cameras = Cameras.from_fov(70.0, 720, 480).with_poses(torch.eye(4).repeat(IMAGES, 1, 1))
        write(path, cameras, [f"{i}.png" for i in range(IMAGES)], points.points, points.colors, seen)

    return write_with_tracks


FORMATS: dict[str, tuple[Callable, Callable, Callable, bool]] = {
    "ply": (cloud, write_ply, read_ply, False),
    "splat-ply": (splats, write_splat_ply, read_splat_ply, True),
    "spz": (splats, write_spz, read_spz, True),
    "gltf-splats": (splats, write_gltf_splats, read_gltf_splats, True),
    "glb": (mesh, write_glb, read_glb, False),
    "colmap": (cloud, write_model(write_colmap_binary), read_colmap_points, False),
    "colmap-text": (cloud, write_model(write_colmap_text), read_colmap_points, False),
}


def measure(name: str, count: int) -> dict[str, float]:
    """Seconds of all cores to write and to read, size in bytes, and peak memory in MiB beyond the data."""
    make, write, read, _ = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "warm", make(1000))
        path, value = Path(folder) / "file", make(count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = [time.process_time()]
        for work in (lambda: write(path, value), lambda: read(path)):
            work()
            times.append(time.process_time())
        size = sum(part.stat().st_size for part in (path.rglob("*") if path.is_dir() else [path]))
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"write": times[1] - times[0], "read": times[2] - times[1], "size": size, "mib": peak}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=2_000_000)
    parser.add_argument("--splats", type=int, default=1_000_000)
    parser.add_argument("--one", choices=list(FORMATS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = {name: options.splats if of_splats else options.points for name, (*_, of_splats) in FORMATS.items()}
    if options.one:
        print(json.dumps(measure(options.one, counts[options.one])))
        return
    print(f"{'format':12} {'elements':>10} {'write':>8} {'read':>8} {'size':>9} {'peak':>9}   (seconds of CPU time)")
    for name, count in counts.items():
        command = [sys.executable, __file__, "--one", name, "--points", str(count), "--splats", str(count)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{name:12} {count:10,} {found['write']:6.2f} s {found['read']:6.2f} s "
            f"{found['size'] / 1e6:6.1f} MB {found['mib']:5.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
