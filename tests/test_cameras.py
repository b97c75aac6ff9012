"""The `Cameras` type: its invariants, its projections in closed form, its transformations."""

import math
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError

import jaxtyping
import pytest
import torch

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.errors import InputError


def random_cameras(count: int = 5, seed: int = 0, width: int = 12, height: int = 8) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, :3] = matrix_from_quaternion(torch.randn(count, 4, generator=generator))
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator)
    k = torch.tensor([[10.0, 0.3, 5.5], [0, 11, 4.2], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(poses, k, width, height)


def similarity(seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    rotation = matrix_from_quaternion(torch.randn(4, generator=generator))
    return rotation, torch.randn(3, generator=generator), float(torch.rand(1, generator=generator) + 0.5)


def pose_with(**entries: float) -> torch.Tensor:
    pose = torch.eye(4)
    for name, value in entries.items():
        pose[int(name[1]), int(name[2])] = value
    return pose


def k_with(**entries: float) -> torch.Tensor:
    k = torch.tensor([[10.0, 0, 6], [0, 10, 4], [0, 0, 1]])
    for name, value in entries.items():
        k[int(name[1]), int(name[2])] = value
    return k


@pytest.mark.parametrize(
    ("pose", "k", "text"),
    [
        (pose_with(_03=math.nan), k_with(), "camera 1: cam_from_world has a value that is not finite"),
        (pose_with(), k_with(_02=math.inf), "camera 1: intrinsics have a value that is not finite"),
        (pose_with(_00=1.1), k_with(), "camera 1: cam_from_world holds no rotation"),
        (pose_with(_00=-1), k_with(), "camera 1: cam_from_world holds no rotation"),
        (pose_with(_32=0.5), k_with(), "camera 1: cam_from_world must end with the row 0 0 0 1"),
        (pose_with(), k_with(_00=0), "camera 1: intrinsics must have positive focal lengths"),
        (pose_with(), k_with(_11=-3), "camera 1: intrinsics must have positive focal lengths"),
        (pose_with(), k_with(_22=2), "camera 1: intrinsics must have the form"),
        (pose_with(), k_with(_10=1), "camera 1: intrinsics must have the form"),
    ],
)
def test_broken_matrices_are_refused_with_the_field_and_the_camera(
    pose: torch.Tensor, k: torch.Tensor, text: str
) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        Cameras(torch.stack([pose_with(), pose]), torch.stack([k_with(), k]), 12, 8)


@pytest.fixture
def _without_shape_checks() -> Iterator[None]:
    """Users run without the shape checks of the tests, so the type's own errors must speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_without_shape_checks")
def test_wrong_shapes_and_unequal_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="2 cam_from_world but 1 intrinsics"):
        Cameras(torch.eye(4).repeat(2, 1, 1), k_with()[None], 12, 8)
    with pytest.raises(InputError, match=r"cam_from_world has shape \(1, 3, 4\)"):
        Cameras(torch.eye(4)[None, :3], k_with()[None], 12, 8)
    with pytest.raises(InputError, match=r"intrinsics have shape \(3, 3\)"):
        Cameras(torch.eye(4)[None], k_with(), 12, 8)


class _WithoutFloat64(torch.Tensor):
    """A tensor of a device without float64, such as mps."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        if function is torch.Tensor.cpu:
            return arguments[0].as_subclass(torch.Tensor)
        result = super().__torch_function__(function, types, arguments, options or {})
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return result


def test_cameras_are_checked_on_devices_without_float64() -> None:
    cameras = random_cameras()
    pose, k = (values.as_subclass(_WithoutFloat64) for values in (cameras.cam_from_world, cameras.intrinsics))
    assert Cameras(pose, k, 12, 8).cam_from_world is pose
    with pytest.raises(InputError, match="camera 0: cam_from_world holds no rotation"):
        Cameras(2 * pose, k, 12, 8)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(InputError, match="image size 0×8"):
        Cameras(torch.eye(4)[None], k_with()[None], 0, 8)


def test_cameras_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        random_cameras().width = 3  # type: ignore[misc]


def test_projection_in_closed_form() -> None:
    camera = Cameras(pose_with(_03=1.0, _23=2.0)[None], k_with(_01=0.5)[None], 12, 8)
    pixel, depth = camera.project(torch.tensor([[1.0, 3.0, 2.0]]))
    # Camera coordinates (2, 3, 4); u = (10 · 2 + 0.5 · 3) / 4 + 6, v = 10 · 3 / 4 + 4.
    torch.testing.assert_close(pixel[0, 0], torch.tensor([11.375, 11.5]))
    torch.testing.assert_close(depth, torch.tensor([[4.0]]))


def test_centre_of_the_image_of_a_known_field_of_view() -> None:
    camera = Cameras.from_fov(90.0, 200, 100)
    edge, _ = camera.project(torch.tensor([[1.0, 0, 1], [-1, 0, 1], [0, 0.5, 1], [0, 0, 1]]))
    torch.testing.assert_close(edge[0], torch.tensor([[200.0, 50], [0, 50], [100, 100], [100, 50]]))


def test_unprojected_pixels_project_to_their_centres() -> None:
    cameras = random_cameras(3)
    depth = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    points = cameras.unproject(depth)
    for i in range(3):
        pixels, z = cameras[i].project(points[i].reshape(-1, 3))
        rows, columns = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(12) + 0.5, indexing="ij")
        expected = torch.stack([columns, rows], dim=-1).reshape(1, -1, 2)
        torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(z, depth[i].reshape(1, -1))


def test_depth_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"depth has shape \(1, 8, 11\)"):
        random_cameras(1).unproject(torch.ones(1, 8, 11))


def test_centres_and_inverse_poses() -> None:
    cameras = random_cameras()
    torch.testing.assert_close(
        cameras.world_from_cam @ cameras.cam_from_world, torch.eye(4).expand(5, 4, 4), atol=1e-6, rtol=0
    )
    _, depth = cameras.project(cameras.centers)
    torch.testing.assert_close(depth.diagonal(), torch.zeros(5), atol=1e-6, rtol=0)
    _, depth = cameras.project(cameras.centers + 2 * cameras.forward)
    torch.testing.assert_close(depth.diagonal(), torch.full((5,), 2.0))


def test_moving_the_world_moves_points_and_keeps_pixels() -> None:
    cameras, (rotation, translation, scale) = random_cameras(), similarity(0)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    before, depth = cameras.project(points)
    after, new_depth = cameras.transformed(rotation, translation, scale).project(
        scale * points @ rotation.T + translation
    )
    torch.testing.assert_close(new_depth, scale * depth, atol=1e-4, rtol=1e-4)
    in_front = depth > 0.1
    torch.testing.assert_close(after[in_front], before[in_front], atol=1e-2, rtol=1e-4)


def test_transformations_of_the_world_form_a_group() -> None:
    cameras = random_cameras()
    (r1, t1, s1), (r2, t2, s2) = similarity(1), similarity(2)
    nothing = cameras.transformed(torch.eye(3), torch.zeros(3), 1.0)
    torch.testing.assert_close(nothing.cam_from_world, cameras.cam_from_world)
    one_by_one = cameras.transformed(r1, t1, s1).transformed(r2, t2, s2)
    at_once = cameras.transformed(r2 @ r1, s2 * r2 @ t1 + t2, s2 * s1)
    torch.testing.assert_close(one_by_one.cam_from_world, at_once.cam_from_world, atol=1e-5, rtol=1e-5)
    back = cameras.transformed(r1, t1, s1).transformed(r1.T, -(r1.T @ t1) / s1, 1 / s1)
    torch.testing.assert_close(back.cam_from_world, cameras.cam_from_world, atol=1e-5, rtol=1e-5)


def test_resizing_scales_pixels() -> None:
    cameras = random_cameras()
    points = cameras.centers[:1] + cameras.forward[:1] * 3
    before, _ = cameras[0].project(points)
    after, _ = cameras.resized(36, 4)[0].project(points)
    torch.testing.assert_close(after, before * torch.tensor([3.0, 0.5]))


def test_cropping_shifts_pixels() -> None:
    cameras = random_cameras()
    points = cameras.centers[:1] + cameras.forward[:1] * 3
    before, _ = cameras[0].project(points)
    cropped = cameras.cropped(left=2, top=-3, width=5, height=6)
    after, _ = cropped[0].project(points)
    torch.testing.assert_close(after, before - torch.tensor([2.0, -3.0]))
    assert (cropped.width, cropped.height) == (5, 6)


def test_selecting_and_joining() -> None:
    cameras = random_cameras()
    assert len(cameras[2]) == 1
    torch.testing.assert_close(Cameras.cat(list(cameras)).cam_from_world, cameras.cam_from_world)
    joined = Cameras.cat([cameras[:2], cameras[2], cameras[torch.tensor([3, 4])]])
    torch.testing.assert_close(joined.cam_from_world, cameras.cam_from_world)
    with pytest.raises(InputError, match="different image sizes"):
        Cameras.cat([cameras, cameras.resized(6, 4)])


def test_new_poses_keep_the_first_intrinsics() -> None:
    cameras = random_cameras(2)
    more = cameras.with_poses(torch.eye(4).repeat(7, 1, 1))
    assert len(more) == 7
    torch.testing.assert_close(more.intrinsics, cameras.intrinsics[:1].expand(7, 3, 3))
