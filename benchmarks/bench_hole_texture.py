"""What texture in holes costs and gives: python benchmarks/bench_hole_texture.py [--scenes N] [--data CAPTURES].

Held-out clips are rendered from the cloud of their first frame alone, 9 frames of 640×360, and completed three ways
without any network: by pull–push (the baseline); with the first frame's texture, each frame by itself; and as
`complete_clip` does it, keyframe by keyframe, lifted. Prints for the holes, over all clips: PSNR, gradient energy
(1 = the truth's), texture and colour distance (0 = the truth's), how much what fills a hole changes from one frame to
the next where it should stand still (RMS in levels of 255; the truth's own in the last row), and seconds a clip with
their ratio to the baseline's.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from worldstereo.data.posed_video import read_posed_video
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import InputError
from worldstereo.evaluation.ladder_clips import LadderClip, capture_clip, find_captures, procedural_clip
from worldstereo.evaluation.reprojection import View, sample, seen_in
from worldstereo.evaluation.texture_metrics import colour_distance, gradient_energy_ratio, texture_distance
from worldstereo.geometry.exemplars import Exemplars
from worldstereo.geometry.rendering import PointRender
from worldstereo.image_metrics import psnr
from worldstereo.pipelines.clip_inputs import shrink_render
from worldstereo.pipelines.compositing import complete_clip, in_front, wide_holes
from worldstereo.pipelines.hole_filling import fill_from_surroundings
from worldstereo.threads import fixed_threads

WIDTH, HEIGHT, FRAMES = 640, 360, 9
NETWORK = 192, 112
NARROW = 12  # pixels, a thirtieth of the height, as `complete_clip` has it


def by_pull_push(clip: LadderClip, render: PointRender) -> Tensor:
    """Smooth."""
    return fill_from_surroundings(render)


def each_by_itself(clip: LadderClip, render: PointRender) -> Tensor:
    """With texture, but nothing is shown to other frames."""
    exemplars = Exemplars(clip.frames[0])
    smooth = fill_from_surroundings(render)
    each = zip(smooth, render.hole_mask, render.depth, strict=True)
    return torch.stack(
        [
            exemplars.continue_into(own, wide_holes(holes, NARROW), in_front(z, holes), k)
            for k, (own, holes, z) in enumerate(each)
        ]
    )


def by_keyframes(clip: LadderClip, render: PointRender) -> Tensor:
    """As clips are made, with pull–push in the place of a network."""
    small = shrink_render(render, *NETWORK)
    return complete_clip(render, small, fill_from_surroundings(small), clip.frames[0], clip.cameras, seed=0)


def change(clip: LadderClip, frames: Tensor, holes: Tensor) -> tuple[float, int]:
    """Summed squared difference, and number, of the surfaces in holes of two neighbouring frames."""
    views = [View(clip.cameras[k], clip.depth[k], torch.zeros_like(holes[k])) for k in range(len(frames))]
    total, count = 0.0, 0
    for k in range(1, len(frames) - 1):
        pixels, shown = seen_in(views[k], views[k + 1])
        inside = sample(holes[k + 1].float().expand(3, -1, -1), pixels)[0] > 0.99
        both = shown & inside & holes[k]
        total += float((sample(frames[k + 1], pixels) - frames[k]).square().mean(dim=0)[both].sum())
        count += int(both.sum())
    return total, count


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--data", type=Path, help="folder of posed captures, in addition")
    args = parser.parse_args()
    clips = [procedural_clip(number, WIDTH, HEIGHT, FRAMES) for number in range(args.scenes)]
    estimator = create_depth_estimator("nano")
    for folder in find_captures(args.data).values() if args.data else ():
        try:
            clips.append(capture_clip(read_posed_video(folder), WIDTH, HEIGHT, FRAMES, estimator, "captures"))
        except InputError as error:
            print(f"left out: {error}")
    report(clips)


def report(clips: list[LadderClip]) -> None:
    """Measure and print."""
    renders = [clip.first_cloud.render_sharp(clip.cameras) for clip in clips]
    masks = [torch.stack([wide_holes(holes, NARROW) for holes in render.hole_mask]) for render in renders]
    for mask in masks:
        mask[0] = False
    truth = torch.cat([clip.frames for clip in clips])
    inside = torch.cat(masks)
    print(
        f"{len(clips)} clips of {FRAMES} frames of {WIDTH}×{HEIGHT}; holes {100 * float(inside.float().mean()):.0f} %"
    )
    ways: dict[str, Callable[[LadderClip, PointRender], Tensor]] = {
        "pull–push": by_pull_push,
        "texture, each frame": each_by_itself,
        "texture, keyframes": by_keyframes,
        "truth": lambda clip, _: clip.frames,
    }
    baseline = None
    for name, way in ways.items():
        with fixed_threads():
            way(clips[0], renders[0])
            began = time.perf_counter()
            made = [way(clip, render) for clip, render in zip(clips, renders, strict=True)]
            seconds = (time.perf_counter() - began) / len(clips)
        baseline = baseline or seconds
        changes = [change(*values) for values in zip(clips, made, masks, strict=True)]
        moved = 255 * (sum(total for total, _ in changes) / max(1, sum(count for _, count in changes))) ** 0.5
        frames = torch.cat(made)
        print(
            f"{name:20}  PSNR {psnr(frames, truth, inside):6.2f}  "
            f"gradient {gradient_energy_ratio(frames, truth, inside):5.2f}  "
            f"texture {texture_distance(frames, truth, inside):.4f}  "
            f"colour {colour_distance(frames, truth, inside):.3f}  "
            f"change {moved:5.1f}  {seconds:6.2f} s ({seconds / baseline:.1f}×)"
        )


if __name__ == "__main__":
    main()
