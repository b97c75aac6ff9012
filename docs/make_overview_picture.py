"""Make docs/images/overview.png from a finished world: python docs/make_overview_picture.py WORLD.

Top: the input, its depth, and the cloud with the cameras. Below: the last frame of each clip beside its guidance.
"""

import sys
from pathlib import Path

import torch

from worldstereo.images import load_png, resize_picture, save_png
from worldstereo.pipelines.world_folder import World
from worldstereo.viewer.paths import PathSketch
from worldstereo.viewer.still import draw_preview

WIDTH, GAP = 400, 8
PANEL = (423, 795)  # rows and columns of the preview's first panel


def row(pictures: list[torch.Tensor], width: int) -> torch.Tensor:
    """Pictures of one width side by side, as high as the highest, on white."""
    resized = [
        resize_picture(picture, width, round(picture.shape[1] * width / picture.shape[2])) for picture in pictures
    ]
    height = max(picture.shape[1] for picture in resized)
    line = torch.ones(3, height, len(resized) * (width + GAP) - GAP)
    for index, picture in enumerate(resized):
        left = index * (width + GAP)
        line[:, : picture.shape[1], left : left + width] = picture
    return line


def main() -> None:
    """Draw and write."""
    world = World(sys.argv[1])
    clips = world.clips[-2:]
    paths = [PathSketch(clip.name, clip.cameras) for clip in world.clips]
    still = draw_preview(world.point_cloud, paths, world.memory.sky, world.camera, ("r", world.manifest.radius))
    overview = still[:, : PANEL[0], : PANEL[1]]
    lines = [row([world.picture, world.depth_picture, overview], WIDTH)]
    last = [(clip.frames[-1], load_png(sorted((clip.folder / "guidance/rgb").glob("*.png"))[-1])) for clip in clips]
    lines.append(row([last[0][0], last[1][0], last[1][1]], WIDTH))
    gap = torch.ones(3, GAP, lines[0].shape[2])
    save_png(Path(__file__).parent / "images" / "overview.png", torch.cat([lines[0], gap, lines[1]], dim=1))


if __name__ == "__main__":
    main()
