"""Speed of the procedural scenes: python benchmarks/bench_procedural.py [--device cuda] [--threads N].

Prints, for each kind of scene, seconds to build one, to find a camera, and to render a frame alone and in a batch over
several scenes; frames, pixels and rays a second (primary, edge, shadow and probe rays all count as what they are: the
pixel rate is the figure to compare). The baseline of the same run tests every ray against every solid without culling,
for first hits alone. Peak memory is the process's (and the GPU's).
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from worldstereo.data.procedural import ProceduralScene, render_scenes
from worldstereo.data.procedural.solids import BOX, pad_and_stack
from worldstereo.data.procedural.tracing import Pairs, nearest_hit


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Mean wall time of some repeats after one to warm up."""
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def brute_force(scene: ProceduralScene, width: int, height: int) -> Callable[[], object]:
    """First hits of one frame, every ray against every solid."""
    solids = pad_and_stack([scene.solids])
    camera = scene.sample_cameras(1, 0, width, height)
    device = scene.walks.device
    direction = torch.einsum("ji,hwj->hiw", camera.cam_from_world[0, :3, :3], camera.pixel_rays()[0])
    order = torch.argsort((scene.solids.shape != BOX).to(torch.uint8), stable=True)
    boxes = int((scene.solids.shape == BOX).sum())
    rows = torch.arange(height, device=device)
    pairs = Pairs(
        torch.cat([rows.repeat_interleave(boxes), rows.repeat_interleave(len(order) - boxes)]),
        torch.cat([order[:boxes].repeat(height), order[boxes:].repeat(height)]),
        boxes * height,
    )
    origin = camera.centers.expand(height, 3)
    return lambda: nearest_hit(origin, direction, solids, pairs)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=144)
    parser.add_argument("--scenes", type=int, default=4, help="scenes in the batch")
    parser.add_argument("--views", type=int, default=2, help="frames of each scene in the batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on the CPU (0: its own choice)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    pixels = args.width * args.height
    print(f"{args.width}×{args.height} on {args.device}, {torch.get_num_threads()} threads")
    for kind in ("room", "hall", "street", "garden"):
        build = seconds(lambda kind=kind: ProceduralScene.sample(1, kind, args.device), args.device, args.repeats)
        scenes = [ProceduralScene.sample(seed, kind, args.device) for seed in range(args.scenes)]
        find = seconds(
            lambda scenes=scenes: scenes[0].sample_cameras(4, 0, args.width, args.height), args.device, args.repeats
        )
        cameras = [scene.sample_cameras(args.views, 0, args.width, args.height) for scene in scenes]
        one = seconds(lambda s=scenes, c=cameras: s[0].render(c[0][0]), args.device, args.repeats)
        every = seconds(lambda s=scenes, c=cameras: render_scenes(s, c), args.device, args.repeats)
        frame = every / (args.scenes * args.views)
        brute = seconds(brute_force(scenes[0], args.width, args.height), args.device, 1)
        print(
            f"{kind:7s} {sum(len(s.solids.shape) for s in scenes) // len(scenes):5d} solids | "
            f"scene {build:.3f} s, camera {find / 4:.3f} s | alone {one:.3f} s, in a batch {frame:.4f} s a frame: "
            f"{1 / frame:.1f} frames/s, {pixels / frame / 1e6:.2f} M pixels/s | "
            f"unculled first hits {brute:.3f} s ({brute / frame:.1f}× the whole frame)"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", end="")
    print(f", GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if args.device == "cuda" else "")


if __name__ == "__main__":
    main()
