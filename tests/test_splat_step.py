"""The step of a reconstruction that makes splats: its files, going on, what it says where there is nothing to do."""

from pathlib import Path

import pytest
import torch

from box_room import look, predicted, see_room
from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.files import write_tensors
from worldstereo.geometry import PointCloud
from worldstereo.reconstruction.folder import CHECKPOINT, FILM, ReconstructionFolder, read_tensors
from worldstereo.reconstruction.fusion import CloudFusion, FusedCloud
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct_frames
from worldstereo.reconstruction.splat_optimization import SplatSettings, Stage
from worldstereo.reconstruction.splat_step import reconstruct_splats, splat_views
from worldstereo.video import read_video

CAMERAS = Cameras.cat([look(x, 10 * x, 32, 24) for x in (0.0, -0.6, -0.3, 0.0, 0.3, 0.6)])
SETTINGS = SplatSettings(budget=500, stages=(Stage(1, 30),), held_out_every=3)


def finished(folder: Path, cameras: Cameras = CAMERAS) -> tuple[PosedFrames, ReconstructionFolder]:
    """Frames and a reconstruction whose depth and cloud are done: exact, confidence 0.8, the left column unknown."""
    images, depth = see_room(cameras)
    depth[:, :, 0] = 0
    names = tuple(f"frame-{index}" for index in range(len(cameras)))
    clips = (None, *["input"] * (len(cameras) - 1))  # a folder may be called so
    nothing = PointCloud.empty()
    frames = PosedFrames(cameras, clips, names, nothing, nothing, lambda index: (images[index] * 255).to(torch.uint8))
    out = ReconstructionFolder(folder)
    out.begin(names, ())
    fusion, confidence = CloudFusion(), torch.full((24, 32), 204, dtype=torch.uint8)
    no_sky = torch.zeros(24, 32, dtype=torch.bool)
    for index, name in enumerate(names):
        write_tensors(
            folder / "depth" / f"{name}.safetensors", {"depth": depth[index], "confidence": confidence, "sky": no_sky}
        )
        fusion.add(images[index], depth[index], confidence / 255, no_sky, cameras[index])
    out.write_cloud(fusion.surface(), nothing)
    return frames, out


def test_writes_splats_and_a_film_of_what_the_frames_show(tmp_path: Path):
    frames, out = finished(tmp_path)
    told: list[float] = []
    figures = reconstruct_splats(frames, out, 0.5, SETTINGS, lambda _, share: told.append(share))
    assert figures["psnr_after"] > figures["psnr_before"]
    assert figures["held_out_frames"] == 2
    tensors, _ = read_tensors(tmp_path / "splats.safetensors")
    assert set(tensors) == {"means", "scales", "rotations", "opacities", "colors"}
    assert len(tensors["means"]) == figures["splats"] <= 550
    film = read_video(tmp_path / FILM)
    assert film.shape[1:] == (3, 24, 32)
    error = (film[0] - frames.frame(1)).abs().mean()
    assert float(error) < float((film[0] - film[0].mean()).abs().mean())
    assert not (tmp_path / CHECKPOINT).exists()
    assert told == sorted(told)
    assert told[-1] <= 1


def test_only_confident_depth_and_sure_pixels_count_fully(tmp_path: Path):
    frames, out = finished(tmp_path)
    views = splat_views(frames, out, 0.5)
    assert float(views.weight[0].min()) == 1  # the input
    assert float(views.weight[1].max()) == pytest.approx(0.3 + 0.7 * 0.8)
    assert float(views.depth[:, :, 0].max()) == 0
    assert float(views.depth[:, :, 1:].min()) > 0
    assert float(splat_views(frames, out, 0.9).depth.max()) == 0


def test_clips_that_do_not_move_have_splats_but_no_film(tmp_path: Path):
    frames, out = finished(tmp_path, CAMERAS[:2])
    figures = reconstruct_splats(frames, out, 0.5, SETTINGS, lambda *_: None)
    assert "a clip whose camera moves" in figures["fly_through"]
    assert (tmp_path / "splats.safetensors").exists()
    assert not (tmp_path / FILM).exists()


def test_without_surface_there_are_no_splats(tmp_path: Path):
    frames, out = finished(tmp_path)
    out.write_cloud(
        FusedCloud(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0)), PointCloud.empty()
    )
    assert "only sky" in reconstruct_splats(frames, out, 0.5, SETTINGS, lambda *_: None)["reason"]
    (tmp_path / "cloud.safetensors").unlink()
    with pytest.raises(InputError, match="no such file"):
        reconstruct_splats(frames, out, 0.5, SETTINGS, lambda *_: None)


class TrueDepth:
    """The exact depth of pictures that it knows."""

    name = "truth"

    def __init__(self, cameras: Cameras) -> None:
        self._images, self._depth = see_room(cameras)

    def estimate(self, image, intrinsics=None, hint=None):
        return predicted(self._depth[int((self._images - image).abs().mean(dim=(1, 2, 3)).argmin())])


def test_is_a_step_of_the_reconstruction_that_is_not_done_twice(tmp_path: Path):
    images, depth = see_room(CAMERAS)
    points = CAMERAS.unproject(depth)[0].reshape(-1, 3)
    cloud = PointCloud(points, images[0].permute(1, 2, 0).reshape(-1, 3))
    names, clips = tuple(f"frame-{index}" for index in range(6)), (None, *["pan"] * 5)
    frames = PosedFrames(
        CAMERAS, clips, names, cloud, PointCloud.empty(), lambda index: (images[index] * 255).to(torch.uint8)
    )
    settings = ReconstructionSettings(refine=False, mesh=False, splats=SETTINGS)
    told: list[str] = []
    for _ in range(2):
        out = reconstruct_frames(frames, tmp_path, TrueDepth(CAMERAS), settings, lambda what, _: told.append(what))
    assert sum("step 30 of 30" in what for what in told) == 1
    assert out.record["steps"]["splats"]["figures"]["psnr_after"] > 0
    assert (tmp_path / "splats.safetensors").exists()
    assert (tmp_path / FILM).exists()
