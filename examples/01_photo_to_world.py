"""A world from a photograph: clips, exact cameras, a point cloud, a report.

python examples/01_photo_to_world.py out/01
"""

import sys
from pathlib import Path

from worldstereo.exporters.world import finish
from worldstereo.pipelines.world import Settings, WorldPipeline


def main(out: Path, short_side: int = 480) -> None:
    pipe = WorldPipeline.from_pretrained("nano", depth="nano")
    settings = Settings(trajectories=("ellipse:0.1x0.1", "orbit-right:20"), short_side=short_side)
    world = pipe(Path(__file__).with_name("temple.jpg"), out, settings)
    for clip in world.clips:
        print(
            clip.name, tuple(clip.frames.shape), "camera centre of the last frame:", clip.cameras.centers[-1].tolist()
        )
    print(f"{len(world.point_cloud):,} points; look at {finish(world)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/01"))
