"""Votes, neighbours, plane sweep, refinement and bending against scenes in closed form."""

import pytest
import torch

from box_room import look, see_room
from textured_wall import textured_wall
from worldstereo.cameras import Cameras
from worldstereo.reconstruction.aligned_depth import bend_to
from worldstereo.reconstruction.consistency import surface_normals, vote
from worldstereo.reconstruction.neighbours import choose_neighbours
from worldstereo.reconstruction.plane_sweep import plane_sweep
from worldstereo.reconstruction.refinement import refine_depth

PLACES = (0.0, -0.2, 0.2, -0.4, 0.4)


def room(width: int = 128, height: int = 80):
    """Pictures, depth and cameras of the box room, the middle one first."""
    cameras = Cameras.cat([look(x, 0.0, width, height) for x in PLACES])
    images, depth = see_room(cameras)
    return images, depth, cameras


def test_true_depth_is_supported_and_stays_where_it_is():
    images, depth, cameras = room()
    votes = vote(depth[0], images[0], cameras[0], depth[1:], images[1:], cameras[1:])
    inner = (slice(8, -8), slice(16, -16))
    assert float(votes.confidence[inner].median()) > 0.85
    assert float((votes.against[inner] > 0).float().mean()) < 0.02
    torch.testing.assert_close(votes.consensus[inner].median(), depth[0][inner].median(), rtol=1e-3, atol=0)
    assert float((votes.consensus / depth[0] - 1).abs().median()) < 1e-3


def test_a_floater_is_voted_down_and_the_surface_behind_it_is_not():
    images, depth, cameras = room()
    wrong = depth[0].clone()
    wrong[20:30, 60:70] *= 0.6
    votes = vote(wrong, images[0], cameras[0], depth[1:], images[1:], cameras[1:])
    assert float(votes.confidence[20:30, 60:70].max()) < 0.25
    assert float(votes.confidence[35:45, 60:70].min()) > 0.7


def test_a_surface_that_others_cannot_see_is_neither_supported_nor_denied():
    images, depth, cameras = room()
    behind = depth[0] * 1.5
    votes = vote(behind, images[0], cameras[0], depth[1:], images[1:], cameras[1:])
    middle = (slice(30, 40), slice(60, 70))
    assert float(votes.support[middle].max()) == 0
    assert float(votes.against[middle].max()) == 0
    assert float(votes.confidence[middle].mean()) == 0.5


def test_the_consensus_lies_nearer_to_the_truth_than_a_single_frame():
    images, depth, cameras = room()
    noise = 1 + 0.008 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(1))
    votes = vote(depth[0] * noise[0], images[0], cameras[0], (depth * noise)[1:], images[1:], cameras[1:])
    inner = (slice(8, -8), slice(16, -16))
    before = ((depth * noise)[0] / depth[0] - 1)[inner].square().mean().sqrt()
    after = (votes.consensus / depth[0] - 1)[inner].square().mean().sqrt()
    assert float(after) < 0.75 * float(before)


def test_without_others_a_known_pixel_has_half_confidence_and_an_unknown_one_none():
    images, depth, cameras = room()
    depth[0, 0, 0] = 0
    votes = vote(depth[0], images[0], cameras[0], depth[:0], images[:0], None)
    assert votes.confidence[0, 0] == 0
    assert bool((votes.confidence.flatten()[1:] == 0.5).all())


def test_other_colours_at_the_same_place_are_no_support():
    images, depth, cameras = room()
    votes = vote(depth[0], 1 - images[0], cameras[0], depth[1:], images[1:], cameras[1:])
    same = vote(depth[0], images[0], cameras[0], depth[1:], images[1:], cameras[1:])
    assert float(votes.support.mean()) < 0.5 * float(same.support.mean())


def test_neighbours_see_the_same_from_elsewhere():
    cameras = Cameras.cat([look(x, 0.0) for x in (0.0, 0.0, 0.3, 0.35, 3.0)] + [look(0.0, 180.0)])
    depth = torch.full((80, 128), 3.0)
    chosen = choose_neighbours(cameras, lambda index: depth, 3)
    assert 1 not in chosen[0]  # the same place: nothing to triangulate
    assert 5 not in chosen[0]  # looks the other way
    assert chosen[0][0] in (2, 3)
    assert choose_neighbours(cameras, torch.zeros(6, 80, 128).__getitem__, 3) == [()] * 6


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_a_sweep_recovers_a_shifted_depth_to_a_fraction_of_a_step(slope):
    images, depth, cameras = textured_wall(3.0, slope)
    factors = (torch.arange(-6, 7) * 0.02).exp()
    sweep = plane_sweep(images[0], depth[0] * 1.05, cameras[0], images[1:], cameras[1:], factors)
    inner = (slice(10, -10), slice(30, -30))
    error = (sweep.offset[inner] - torch.tensor(1 / 1.05).log()).abs()
    assert float(sweep.score[inner].median()) > 0.95
    assert float(error.median()) < 0.15 * 0.02


def test_a_sweep_says_nothing_of_a_wall_without_texture():
    _, depth, cameras = textured_wall(3.0)
    plain = torch.full((4, 3, 80, 120), 0.5)
    factors = (torch.arange(-4, 5) * 0.02).exp()
    assert float(plane_sweep(plain[0], depth[0], cameras[0], plain[1:], cameras[1:], factors).score.max()) == -1


def test_refinement_brings_bent_depth_to_the_truth():
    images, depth, cameras = textured_wall(3.0, 0.3)
    across = torch.linspace(-1, 1, 120)
    bent = depth[0] * (1 + 0.12 * across)
    refined = refine_depth(images[0], bent, cameras[0], images[1:], cameras[1:])
    inner = (slice(10, -10), slice(24, -24))
    before, after = ((d / depth[0] - 1).abs()[inner].median() for d in (bent, refined))
    assert float(before) > 0.03
    assert float(after) < 0.008  # a tenth of a pixel of disparity


def test_refinement_leaves_unknown_pixels_and_plain_pictures_alone():
    images, depth, cameras = textured_wall(3.0)
    holed = depth[0].clone()
    holed[:20] = 0
    refined = refine_depth(images[0], holed, cameras[0], images[1:], cameras[1:])
    assert torch.equal(refined == 0, holed == 0)
    plain = torch.full_like(images, 0.5)
    torch.testing.assert_close(refine_depth(plain[0], holed, cameras[0], plain[1:], cameras[1:]), holed)


def test_depth_bends_to_guidance_that_no_scale_and_shift_explains():
    _, depth, _ = room(128, 80)
    wave = 1 + 0.4 * torch.sin(torch.linspace(0, 6, 128))
    guidance = torch.where(torch.rand(80, 128, generator=torch.Generator().manual_seed(0)) < 0.5, depth[0], 0.0)
    bent = bend_to(depth[0] * wave, guidance)
    assert bent is not None
    assert float((bent / depth[0] - 1).abs().median()) < 0.03
    noise = torch.rand(80, 128, generator=torch.Generator().manual_seed(0)) * 9 + 0.1
    assert bend_to(noise, guidance) is None
    assert bend_to(depth[0], torch.zeros(80, 128)) is None


def test_normals_of_the_room_are_those_of_its_walls():
    _, depth, cameras = room()
    normals = surface_normals(depth[0], cameras[0])
    torch.testing.assert_close(normals[75, 20], torch.tensor([0.0, -1.0, 0.0]), atol=1e-3, rtol=0)  # floor, y down
    torch.testing.assert_close(normals[45, 5], torch.tensor([1.0, 0.0, 0.0]), atol=1e-3, rtol=0)  # left wall
