"""Time and memory of nano depth: the network alone, the whole estimate, and bilinear enlargement as a baseline.

Run: python benchmarks/bench_nano_depth.py
"""

import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from worldstereo.depth.nano import NanoDepth
from worldstereo.models.depth_network import assumed_rays


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def measure(estimator: NanoDepth, width: int, height: int) -> None:
    """One line of the table."""
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    hint = torch.ones(height, width)
    hint[:, width // 2 :] = 0
    small, rays, none = torch.rand(1, 3, 192, 320), assumed_rays(320, 192)[None], torch.zeros(1, 192, 320)
    with torch.inference_mode():
        whole = seconds(lambda: estimator.estimate(image))
        hinted = seconds(lambda: estimator.estimate(image, hint=hint))
        network = seconds(lambda: estimator.network(small, rays, none))
        baseline = network + seconds(lambda: F.interpolate(none[None], size=(height, width), mode="bilinear"))
    size = f"{width}×{height}"
    print(f"{size:>10} {whole:11.3f} {hinted:12.3f} {network:10.3f} {baseline:11.3f} {whole / baseline:9.1f}")


def main() -> None:
    torch.set_num_threads(2)
    estimator = NanoDepth.load()
    print(f"{'picture':>10} {'estimate s':>11} {'with hint s':>12} {'network s':>10} {'bilinear s':>11} {'ratio':>9}")
    for width, height in ((320, 192), (640, 480), (1024, 683)):
        measure(estimator, width, height)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
