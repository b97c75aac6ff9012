"""What nano costs beside the baseline: python benchmarks/bench_nano_clip.py [--model MODEL] [--picture PICTURE].

Runs the whole `worldstereo generate` of a photo twice, with `warp` and with the model, each in its own process and a
fresh folder, with equal paths and numbers of frames. Then one clip's conditions are taken from the finished world and
the model makes the clip again in this process, warmed up, so that its seconds are the generator's alone: the network
and the composition. Prints seconds, memory, their ratios to the baseline's and to the limits that the project sets
itself on 2 CPU cores (20 s a clip, 240 s and 5 GB the whole run).
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench_generate import run

from worldstereo.depth.registry import create_depth_estimator
from worldstereo.files import read_json
from worldstereo.memory.spatial_stereo import SpatialStereoMemory
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.world import create_generator
from worldstereo.pipelines.world_folder import World

CLIP_SECONDS, RUN_SECONDS, BYTES = 20.0, 240.0, 5e9


def whole_run(picture: Path, out: Path, model: str, frames: int) -> tuple[float, float, float]:
    """Wall seconds and peak memory of the command, and mean seconds of a clip in its loop, memory updates included."""
    options = ["--out", str(out), "--model", model, "--frames", str(frames), "--quiet"]
    wall, _, peak = run([sys.executable, "-m", "worldstereo.cli", "generate", str(picture), *options])
    seconds = [read_json(clip.folder / "update.json")["seconds"] for clip in World(out).clips]
    return wall, peak, sum(seconds) / len(seconds)


def clip_seconds(generator: VideoGenerator, world: World) -> tuple[float, float]:
    """Seconds for the frames of the world's last clip: the least of three, and of them those after the last step."""
    clip, memory = world.clips[-1], world.memory
    references = SpatialStereoMemory(*world.initial_bank()).retrieve(clip.cameras, memory.cloud)
    if generator.uses_reference_depth:
        references = references.with_depth(create_depth_estimator(world.manifest.request.depth))
    guidance = generator.render_guidance(memory, clip.cameras)
    conditions = ClipConditions(clip.cameras, clip.frames[0], guidance, references, seed=0)
    timings = []
    for _ in range(3):
        start, steps = time.perf_counter(), []
        generator.generate(conditions, lambda done, total, steps=steps: steps.append(time.perf_counter()))
        end = time.perf_counter()
        timings.append((end - start, end - steps[-1]))
    return min(timings)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="as generate takes it")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent.parent / "examples/temple.jpg")
    args = parser.parse_args()
    generator = create_generator(args.model)
    assert generator.frames is not None, "the baseline has nothing to be compared with"
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for model in ("warp", args.model):
            out = Path(folder) / str(len(results))
            results[model] = whole_run(args.picture, out, model, generator.frames)
        world = World(out)
        seconds, after = clip_seconds(generator, world)
        width, height = world.manifest.width, world.manifest.height
        clips = len(world.clips)
    print(f"{args.picture.name}, {clips} clips of {generator.frames} frames, {width}×{height}, {os.cpu_count()} cores")
    for what, place, unit, limit in (
        ("whole run", 0, "s", RUN_SECONDS),
        ("peak memory", 1, "GB", BYTES),
        ("clip in the loop", 2, "s", None),
    ):
        scale = 1e9 if unit == "GB" else 1.0
        baseline, ours = (results[model][place] / scale for model in ("warp", args.model))
        share = "" if limit is None else f", {ours * scale / limit:.2f} of the limit"
        print(f"{what:17} warp {baseline:7.2f} {unit}, {args.model} {ours:7.2f} {unit}: {ours / baseline:.2f}×{share}")
    print(f"frames of a clip  {args.model} {seconds:7.2f} s, {seconds / CLIP_SECONDS:.2f} of the limit")
    print(f"                  of these decoding and composition {after:.2f} s")


if __name__ == "__main__":
    main()
