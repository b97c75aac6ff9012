"""Equirectangular geometry and the merge of per-crop depth."""

import json
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.depth.file import FileDepth
from worldstereo.depth.panorama import PanoramaDepth, estimate_panorama
from worldstereo.errors import InputError
from worldstereo.geometry.panorama import (
    camera_pixels,
    equirect_directions,
    equirect_pixels,
    rig,
    rig_cameras,
    sample_equirect,
)

_BANK = Path(__file__).parents[2] / "shared/data/official_examples/panorama/pano_bank/cameras.json"


def _direction_picture(width: int, height: int) -> torch.Tensor:
    return equirect_directions(width, height).permute(2, 0, 1)


def _world_rays(cameras: Cameras) -> torch.Tensor:
    rays = torch.einsum("nji,nhwj->nhwi", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())
    return torch.nn.functional.normalize(rays, dim=-1)


def test_directions_of_known_pixels():
    directions = equirect_directions(1024, 512)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(512, 1024), atol=1e-6)
    step = pi / 512
    torch.testing.assert_close(directions[256, 512], torch.tensor([step, step, 2.0]) / 2, atol=1e-4, rtol=0)
    assert directions[256, 767, 0] > 0.999  # a quarter turn right of the middle
    assert directions[0, 3, 1] < -0.999  # the first row looks up, and up is −y
    assert directions[256, 0, 2] < -0.999  # the seam is behind


def test_direction_round_trip():
    pixels = equirect_pixels(equirect_directions(64, 32) * 3.7, 64, 32)
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([columns, rows], dim=-1), atol=1e-4, rtol=0)


def test_rig_is_the_published_one():
    cameras = rig_cameras()
    assert len(cameras) == 27
    torch.testing.assert_close(cameras.intrinsics[0, 0, 0], torch.tensor(240.1777), atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras.intrinsics[0, 1, 1], torch.tensor(240.0), atol=1e-3, rtol=0)
    assert torch.equal(cameras.cam_from_world[0], torch.eye(4))
    torch.testing.assert_close(cameras.forward[1], torch.tensor([0.0, -1.0, 2.0]) / 5**0.5)
    torch.testing.assert_close(cameras.forward[3], torch.tensor([0.642788, 0.0, 0.766044]))


@pytest.mark.skipif(not _BANK.exists(), reason="the shared data is not there")
def test_rig_equals_the_official_bank():
    bank = json.loads(_BANK.read_text())
    poses = torch.tensor([bank[key]["extrinsic"] for key in sorted(bank)])
    ours_from_theirs = torch.tensor([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])  # their world: front −x, up z
    torch.testing.assert_close(rig_cameras().cam_from_world[:, :3, :3] @ ours_from_theirs, poses[:, :3, :3])


def test_rig_refuses_impossible_angles():
    with pytest.raises(InputError, match="field of view"):
        rig([0.0], [0.0], 180.0, 90.0, 8, 8)
    with pytest.raises(InputError, match="elevations"):
        rig([0.0], [91.0], 90.0, 90.0, 8, 8)


def test_crops_see_the_directions_of_their_pixels():
    cameras = rig([0.0, 77.0, 180.0, 265.0], [-90.0, -40.0, 0.0, 40.0, 90.0], 100.0, 70.0, 200, 140)
    crops = sample_equirect(_direction_picture(512, 256), cameras)
    difference = (crops.permute(0, 2, 3, 1) - _world_rays(cameras)).norm(dim=-1)
    assert difference.max() < 0.02  # the pole row is clamped: half a pixel, 0.006 rad
    assert difference.median() < 5e-5


def test_crops_look_upright():
    """Up in the panorama is up in a level crop, and right is right."""
    crop = sample_equirect(_direction_picture(256, 128), rig([90.0], [0.0], 60.0, 60.0, 31, 31))[0]
    assert crop[1, 0, 15] < -0.4 < 0.4 < crop[1, -1, 15]
    assert crop[2, 15, 0] > 0.4 > -0.4 > crop[2, 15, -1]  # looking along +x, −z is at the right


def test_minified_crops_are_averaged():
    """A fine checkerboard seen from afar is grey, not a moiré."""
    rows, columns = torch.meshgrid(torch.arange(1024), torch.arange(2048), indexing="ij")
    board = ((rows + columns) % 2).float()[None]
    crop = sample_equirect(board, rig([20.0], [5.0], 100.0, 100.0, 32, 32))
    torch.testing.assert_close(crop, torch.full_like(crop, 0.5), atol=1e-4, rtol=0)
    near = sample_equirect(board, rig([20.0], [5.0], 10.0, 10.0, 256, 256))
    assert near.std() > 0.16  # bilinear samples of a checkerboard: exactly 1/6


def test_overlapping_crops_agree():
    """A direction that two crops see has the same colour in both."""
    panorama = torch.nn.functional.interpolate(
        torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(0)), (128, 256), mode="bilinear"
    )[0]
    cameras = rig_cameras(208, 120)
    crops = sample_equirect(panorama, cameras)
    directions = equirect_directions(128, 64)[16:48]
    seen_by = torch.zeros(32, 128)
    low, high = torch.full((3, 32, 128), 9.0), torch.full((3, 32, 128), -9.0)
    for number in range(len(cameras)):
        pixels, seen = camera_pixels(directions, cameras[number])
        grid = (pixels / torch.tensor([208, 120]) * 2 - 1)[None]
        value = torch.nn.functional.grid_sample(crops[number][None], grid, align_corners=False)[0]
        inner = seen & (grid[0].abs() < 0.97).all(dim=-1)
        low, high = torch.where(inner, low.minimum(value), low), torch.where(inner, high.maximum(value), high)
        seen_by += inner
    assert seen_by.min() >= 2
    assert (high - low)[:, seen_by >= 2].max() < 0.06
    assert (high - low)[:, seen_by >= 2].median() < 0.005


class _RoomDepth:
    """The true depth of a box room as seen from inside, times a scale and a smooth distortion of each picture.

    Pictures must hold the world directions of their pixels as colours, `(direction + 1) / 2`.
    """

    name = "room"

    def __init__(self, scale: float = 0.0, distortion: float = 0.0, sky_above: float | None = None) -> None:
        self._random = np.random.default_rng(0)
        self._scale, self._distortion, self._sky_above = scale, distortion, sky_above

    def estimate(self, image, intrinsics=None, hint=None):
        directions = torch.nn.functional.normalize(image.permute(1, 2, 0) * 2 - 1, dim=-1)
        height, width = image.shape[1:]
        pixels = torch.stack(
            [(torch.arange(width) + 0.5).expand(height, width), (torch.arange(height) + 0.5)[:, None].expand(-1, width)]
        )
        slopes = (pixels - intrinsics[:2, 2, None, None]) / intrinsics.diagonal()[:2, None, None]
        depth = _room(directions) / (slopes.square().sum(0) + 1).sqrt()
        a, b, c, d = self._random.normal(size=4)
        field = slopes[0] * b + slopes[1] * c + slopes[0] * slopes[1] * d
        depth = depth * torch.exp(self._scale * a + self._distortion * field)
        sky = torch.zeros_like(depth, dtype=torch.bool)
        if self._sky_above is not None:
            sky = -directions[..., 1] > self._sky_above
        return DepthPrediction(torch.where(sky, 0, depth), sky, None, False, "room")


def _room(directions: torch.Tensor) -> torch.Tensor:
    """Distance to the walls of a 6 × 3 × 8 room (x, y, z) from a place off its middle."""
    low, high = torch.tensor([-2.0, -1.4, -3.0]), torch.tensor([4.0, 1.6, 5.0])
    directions = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    return (torch.where(directions > 0, high, low) / directions).amin(dim=-1)


def _room_error(estimator: _RoomDepth, width: int = 512) -> tuple[torch.Tensor, PanoramaDepth]:
    """The merged distance's log-error without its median."""
    directions = equirect_directions(width, width // 2)
    result = estimate_panorama((directions.permute(2, 0, 1) + 1) / 2, estimator)
    known = result.distance > 0
    error = torch.where(known, result.distance.clamp(min=1e-9).log() - _room(directions).log(), 0)
    return error - error[known].median(), result


def test_true_views_merge_to_the_true_distance():
    error, result = _room_error(_RoomDepth())
    assert (result.distance > 0).all()
    assert error.abs().max() < 0.02
    assert error.abs().median() < 0.001
    assert not result.metric


def test_scales_of_the_views_are_solved():
    error, result = _room_error(_RoomDepth(scale=0.5))
    assert result.disagreement_before > 0.3
    assert result.disagreement_after < 0.003
    assert error.abs().max() < 0.02
    assert error.abs().median() < 0.003


@pytest.fixture(scope="module")
def distorted() -> tuple[torch.Tensor, PanoramaDepth]:
    return _room_error(_RoomDepth(scale=0.5, distortion=0.03))


def test_distorted_views_merge_within_two_percent(distorted: tuple[torch.Tensor, PanoramaDepth]):
    """Tilts of ±3 % per unit slope (about 9 % at a view's corners): what all views share cannot be known."""
    error, result = distorted
    assert error.abs().quantile(0.95) < 0.02
    assert error.abs().max() < 0.03
    assert result.disagreement_before > 0.3
    assert result.disagreement_after < 0.003


def test_seam_and_poles_are_closed(distorted: tuple[torch.Tensor, PanoramaDepth]):
    """Neighbours across the seam differ no more than neighbours elsewhere; the poles are one point each."""
    error, _ = distorted
    across_seam = (error[:, 0] - error[:, -1]).abs()
    assert across_seam.max() <= error.diff(dim=1).abs().max()
    assert across_seam.max() < 0.003
    assert error[0].std() < 0.003
    assert error[-1].std() < 0.003


def test_sky_is_voted_and_has_no_distance():
    _, result = _room_error(_RoomDepth(scale=0.3, sky_above=0.5), width=256)
    up = -equirect_directions(256, 128)[..., 1]
    assert result.sky[up > 0.52].all()
    assert not result.sky[up < 0.48].any()
    assert (result.distance[result.sky] == 0).all()
    assert (result.distance[~result.sky] > 0).all()


def test_a_wild_view_is_outvoted():
    """One view of 20 sees nonsense: elsewhere the result stays true."""

    class OneWild(_RoomDepth):
        def estimate(self, image, intrinsics=None, hint=None):
            prediction = super().estimate(image, intrinsics, hint)
            if image[2].mean() > 0.82:  # the view straight ahead
                wild = prediction.depth * (1 + (torch.arange(len(prediction.depth))[:, None] % 40 > 20) * 2.0)
                return DepthPrediction(wild, prediction.sky, None, False, "wild")
            return prediction

    error, result = _room_error(OneWild(), width=256)
    behind = equirect_directions(256, 128)[..., 2] < 0
    assert "wild" in result.source
    assert (error - error[behind].median())[behind].abs().max() < 0.03
    assert error.abs().median() < 0.01


def test_nothing_known_gives_nothing():
    class Blind:
        name = "blind"

        def estimate(self, image, intrinsics=None, hint=None):
            nothing = torch.zeros(image.shape[1:])
            return DepthPrediction(nothing, nothing.bool(), None, True, "blind")

    result = estimate_panorama(torch.zeros(3, 64, 128), Blind())
    assert not result.distance.any()
    assert not result.sky.any()


def test_panorama_must_be_two_to_one():
    with pytest.raises(InputError, match="twice as wide"):
        estimate_panorama(torch.zeros(3, 100, 150), _RoomDepth())


def test_file_gives_the_distance_of_a_panorama(tmp_path: Path):
    directions = equirect_directions(64, 32)
    np.save(tmp_path / "distance.npy", _room(directions).numpy())
    result = estimate_panorama(torch.zeros(3, 64, 128), FileDepth(tmp_path / "distance.npy", depth_scale=2.0))
    assert result.metric
    torch.testing.assert_close(result.distance[1::2, 1::2], _room(directions) * 2)
