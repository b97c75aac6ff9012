"""Make docs/images/warp-and-nano.jpg from two worlds of equal paths: python docs/make_comparison_picture.py WARP NANO.

A row for each clip, its last frame: what the memory knows (holes grey), the baseline, and nano.
"""

import sys
from pathlib import Path

import torch
from make_overview_picture import GAP, WIDTH, row
from PIL import Image

from worldstereo.images import load_png
from worldstereo.pipelines.world_folder import World


def main() -> None:
    """Draw and write."""
    baseline, ours = World(sys.argv[1]), World(sys.argv[2])
    lines: list[torch.Tensor] = []
    for plain, clip in zip(baseline.clips, ours.clips, strict=True):
        known = load_png(sorted((clip.folder / "guidance/rgb").glob("*.png"))[-1])
        lines.append(row([known, plain.frames[-1], clip.frames[-1]], WIDTH))
        lines.append(torch.ones(3, GAP, lines[0].shape[2]))
    sheet = (torch.cat(lines[:-1], dim=1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(sheet).save(Path(__file__).parent / "images" / "warp-and-nano.jpg", quality=88)


if __name__ == "__main__":
    main()
