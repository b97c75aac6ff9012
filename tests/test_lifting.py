"""From pixels with depth to points."""

import pytest
import torch
from torch.nn import functional

from box_room import look, predicted, see_room
from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.panorama import equirect_directions
from worldstereo.memory.lifting import compress_far, depth_edges, lift_panorama, lift_picture

NOWHERE = torch.zeros(40, 60, dtype=torch.bool)


def step(height: int = 40, width: int = 60) -> torch.Tensor:
    """Depth 2 left of the middle, 3 right of it."""
    depth = torch.full((height, width), 2.0)
    depth[:, width // 2 :] = 3.0
    return depth


def published_edges(depth: torch.Tensor) -> torch.Tensor:
    """The published filter, from its description: Sobel on min-max normalised disparity, exp(−10 g) < 0.35."""
    disparity = 1 / (depth + 1e-7)
    disparity = (disparity - disparity.min()) / (disparity.max() - disparity.min())
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = functional.pad(disparity[None, None], (1, 1, 1, 1), mode="replicate")
    slope = [functional.conv2d(padded, kernel[None, None])[0, 0] for kernel in (sobel, sobel.T)]
    return torch.exp(-10 * torch.hypot(*slope)) < 0.35


def test_a_step_is_an_edge_on_its_far_side_and_nothing_else_is():
    edges = depth_edges(step(), NOWHERE)
    expected = torch.zeros_like(edges)
    expected[:, 30] = True
    assert torch.equal(edges, expected)
    assert torch.equal(depth_edges(step().T, NOWHERE.T), expected.T)
    assert torch.equal(depth_edges(step().flip(1), NOWHERE), expected.flip(1))


def test_an_invalid_pixel_hides_no_edge_as_it_does_in_the_published_filter():
    depth = step()
    found = depth_edges(depth, NOWHERE)
    assert published_edges(depth)[:, 29:31].all()
    depth[:5, :5] = 0.0
    assert not published_edges(depth)[10:, 20:40].any(), "one invalid corner switches the published filter off"
    assert torch.equal(depth_edges(depth, NOWHERE)[8:], found[8:])
    assert not depth_edges(depth, NOWHERE)[:8, :8].any(), "unknown pixels are no edges themselves"


def test_edges_do_not_depend_on_the_scale():
    depth = see_room(look(0.3, 5.0))[1][0]
    nowhere = torch.zeros_like(depth, dtype=torch.bool)
    found = depth_edges(depth, nowhere)
    assert found.any()
    assert torch.equal(found, depth_edges(64 * depth, nowhere))


def test_a_slanted_plane_has_no_edge_however_steep():
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    floor = 30.0 / (rows + 0.7)  # a floor up to its horizon: its disparity is linear
    assert (floor[1:] / floor[:-1]).min() < 0.6, "it is steep"
    assert not depth_edges(floor, NOWHERE).any()


def test_a_crease_is_no_edge_and_a_thin_pole_stays_between_two():
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    room = torch.maximum(torch.maximum(30.0 - 2 * rows, rows - 10), torch.tensor(9.0)).reciprocal() * 60
    assert not depth_edges(room, NOWHERE).any(), "ceiling, wall and floor"
    pole = torch.full((40, 60), 5.0)
    pole[:, 20] = 2.0
    edges = depth_edges(pole, NOWHERE)
    assert edges[:, [19, 21]].all()
    assert not edges[:, 20].any()


def test_a_ball_keeps_its_outline():
    rows, columns = torch.meshgrid(torch.arange(40.0) - 20, torch.arange(60.0) - 30, indexing="ij")
    inside = rows**2 + columns**2 < 12**2
    depth = torch.where(inside, 5 - (12**2 - rows**2 - columns**2).clamp(min=0).sqrt() / 24, 9.0)
    edges = depth_edges(depth, NOWHERE)
    assert not (edges & inside).any()
    ring = functional.max_pool2d(inside.float()[None], 3, 1, padding=1)[0].bool() & ~inside
    assert edges[ring].float().mean() > 0.7, "the pixels behind its outline"
    assert not (edges & ~functional.max_pool2d(inside.float()[None], 7, 1, padding=3)[0].bool()).any()


def test_the_blur_of_an_edge_goes_whole():
    depth = step()
    depth[:, 28:32] = torch.tensor([2.1, 2.4, 2.7, 2.9])
    edges = depth_edges(depth, NOWHERE)
    assert edges[:, 28:32].all()
    assert not edges[:, :28].any()


def test_a_surface_ends_at_the_sky():
    depth, sky = step(), NOWHERE.clone()
    depth[:20], sky[:20] = 0.0, True
    edges = depth_edges(depth, sky)
    assert edges[19].all(), "the sky beside it"
    assert not edges[20:, :28].any(), "the surface stays up to its end"


def test_edges_wrap_around_the_seam_of_a_panorama():
    depth = step(40, 60)
    assert depth_edges(depth, NOWHERE, wraps=True)[:, -1].all(), "its far side"
    assert not depth_edges(depth, NOWHERE)[:, [0, -1]].any()
    rolled = depth_edges(depth.roll(7, 1), NOWHERE, wraps=True)
    assert torch.equal(rolled, depth_edges(depth, NOWHERE, wraps=True).roll(7, 1))


def test_far_depth_is_compressed_smoothly_below_sixteen_medians():
    depth = torch.cat([torch.full((101,), 2.0), torch.tensor([0.0, 16.0, 16.001, 32.0, 1e9])])
    out = compress_far(depth)
    torch.testing.assert_close(out[:103], depth[:103])
    torch.testing.assert_close(out[103:], torch.tensor([16.001, 24.0, 32.0]), rtol=1e-5, atol=0)


def test_points_of_a_picture_lie_on_its_surfaces():
    camera = look(0.4, 20.0)
    image, depth = see_room(camera)
    depth[0, :4, :4] = 0.0
    lifted = lift_picture(image[0], predicted(depth[0]), camera)
    assert len(lifted.sky) == 0
    assert 0.8 * 128 * 80 < len(lifted.cloud) < 128 * 80 - 16
    pixels, z = camera.project(lifted.cloud.points)
    column, row = pixels[0].floor().long().unbind(dim=1)
    torch.testing.assert_close(z[0], depth[0, row, column], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lifted.cloud.colors, image[0, :, row, column].T)


def test_sky_goes_far_away_in_its_direction():
    camera = Cameras.from_fov(70.0, 60, 40)
    depth, sky = step(), NOWHERE.clone()
    depth[:20], sky[:20] = 0.0, True
    lifted = lift_picture(torch.rand(3, 40, 60), predicted(depth, sky), camera)
    assert len(lifted.sky) == 19 * 60  # the row beside the surface would be the surface's ghost
    torch.testing.assert_close(lifted.sky.points.norm(dim=1), torch.full((1140,), 200.0))
    pixels, _ = camera.project(lifted.sky.points)
    assert torch.equal(pixels[0].floor().long()[:, 1], torch.arange(19).repeat_interleave(60))
    assert lifted.cloud.points[:, 2].max() < 4


def test_a_panorama_of_a_sphere_is_a_sphere():
    sky = torch.zeros(32, 64, dtype=torch.bool)
    sky[:4] = True
    distance = torch.where(sky, 0.0, 3.0)
    lifted = lift_panorama(torch.rand(3, 32, 64), distance, sky)
    assert len(lifted.sky) == 3 * 64  # the row beside the surface would be its ghost
    assert len(lifted.cloud) == 28 * 64
    torch.testing.assert_close(lifted.cloud.points, 3 * equirect_directions(64, 32)[4:].reshape(-1, 3))
    torch.testing.assert_close(lifted.sky.points, 300 * equirect_directions(64, 32)[:3].reshape(-1, 3))


def test_the_sky_beside_a_surface_across_the_seam_is_left_out():
    sky = torch.zeros(32, 64, dtype=torch.bool)
    sky[:, :20] = True
    lifted = lift_panorama(torch.rand(3, 32, 64), torch.where(sky, 0.0, 3.0), sky)
    assert len(lifted.sky) == 18 * 32  # neither the column beside the surface nor the one that the seam lies between
    rolled = lift_panorama(torch.rand(3, 32, 64), torch.where(sky, 0.0, 3.0).roll(22, 1), sky.roll(22, 1))
    assert len(rolled.sky) == len(lifted.sky)


def test_bad_input_is_named():
    camera = Cameras.from_fov(70.0, 60, 40)
    image, depth = torch.rand(3, 40, 60), step()
    with pytest.raises(InputError, match="nothing to build"):
        lift_picture(image, predicted(torch.zeros(40, 60)), camera)
    with pytest.raises(InputError, match="depth is 30×20, but the picture is 60×40"):
        lift_picture(image, predicted(step(20, 30)), camera)
    with pytest.raises(InputError, match="camera is of a 30×20"):
        lift_picture(image, predicted(depth), Cameras.from_fov(70.0, 30, 20))
    with pytest.raises(InputError, match="finite"):
        lift_panorama(image, torch.full((40, 60), torch.nan), NOWHERE)
