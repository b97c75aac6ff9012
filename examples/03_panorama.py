"""A world from a 360° panorama (here: of a procedural room, so that it is free and exact).

python examples/03_panorama.py out/03
"""

import sys
from pathlib import Path

import torch

from worldstereo.data.procedural import ProceduralScene
from worldstereo.exporters.world import finish
from worldstereo.images import save_png
from worldstereo.pipelines.world import Settings, WorldPipeline


def main(out: Path, short_side: int = 480, frames: int = 21) -> None:
    scene = ProceduralScene.sample(7, kind="room")
    level = torch.eye(4)
    level[:3, 3] = scene.sample_cameras(1, 0, 64, 64).centers[0]
    save_png(out / "panorama.png", scene.render_panorama(level, 2 * short_side).rgb[0])

    settings = Settings(trajectories=("pan-right:120", "dolly-in:0.3"), short_side=short_side, frames=frames)
    world = WorldPipeline.from_pretrained("warp")(out / "panorama.png", out / "world", settings)
    print("look at", finish(world))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/03"))
