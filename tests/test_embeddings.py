"""Plücker rays and pose normalisations against the official release's figures and against closed forms."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.embeddings import (
    normalize_by_extent,
    normalize_jointly,
    normalize_per_clip,
    plucker_rays,
    pose_vectors,
    published_plucker_rays,
)
from worldstereo.cameras.rotations import look_at, matrix_from_quaternion
from worldstereo.errors import InputError

# Cut from the official figures: all poses, the rays of frames 0, 10 and 20.
PARITY = load_file(Path(__file__).parent / "data" / "cameras_parity.safetensors")
PATHS = ("orbit", "walk", "spin")
DOWN = torch.tensor([0.0, 1.0, 0.0])


def random_poses(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, :3] = matrix_from_quaternion(torch.randn(count, 4, generator=generator))
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator)
    return poses


def standing_at(centers: torch.Tensor) -> torch.Tensor:
    poses = torch.eye(4).repeat(len(centers), 1, 1)
    poses[:, :3, 3] = -centers
    return poses


def centers_of(poses: torch.Tensor) -> torch.Tensor:
    return -(poses[:, :3, :3].mT @ poses[:, :3, 3:])[..., 0]


@pytest.mark.parametrize("name", PATHS)
def test_normalisation_of_a_clip_is_the_published_one(name: str) -> None:
    found = normalize_per_clip(PARITY[f"rays.{name}.w2c"])
    torch.testing.assert_close(found, PARITY[f"rays.{name}.normalized_w2c"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", PATHS)
def test_published_rays_are_the_published_ones_and_ours_are_not(name: str) -> None:
    frames = [0, 10, 20]
    poses, k = PARITY[f"rays.{name}.normalized_w2c"][frames], PARITY[f"rays.{name}.K"][frames]
    cameras = Cameras(poses, k, 40, 24)
    expected = PARITY[f"rays.{name}.embedding_f16"].float().transpose(0, 1)
    assert (published_plucker_rays(cameras) - expected).abs().max() < 1e-3
    assert (plucker_rays(cameras) - expected).abs().max() > 2e-3


@pytest.mark.parametrize("name", PATHS)
def test_pose_vectors_are_the_published_ones(name: str) -> None:
    targets, references = normalize_jointly(PARITY[f"rays.{name}.w2c"], PARITY[f"pose7.{name}.ref_w2c"])
    torch.testing.assert_close(pose_vectors(targets), PARITY[f"pose7.{name}.target"], atol=2e-6, rtol=0)
    torch.testing.assert_close(pose_vectors(references), PARITY[f"pose7.{name}.reference"], atol=2e-6, rtol=0)


def test_rays_of_a_camera_at_the_origin_go_through_the_pixel_centres() -> None:
    cameras = Cameras(torch.eye(4)[None], torch.tensor([[[2.0, 0, 2], [0, 2, 1], [0, 0, 1]]]), 4, 2)
    rays = plucker_rays(cameras)
    assert rays.shape == (1, 6, 2, 4)
    expected = torch.tensor([(0.5 - 2) / 2, (0.5 - 1) / 2, 1.0])
    torch.testing.assert_close(rays[0, :3, 0, 0], expected / expected.norm())
    assert (rays[:, 3:] == 0).all()


def test_published_rays_are_ours_one_pixel_to_the_left() -> None:
    cameras = Cameras(random_poses(2, 0), torch.tensor([[[9.0, 0.5, 5], [0, 8, 3], [0, 0, 1]]]).repeat(2, 1, 1), 10, 6)
    torch.testing.assert_close(published_plucker_rays(cameras)[..., 1:], plucker_rays(cameras)[..., :-1])


def test_rays_meet_the_points_that_their_pixels_show() -> None:
    """o × d equals x × d for every point x of the ray: here the points at random depths."""
    cameras = Cameras(random_poses(3, 1), torch.tensor([[[9.0, 0, 4], [0, 8, 3], [0, 0, 1]]]).repeat(3, 1, 1), 8, 6)
    depth = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    points = cameras.unproject(depth).permute(0, 3, 1, 2)
    rays = plucker_rays(cameras)
    torch.testing.assert_close(rays[:, :3].norm(dim=1), torch.ones(3, 6, 8))
    torch.testing.assert_close(torch.linalg.cross(points, rays[:, :3], dim=1), rays[:, 3:], atol=2e-6, rtol=0)


def test_published_scale_puts_the_first_centre_at_distance_two_from_the_mean() -> None:
    poses = random_poses(21, 2)
    centers = centers_of(normalize_per_clip(poses))
    torch.testing.assert_close(centers.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(centers[0].norm(), torch.tensor(2.0))


def test_far_outlier_is_left_out_of_the_mean() -> None:
    # 101 points on a line and one at 10^9: q97 of the distances is about 50, so the bound is about 500.
    line = torch.zeros(102, 3)
    line[:101, 0] = torch.arange(101.0)
    line[101, 0] = 1e9
    centers = centers_of(normalize_per_clip(standing_at(line)))
    torch.testing.assert_close(centers[:101].mean(dim=0), torch.zeros(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalize", [normalize_jointly, normalize_by_extent])
def test_normalisations_do_not_depend_on_the_world_frame_and_keep_relative_rotations(
    normalize: Callable[..., tuple[torch.Tensor, torch.Tensor]],
) -> None:
    targets, references = random_poses(9, 3), random_poses(4, 4)
    moved_world = random_poses(1, 5)
    expected = normalize(targets, references)
    found = normalize(targets @ moved_world, references @ moved_world)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    torch.testing.assert_close(expected[0][0, :3, :3], torch.eye(3), atol=1e-6, rtol=0)
    relative = targets[3, :3, :3] @ references[2, :3, :3].T
    torch.testing.assert_close(expected[0][3, :3, :3] @ expected[1][2, :3, :3].T, relative, atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", [normalize_jointly, normalize_by_extent])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_normalisations_do_not_depend_on_the_unit_of_length(
    normalize: Callable[..., tuple[torch.Tensor, torch.Tensor]], scale: float
) -> None:
    targets, references = random_poses(9, 6), random_poses(2, 7)
    expected = normalize(targets, references)
    unit = torch.ones(4, 4)
    unit[:3, 3] = scale
    for a, b in zip(normalize(targets * unit, references * unit), expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_pure_rotation_keeps_zero_translations() -> None:
    poses = random_poses(7, 8)
    poses[:, :3, 3] = 0
    assert (normalize_per_clip(poses)[:, :3, 3].abs() < 1e-6).all()
    assert (normalize_by_extent(poses, poses[:0])[0][:, :3, 3].abs() < 1e-6).all()


def test_published_normalisation_explodes_on_a_figure_of_eight_and_ours_does_not() -> None:
    t = torch.arange(20) / 20 * 2 * torch.pi
    eight = torch.stack([0.5 * t.sin(), torch.zeros(20), 0.5 * (2 * t).sin()], dim=1)
    eight[0] = torch.tensor([1e-4, 0, 0])
    poses = look_at(eight, torch.tensor([[0.0, 0, 5]]).expand(20, 3), DOWN)
    assert centers_of(normalize_per_clip(poses)).norm(dim=1).max() > 1000
    assert centers_of(normalize_by_extent(poses, poses[:0])[0]).norm(dim=1).max() < 2.0001


def test_ours_is_continuous_where_the_path_shrinks_to_a_point() -> None:
    step = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    extents = [
        centers_of(normalize_by_extent(standing_at(step * size), standing_at(step[:0]))[0]).norm(dim=1).max()
        for size in (1e-8, 1e-6, 1e-4, 0.999e-3, 1.001e-3, 1.0)
    ]
    torch.testing.assert_close(torch.stack(extents), torch.tensor([2e-5, 2e-3, 0.2, 1.998, 2.0, 2.0]))


def test_both_agree_where_the_first_camera_is_the_farthest() -> None:
    line = standing_at(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]))
    torch.testing.assert_close(normalize_by_extent(line, line)[0], normalize_per_clip(line))


def test_pose_vector_of_a_known_camera() -> None:
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = torch.tensor([4.0, 5, 6])
    half = 0.5**0.5
    torch.testing.assert_close(pose_vectors(pose[None]), torch.tensor([[half, 0, 0, half, 4, 5, 6]]))


def test_no_camera_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        normalize_per_clip(torch.zeros(0, 4, 4))
