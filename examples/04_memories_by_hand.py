"""The two memories without the pipeline, on a procedural room whose geometry is known.

python examples/04_memories_by_hand.py out/04
"""

import sys
from pathlib import Path

from worldstereo.cameras.trajectories import SceneScale, parse_trajectory
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth import DepthPrediction
from worldstereo.images import save_png
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture
from worldstereo.memory.spatial_stereo import SpatialStereoMemory


def main(out: Path, short_side: int = 480, frames: int = 21) -> None:
    scene = ProceduralScene.sample(3, kind="room")
    camera = scene.sample_cameras(1, 0, short_side * 3 // 2, short_side, (65.0, 66.0))
    seen = scene.render(camera)
    depth = DepthPrediction(seen.depth[0], seen.sky[0], camera.intrinsics[0], True, "truth")

    lifted = lift_picture(seen.rgb[0], depth, camera)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    bank = SpatialStereoMemory(seen.rgb, camera, ["photo"])

    radius = float(seen.depth[seen.depth > 0].median())
    path = parse_trajectory("orbit-right:15").cameras(camera, SceneScale(radius, metric=True), frames)
    guidance = memory.render(path, point_radius=0.008)  # what the published weights are shown
    save_png(out / "guidance.png", guidance.rgb[-1])
    save_png(out / "sharp.png", memory.render_sharp(path).rgb[-1])
    save_png(out / "truth.png", scene.render(path[-1]).rgb[0])

    references = bank.retrieve(path, memory.cloud)
    print(f"holes in the last frame: {guidance.hole_mask[-1].float().mean():.1%}")
    print(f"the photo covers {references.coverage[-1]:.1%} of what the last frame sees of the cloud")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/04"))
