"""Rotations against scipy and against closed forms."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from worldstereo.cameras.rotations import look_at, matrix_from_quaternion, quaternion_from_matrix, slerp
from worldstereo.errors import InputError


def random_rotations(count: int, seed: int = 0) -> Rotation:
    return Rotation.random(count, random_state=seed)


def as_tensor(rotation: Rotation) -> torch.Tensor:
    return torch.tensor(rotation.as_matrix(), dtype=torch.float32)


def test_quaternions_equal_scipy_with_a_non_negative_real_part() -> None:
    rotation = random_rotations(500)
    expected = rotation.as_quat()[:, [3, 0, 1, 2]]
    expected = expected * np.where(expected[:, :1] < 0, -1, 1)
    found = quaternion_from_matrix(as_tensor(rotation))
    assert (found[:, 0] >= 0).all()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -2, 3]])
@pytest.mark.parametrize("degrees", [0, 1e-4, 90, 179.99, 180])
def test_quaternions_are_accurate_near_half_turns(axis: list[float], degrees: float) -> None:
    vector = np.array(axis) / np.linalg.norm(axis) * np.radians(degrees)
    matrix = as_tensor(Rotation.from_rotvec(vector))
    quaternion = quaternion_from_matrix(matrix)
    torch.testing.assert_close(quaternion.norm(), torch.tensor(1.0))
    torch.testing.assert_close(matrix_from_quaternion(quaternion), matrix, atol=2e-6, rtol=0)


def test_batches_of_any_shape_and_any_quaternion_length() -> None:
    matrices = as_tensor(random_rotations(6)).reshape(2, 3, 3, 3)
    quaternions = quaternion_from_matrix(matrices)
    assert quaternions.shape == (2, 3, 4)
    torch.testing.assert_close(matrix_from_quaternion(-7 * quaternions), matrices, atol=2e-6, rtol=0)


def test_slerp_equals_scipy() -> None:
    pair = random_rotations(2, seed=3)
    t = np.linspace(0, 1, 11)
    expected = Slerp([0, 1], pair)(t).as_matrix()
    matrices = as_tensor(pair)
    found = slerp(matrices[0], matrices[1], torch.tensor(t, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_slerp_of_equal_rotations_stays_and_of_a_pair_per_time() -> None:
    matrices = as_tensor(random_rotations(4))
    half = torch.full((4,), 0.5)
    torch.testing.assert_close(slerp(matrices, matrices, half), matrices, atol=2e-6, rtol=0)
    turned = as_tensor(Rotation.from_rotvec([0, 0.6, 0])) @ matrices
    expected = as_tensor(Rotation.from_rotvec([0, 0.3, 0])) @ matrices
    torch.testing.assert_close(slerp(matrices, turned, half), expected, atol=2e-6, rtol=0)


def test_slerp_takes_the_short_way() -> None:
    start = as_tensor(Rotation.from_rotvec([0, np.radians(-170), 0]))
    end = as_tensor(Rotation.from_rotvec([0, np.radians(170), 0]))
    middle = slerp(start, end, torch.tensor([0.5]))[0]
    torch.testing.assert_close(middle, as_tensor(Rotation.from_rotvec([0, np.pi, 0])), atol=1e-5, rtol=0)


def test_look_at_down_the_z_axis_is_the_identity_moved() -> None:
    pose = look_at(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0, 8.0]]), torch.tensor([0.0, 1.0, 0.0]))
    expected = torch.eye(4)
    expected[:3, 3] = torch.tensor([-1.0, -2.0, -3.0])
    torch.testing.assert_close(pose[0], expected)


def test_look_at_puts_the_target_on_the_axis_and_down_below() -> None:
    generator = torch.Generator().manual_seed(0)
    eye, target = torch.randn(50, 3, generator=generator), torch.randn(50, 3, generator=generator)
    down = torch.tensor([0.1, 2.0, -0.3])
    pose = look_at(eye, target, down)
    rotation, translation = pose[:, :3, :3], pose[:, :3, 3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50))
    seen = (rotation @ target[:, :, None])[..., 0] + translation
    torch.testing.assert_close(seen[:, :2], torch.zeros(50, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:, 2], (target - eye).norm(dim=1))
    hanging = rotation @ down
    torch.testing.assert_close(hanging[:, 0], torch.zeros(50), atol=1e-5, rtol=0)
    assert (hanging[:, 1] > 0).all()


@pytest.mark.parametrize(("target", "word"), [([0.0, 0.0, 0.0], "very point"), ([0.0, 5.0, 0.0], "roll")])
def test_look_at_refuses_undefined_directions(target: list[float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        look_at(torch.zeros(1, 3), torch.tensor([target]), torch.tensor([0.0, 1.0, 0.0]))
