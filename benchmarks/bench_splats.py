"""Seconds and memory of the splat rasteriser: python benchmarks/bench_splats.py [--splats N ...] [--size W H].

One forward and backward pass of four values a splat, compiling not counted, CPU time of all threads beside the wall's.
The plain reference (torch, all pairs of splat and pixel) runs in the same process on a scene that it can hold; the
ratio is that of the times on that scene.
"""

import argparse
import resource
import time

import torch

from worldstereo.cameras import Cameras
from worldstereo.geometry.splat_rasterizer import composite_splats
from worldstereo.geometry.splat_rasterizer_reference import composite_splats_reference


def scene(count: int) -> list[torch.Tensor]:
    """A wavy wall of splats as wide as they are apart: means, scales, rotations, opacities, values."""
    generator = torch.Generator().manual_seed(0)
    across, up = torch.rand(2, count, generator=generator) * 2 - 1
    depth = 3 + 0.5 * torch.sin(9 * across) * torch.cos(7 * up)
    means = torch.stack([0.95 * across * depth, 0.6 * up * depth, depth], dim=1)
    scales = (20.5 / count) ** 0.5 * torch.exp(0.3 * torch.randn(count, 3, generator=generator))
    scales[:, 2] *= 0.2
    rotations = torch.randn(count, 4, generator=generator)
    opacities = 0.1 + 0.8 * torch.rand(count, generator=generator)
    return [means, scales, rotations, opacities, torch.rand(count, 4, generator=generator)]


def measure(composite, count: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Seconds and CPU seconds forward, then backward: the best of three."""
    camera = Cameras.from_fov(87.0, width, height)
    best = (float("inf"),) * 4
    for _ in range(3):
        inputs = [value.requires_grad_() for value in scene(count)]
        start, cpu = time.perf_counter(), time.process_time()
        image = composite(*inputs, camera)
        middle, cpu_middle = time.perf_counter(), time.process_time()
        (image.values.sum() + image.coverage.sum()).backward()
        end, cpu_end = time.perf_counter(), time.process_time()
        now = (middle - start, cpu_middle - cpu, end - middle, cpu_end - cpu_middle)
        best = tuple(min(old, new) for old, new in zip(best, now, strict=True))
    return best


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splats", type=int, nargs="+", default=[20_000, 100_000, 400_000])
    parser.add_argument("--size", type=int, nargs=2, default=(832, 480), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args()
    small = (1_000, 128, 72)
    print(f"{torch.get_num_threads()} threads; forward, backward: wall ms (CPU ms)")
    plain, ours = measure(composite_splats_reference, *small), measure(composite_splats, *small)
    for name, figures in (("reference", plain), ("compiled", ours)):
        print(f"  {small[0]:9,} splats, {small[1]}×{small[2]}, {name:9s}  {table_row(figures)}")
    ratios = [plain[0] / ours[0], plain[2] / ours[2], (plain[1] + plain[3]) / (ours[1] + ours[3])]
    print(f"  ratio {ratios[0]:.0f}× forward, {ratios[1]:.0f}× backward, {ratios[2]:.0f}× by CPU time")
    for count in options.splats:
        figures = measure(composite_splats, count, *options.size)
        print(f"  {count:9,} splats, {options.size[0]}×{options.size[1]}, compiled   {table_row(figures)}")
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def table_row(figures: tuple[float, float, float, float]) -> str:
    """Milliseconds."""
    wall, cpu, back, back_cpu = (1000 * value for value in figures)
    return f"{wall:8.1f} ({cpu:.1f})  {back:8.1f} ({back_cpu:.1f})"


if __name__ == "__main__":
    main()
