"""Fly your own poses: write a camera file, use it as a trajectory, read the cameras of the clip back.

    python examples/02_own_camera_path.py out/02

A file's first pose is laid on the photo's camera; "0.5r" makes one unit of the file half the scene's median depth.
"""

import sys
from pathlib import Path

import torch

from worldstereo.cameras import Cameras
from worldstereo.cameras.files import read_cameras, write_official
from worldstereo.cameras.rotations import look_at
from worldstereo.pipelines.world import Settings, WorldPipeline


def main(out: Path, short_side: int = 480, frames: int = 21) -> None:
    out.mkdir(parents=True, exist_ok=True)
    along = torch.linspace(0, 1, 6)
    eyes = torch.stack([0.3 * along, -0.1 * along, 0.2 * along], dim=1)
    target = torch.tensor([[0.0, 0.0, 2.0]]).expand(6, 3)
    poses = look_at(eyes, target, torch.tensor([0.0, 1.0, 0.0]))
    write_official(out / "path.json", Cameras.from_fov(60.0, 640, 480).with_poses(poses))

    settings = Settings(trajectories=(f"{out / 'path.json'}:0.5r",), short_side=short_side, frames=frames)
    world = WorldPipeline.from_pretrained("warp")(Path(__file__).with_name("temple.jpg"), out / "world", settings)
    cameras = read_cameras(world.clips[0].folder / "cameras.json").cameras
    print("cam_from_world of the last frame:", cameras.cam_from_world[-1], sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/02"))
