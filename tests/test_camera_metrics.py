"""Camera errors: closed forms, invariances, and paths that leave something open."""

import math

import pytest
import torch
from torch import Tensor

from box_room import look, see_room
from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.evaluation.camera_metrics import CameraErrors, align_cameras, camera_errors
from worldstereo.evaluation.camera_recovery import recover_camera

MOVED = torch.tensor([0.6, 0.0, 0.8, 0.0, 1.0, 0.0, -0.8, 0.0, 0.6]).view(3, 3), torch.tensor([3.0, -1.0, 2.0])


def turned(degrees: float) -> Tensor:
    """About y."""
    a = math.radians(degrees)
    return torch.tensor([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])


def cameras(centers: Tensor, degrees: list[float]) -> Cameras:
    poses = torch.eye(4).repeat(len(centers), 1, 1)
    poses[:, :3, :3] = torch.stack([turned(d) for d in degrees])
    poses[:, :3, 3] = -(poses[:, :3, :3] @ centers[..., None])[..., 0]
    return Cameras.from_fov(60.0, 64, 48).with_poses(poses)


def curve(count: int = 8) -> Tensor:
    t = torch.linspace(0, 2, count)
    return torch.stack([t, 0.3 * t**2, torch.sin(2 * t)], dim=1)


def same(one: CameraErrors, other: CameraErrors) -> bool:
    names = ("rotation_degrees", "translation", "ate", "rpe_rotation_degrees", "rpe_translation")
    return all(getattr(one, n) == pytest.approx(getattr(other, n), abs=2e-4) for n in names)


def test_equal_paths_have_no_error():
    path = cameras(curve(), [5.0 * k for k in range(8)])
    errors = camera_errors(path, path)
    assert (errors.rotation_degrees, errors.translation, errors.ate) == pytest.approx((0, 0, 0), abs=1e-3)
    assert (errors.rpe_rotation_degrees, errors.rpe_translation) == pytest.approx((0, 0), abs=1e-3)
    assert errors.scale == pytest.approx(1, abs=1e-5)
    assert errors.path_length == pytest.approx(float((curve()[1:] - curve()[:-1]).norm(dim=1).sum()), abs=1e-5)


def test_angles_that_grow_by_a_degree():
    """Camera k is turned by k degrees too far: 1 to 7, mean 4; every step turns by one too many."""
    truth = cameras(curve(), [5.0 * k for k in range(8)])
    errors = camera_errors(cameras(curve(), [6.0 * k for k in range(8)]), truth)
    assert errors.rotation_degrees == pytest.approx(4, abs=1e-3)
    assert errors.rpe_rotation_degrees == pytest.approx(1, abs=1e-3)
    assert errors.translation == pytest.approx(0, abs=1e-4)
    assert errors.ate == pytest.approx(0, abs=1e-4)


def test_a_single_camera_that_stands_aside_metrically():
    """Of a path that is fixed by symmetry: the mean moves by 0.1 / 8, and rigid alignment turns nothing."""
    square = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    truth = cameras(square, [0.0] * 8)
    aside = square.clone()
    aside[7] *= 1.1  # outwards, along the diagonal
    errors = camera_errors(cameras(aside, [0.0] * 8), truth, metric=True)
    push = 0.1 * math.sqrt(3)
    assert errors.ate == pytest.approx(push * math.sqrt(1 / 8 - 1 / 64), abs=1e-4)
    assert errors.translation == pytest.approx(push / 7, abs=1e-5)
    assert errors.rpe_translation == pytest.approx(push / math.sqrt(7), abs=1e-5)
    assert errors.scale == 1


@pytest.mark.parametrize("metric", [False, True])
def test_another_world_changes_nothing(metric):
    truth = cameras(curve(), [5.0 * k for k in range(8)])
    found = cameras(
        curve() + 0.05 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), [5.3 * k for k in range(8)]
    )
    expected = camera_errors(found, truth, metric=metric)
    assert expected.ate > 0.01
    assert same(camera_errors(found.transformed(*MOVED), truth, metric=metric), expected)
    scaled = camera_errors(found.transformed(*MOVED, scale=3.0), truth, metric=metric)
    assert same(scaled, expected) is not metric
    if metric:
        assert scaled.translation > 1
    else:
        assert scaled.scale == pytest.approx(expected.scale / 3, rel=1e-4)


def test_a_straight_path_is_aligned_by_its_orientations():
    line = torch.arange(6)[:, None] * torch.tensor([[0.5, 0.0, 0.0]])
    truth = cameras(line, [3.0 * k for k in range(6)])
    errors = camera_errors(truth.transformed(*MOVED, scale=2.0), truth)
    assert (errors.ate, errors.translation) == pytest.approx((0, 0), abs=1e-4)
    bent = line.clone()
    bent[3, 1] += 0.06
    assert camera_errors(cameras(bent, [3.0 * k for k in range(6)]), truth).ate > 0.01


def test_orientations_turn_a_straight_path_about_itself_alone():
    """Centres on one line agree, however wrong the orientations are: Umeyama's residual is 0."""
    line = torch.arange(6)[:, None] * torch.tensor([[0.3, 0.4, 0.0]])
    truth = cameras(line, [0.0] * 6)
    askew = cameras(line, [5.0] * 6)
    assert camera_errors(askew, truth).ate == pytest.approx(0, abs=1e-5)
    assert camera_errors(askew.transformed(*MOVED, scale=0.5), truth).ate == pytest.approx(0, abs=1e-5)
    alignment = align_cameras(truth.transformed(*MOVED, scale=2.0), truth)
    assert alignment is not None
    aside = torch.tensor([[0.0, 0.0, 1.0], [1.0, -1.0, 2.0]])  # where they go is known by the orientations alone
    there = cameras(aside, [0.0, 0.0]).transformed(*MOVED, scale=2.0).centers
    assert torch.allclose(alignment.apply(there.double()).float(), aside, atol=1e-4)


def test_turning_on_the_spot_leaves_the_scale_open():
    still = cameras(torch.zeros(5, 3), [10.0 * k for k in range(5)])
    drifted = cameras(0.01 * curve(5), [11.0 * k for k in range(5)])
    errors = camera_errors(drifted, still)
    assert (errors.translation, errors.ate, errors.rpe_translation, errors.scale) == (None, None, None, None)
    assert "no common scale" in errors.note
    assert errors.rotation_degrees == pytest.approx(2.5, abs=1e-3)
    metric = camera_errors(drifted, still, metric=True)
    assert metric.note == ""
    assert metric.translation == pytest.approx(float((0.01 * curve(5))[1:].norm(dim=1).mean()), abs=1e-5)


def test_unequal_numbers_are_refused():
    path = cameras(curve(), [0.0] * 8)
    with pytest.raises(InputError, match="as many of both"):
        camera_errors(path[:5], path)
    with pytest.raises(InputError, match="two or more"):
        camera_errors(path[:1], path[:1])


# Recovering cameras from frames


def test_a_camera_that_stood_elsewhere_is_found():
    """A frame from 1.5° and 0.06 units beside the commanded camera, of other contrast and with a patch of noise."""
    commanded, stood = look(0.1, 5.0), look(0.16, 6.5)
    truth, depth = see_room(commanded)
    frame = 0.8 * see_room(stood)[0][0] + 0.1
    frame[:, 10:30, 20:50] = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(depth[0], dtype=torch.bool)
    found = recover_camera(frame, truth[0], depth[0], commanded, everywhere)
    pair = Cameras.cat([look(-1.0, 0.0), found])
    errors = camera_errors(pair, Cameras.cat([look(-1.0, 0.0), stood]), metric=True)
    assert errors.rotation_degrees < 0.1
    assert errors.translation < 0.01
    against = camera_errors(pair, Cameras.cat([look(-1.0, 0.0), commanded]), metric=True)
    assert against.rotation_degrees == pytest.approx(1.5, abs=0.1)
    assert against.translation == pytest.approx(0.06, abs=0.01)


def test_a_camera_that_stood_right_stays():
    commanded = look(0.1, 5.0)
    truth, depth = see_room(commanded)
    everywhere = torch.ones_like(depth[0], dtype=torch.bool)
    found = recover_camera(truth[0], truth[0], depth[0], commanded, everywhere)
    assert torch.allclose(found.cam_from_world, commanded.cam_from_world, atol=1e-4)
    assert recover_camera(truth[0], truth[0], depth[0], commanded, ~everywhere) is None
