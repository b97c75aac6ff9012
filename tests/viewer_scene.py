"""A small made-up scene for the tests of the pages: a coloured wall, a magenta marker, sky, two paths."""

from pathlib import Path

import torch

from worldstereo.cameras.cameras import Cameras
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.video import write_video
from worldstereo.viewer.paths import PathSketch
from worldstereo.viewer.report import ClipSection, Report, write_report

MARKER = torch.tensor([0.5, 0.3, 3.0])
NASTY = "</script><script>alert('x')</script><!-- & \"quoted\" ü.jpg"
FRAMES = 5


def camera(width: int = 64, height: int = 48) -> Cameras:
    """At the origin, with unequal focal lengths and the principal point off the middle."""
    k = torch.tensor([[[0.9 * width, 0, 0.45 * width], [0, 1.3 * height, 0.6 * height], [0, 0, 1]]])
    return Cameras(torch.eye(4)[None], k, width, height)


def truck(amount: float) -> Cameras:
    """Moves to the side while it turns and rolls a little."""
    poses = torch.eye(4).repeat(FRAMES, 1, 1)
    for i, share in enumerate(torch.linspace(0, 1, FRAMES)):
        skew = torch.tensor([[0.0, -0.2, 0.15], [0.2, 0.0, 0.05], [-0.15, -0.05, 0.0]]) * share
        poses[i, :3, :3] = torch.linalg.matrix_exp(skew)
        poses[i, 0, 3] = -amount * share
    return camera().with_poses(poses)


def wall(count: int = 6000) -> PointCloud:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([6.0, 4.0, 0.2]) + torch.tensor([-3.0, -2.0, 4.0])
    return PointCloud(points, torch.rand(count, 3, generator=generator) * torch.tensor([0.5, 1.0, 0.5]))


def marked_wall() -> PointCloud:
    generator = torch.Generator().manual_seed(2)
    marker = MARKER + 0.02 * torch.randn(100, 3, generator=generator)
    return PointCloud.cat([wall(), PointCloud(marker, torch.tensor([1.0, 0.0, 1.0]).expand(100, 3))])


def sky() -> PointCloud:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(500, 3, generator=generator)
    points[:, 1] = -points[:, 1].abs()
    return PointCloud(40 * points / points.norm(dim=1, keepdim=True), torch.tensor([0.4, 0.6, 1.0]).expand(500, 3))


def paths() -> list[PathSketch]:
    return [PathSketch("truck-right <1>", truck(0.6)), PathSketch("truck-left", truck(-0.6))]


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(4))


def written_report(folder: Path, title: str = NASTY) -> Path:
    clips = []
    for path in paths():
        video = folder / f"{len(clips)}.mp4"
        write_video(video, torch.full((FRAMES, 3, 48, 64), 0.7))
        clips.append(ClipSection(path.name, path.cameras, video, ("a note with <i>tags</i>",)))
    report = Report(
        title=title,
        input_picture=picture(),
        depth_picture=picture(),
        cloud=marked_wall(),
        sky=sky(),
        clips=tuple(clips),
        input_cameras=camera(),
        settings=(("file", NASTY),),
        figures=(("points", "6,100"),),
        banner="made by the baseline <warp>",
    )
    write_report(folder / "report.html", report)
    return folder / "report.html"
