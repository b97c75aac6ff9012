"""Reconstruction against exact truth: python benchmarks/bench_reconstruction.py [KIND ...] [--depth nano|noisy].

A procedural scene is photographed once; the default four clips are flown through it with true pictures in place of
generated ones, and the memory grows as it does in use. Then `reconstruct_frames` runs with steps left out and with all,
and every cloud is compared with the true surfaces that the frames see (nearer than 8 median depths): precision, recall
and F1 at 1 % and 2.5 % of the scene's size (the diagonal of the box around the middle 96 % of the truth), accuracy
and completeness in per cent of it. Both clouds are thinned to the same voxels first, so that dense spots do not count
more. Points more than 5 % of the size outside the box of the truth, which says nothing of far surfaces, are left out
and counted. With `--cost`, only seconds and peak memory, with 1, 2 and 4 times as many frames a clip.

Depth: "nano", scaled once by the true median of the photo; or "noisy", the truth times a smooth random field of 5 % and
a finer one of 1 %.
"""

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_official
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.depth.nano import NanoDepth
from worldstereo.evaluation.cloud_metrics import cloud_errors
from worldstereo.geometry.filtering import voxel_keep
from worldstereo.images import load_png, save_png
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct_frames

THRESHOLDS = (0.01, 0.025)
MARGIN = 0.05
VARIANTS = {
    "aligned depth alone": ReconstructionSettings(refine=False, least_confidence=0.0, mesh=False),
    "+ votes": ReconstructionSettings(refine=False, mesh=False),
    "+ refinement, no votes": ReconstructionSettings(least_confidence=0.0, mesh=False),
    "+ refinement + votes": ReconstructionSettings(),
}
Truth = dict[str, tuple[torch.Tensor, torch.Tensor]]


def key(image: torch.Tensor) -> str:
    """A picture's fingerprint after 8-bit rounding."""
    return hashlib.sha256((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy().tobytes()).hexdigest()


class TruePictures(WarpGenerator):
    """Shows the scene as it is; remembers the true depth of every picture."""

    name = "truth"

    def __init__(self, scene: ProceduralScene, photo: Cameras, truth: Truth) -> None:
        super().__init__()
        self.scene, self.photo, self.truth = scene, photo, truth

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> torch.Tensor:
        """True frames."""
        poses = conditions.cameras.cam_from_world.double() @ self.photo.cam_from_world[0].double()
        cameras = conditions.cameras
        view = self.scene.render(Cameras(poses.float(), cameras.intrinsics, cameras.width, cameras.height))
        self.truth |= {key(rgb): (d, s) for rgb, d, s in zip(view.rgb, view.depth, view.sky, strict=True)}
        return view.rgb


class ScaledNano:
    """Nano depth, without a hint in units of the true median of the photo."""

    name = "nano"

    def __init__(self, median: float) -> None:
        self.nano, self.median = NanoDepth.load(), median

    def estimate(self, image, intrinsics=None, hint=None):
        """As nano."""
        found = self.nano.estimate(image, intrinsics, hint)
        if hint is not None:
            return found
        return replace(found, depth=found.depth * (self.median / found.depth[found.valid].median()))


class NoisyTruth:
    """True depth with smooth errors that differ from picture to picture."""

    name = "noisy truth"

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def estimate(self, image, intrinsics=None, hint=None):
        """The truth of that picture times exp(noise)."""
        name = key(image)
        depth, sky = self.truth[name]
        generator = torch.Generator().manual_seed(int(name[:8], 16))
        wide = interpolate(torch.randn(1, 1, 6, 8, generator=generator), depth.shape, mode="bicubic")[0, 0]
        small = torch.randn(1, 1, depth.shape[0] // 4, depth.shape[1] // 4, generator=generator)
        fine = interpolate(small, depth.shape, mode="bilinear")[0, 0]
        noisy = depth * (0.05 * wide + 0.01 * fine).exp()
        return DepthPrediction(torch.where(sky, 0.0, noisy), sky, intrinsics, True, self.name)


def make_world(
    kind: str, depth: str, short_side: int, frames: int, seed: int, folder: Path
) -> tuple[World, DepthEstimator, Truth]:
    """A world of true pictures, the back-end, and the truth of every picture."""
    width = short_side * 3 // 2 // 16 * 16
    scene = ProceduralScene.sample(seed, kind)
    photo = scene.sample_cameras(1, 0, width, short_side, (62, 66))
    view = scene.render(photo)
    save_png(folder / "photo.png", view.rgb[0])
    truth: Truth = {key(load_png(folder / "photo.png")): (view.depth[0], view.sky[0])}
    write_official(folder / "camera.json", photo.with_poses(torch.eye(4)[None]))
    median = float(view.depth[view.depth > 0].median())
    estimator = ScaledNano(median) if depth == "nano" else NoisyTruth(truth)
    settings = Settings(camera=folder / "camera.json", frames=frames, short_side=short_side)
    pipeline = WorldPipeline(TruePictures(scene, photo, truth), estimator)
    return pipeline(folder / "photo.png", folder / "world", settings), estimator, truth


def true_cloud(frames: PosedFrames, truth: Truth) -> tuple[torch.Tensor, float]:
    """What the frames see, thinned, and its size."""
    depth = torch.stack([truth[key(frames.frame(index))][0] for index in range(len(frames))])
    near = (depth > 0) & (depth < 8 * depth[depth > 0].median())
    points = frames.cameras.unproject(depth)[near]
    low, high = torch.quantile(points[:: 1 + len(points) // 100_000], torch.tensor([0.02, 0.98]), dim=0)
    size = float((high - low).norm())
    return thinned(points, size), size


def thinned(points: torch.Tensor, size: float, most: int = 200_000) -> torch.Tensor:
    """One point a voxel of 1/800 of the size; of these at most 200,000 at random."""
    points = points[voxel_keep(points, size / 800)]
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:most]]


def row(name: str, points: torch.Tensor, truth: torch.Tensor, size: float, seconds: float) -> str:
    """A line of the table."""
    margin = MARGIN * size
    inside = ((points > truth.amin(dim=0) - margin) & (points < truth.amax(dim=0) + margin)).all(dim=1)
    outside, points = 100 * (1 - float(inside.float().mean())), points[inside]
    errors = cloud_errors(thinned(points, size), truth, [share * size for share in THRESHOLDS])
    shares = " | ".join(
        f"{p:.3f} | {r:.3f} | {f:.3f}" for p, r, f in zip(errors.precision, errors.recall, errors.f1, strict=True)
    )
    lengths = f"{100 * errors.accuracy / size:.2f} | {100 * errors.completeness / size:.2f}"
    return f"| {name} | {shares} | {lengths} | {outside:.1f} | {len(points):,} | {seconds:.1f} |"


def quality(kind: str, args: argparse.Namespace) -> None:
    """The table of one scene."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world, estimator, truth = make_world(kind, args.depth, args.short_side, args.frames, args.seed, folder)
        frames = PosedFrames.of_world(world)
        surfaces, size = true_cloud(frames, truth)
        print(f"\n{kind} {args.seed}, {len(frames)} frames, short side {args.short_side}, depth {args.depth}\n")
        print("| | P 1 % | R 1 % | F1 1 % | P 2.5 % | R 2.5 % | F1 2.5 % | acc. % | compl. % | out % | points | s |")
        print("| --- |" + " --- |" * 11)
        print(row("the memory's cloud", world.point_cloud.points, surfaces, size, 0.0), flush=True)
        for name, settings in VARIANTS.items():
            began = time.process_time()
            result = reconstruct_frames(frames, folder / name, estimator, settings)
            print(row(name, result.cloud.points, surfaces, size, time.process_time() - began), flush=True)
        print(row("mesh vertices", result.mesh.vertices, surfaces, size, 0.0), flush=True)


def cost(args: argparse.Namespace) -> None:
    """Seconds and memory with 1, 2 and 4 times as many frames."""
    for times in (1, 2, 4):
        with tempfile.TemporaryDirectory() as temporary:
            folder, kind = Path(temporary), args.kinds[0]
            world, estimator, _ = make_world(kind, args.depth, args.short_side, times * args.frames, args.seed, folder)
            frames = PosedFrames.of_world(world)
            before, began = time.process_time(), time.perf_counter()
            result = reconstruct_frames(frames, folder / "out", estimator)
            wall, cpu = time.perf_counter() - began, time.process_time() - before
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            print(
                f"{len(frames):4d} frames {wall:7.1f} s wall, {cpu:7.1f} s CPU ({1000 * cpu / len(frames):.0f} ms a "
                f"frame), peak {peak / 1e9:.2f} GB, steps {_steps(result)}",
                flush=True,
            )


def _steps(result: ReconstructionFolder) -> str:
    steps = result.record["steps"]
    return ", ".join(f"{name} {step['figures']['seconds']:.0f} s" for name, step in steps.items() if step["done"])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["room", "street", "garden", "hall"])
    parser.add_argument("--depth", choices=("nano", "noisy"), default="nano")
    parser.add_argument("--short-side", type=int, default=240)
    parser.add_argument("--frames", type=int, default=21, help="per clip")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.cost:
        cost(args)
        return
    for kind in args.kinds:
        quality(kind, args)


if __name__ == "__main__":
    main()
