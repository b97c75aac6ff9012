"""What the cloud shows of a held-out clip: python benchmarks/bench_cloud_growth.py [--scenes 6] [--farthest 3].

The ladder's procedural scenes with earlier clips. The first frame's cloud and the one that the earlier clips grew are
rendered along the held-out path at 192×112 and their holes filled by `pull_push`; no network takes part. PSNR of whole
frames but the first, with the true depth and with nano depth (the first frame's brought to scale by its median, the
others' aligned by the memory).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch

from worldstereo.depth.base import DepthPrediction
from worldstereo.depth.nano import NanoDepth
from worldstereo.evaluation.ladder_clips import LadderClip, procedural_clip
from worldstereo.image_metrics import psnr
from worldstereo.memory import surface_growth
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture
from worldstereo.pipelines.hole_filling import fill_from_surroundings


def score(clip: LadderClip, predict: Callable[[int], DepthPrediction]) -> tuple[float, float]:
    """PSNR with the first frame's cloud and with the grown one."""
    world, first = clip.world, clip.targets[0]
    lifted = lift_picture(world.picture(first), predict(first), world.cameras[first])
    alone, grown = (GlobalGeometricMemory(lifted.cloud, lifted.sky) for _ in range(2))
    for earlier in clip.earlier[::2]:
        pictures = torch.stack([world.picture(k) for k in earlier])
        grown.update(pictures, world.cameras[list(earlier)], [predict(k) for k in earlier])
    shown = [fill_from_surroundings(memory.render_sharp(clip.cameras)) for memory in (alone, grown)]
    first_alone, with_growth = (float(psnr(frames[1:], clip.frames[1:])) for frames in shown)
    return first_alone, with_growth


def exact(clip: LadderClip) -> Callable[[int], DepthPrediction]:
    """The true depth."""
    world = clip.world
    return lambda k: DepthPrediction(world.depth[k], world.sky[k], None, metric=True, source="exact")


def estimated(clip: LadderClip, estimator: NanoDepth) -> Callable[[int], DepthPrediction]:
    """Nano depth at the scale of the first frame."""
    world, first = clip.world, clip.targets[0]
    answers = {k: estimator.estimate(world.picture(k), world.cameras.intrinsics[k]) for k in _all(clip)}
    both = (world.depth[first] > 0) & (answers[first].depth > 0)
    scale = (world.depth[first][both] / answers[first].depth[both]).median()
    return lambda k: replace(answers[k], depth=answers[k].depth * scale)


def _all(clip: LadderClip) -> set[int]:
    return {clip.targets[0], *(k for earlier in clip.earlier for k in earlier)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--farthest", type=float, default=surface_growth.FARTHEST, help="of new surface")
    args = parser.parse_args()
    surface_growth.FARTHEST = args.farthest
    estimator, rows = NanoDepth.load(), []
    print("scene   exact depth: first, grown   nano depth: first, grown")
    for number in range(args.scenes):
        clip = procedural_clip(number, 192, 112, 13)
        rows.append([*score(clip, exact(clip)), *score(clip, estimated(clip, estimator))])
        print(f"{number:5d}" + "".join(f"{value:9.2f}" for value in rows[-1]), flush=True)
    print(" mean" + "".join(f"{value:9.2f}" for value in torch.tensor(rows).mean(dim=0).tolist()))


if __name__ == "__main__":
    main()
