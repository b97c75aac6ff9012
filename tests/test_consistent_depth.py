"""Votes, normals and bending against scenes in closed form."""

import torch

from box_room import look, see_room
from worldstereo.cameras import Cameras
from worldstereo.reconstruction.aligned_depth import bend_to
from worldstereo.reconstruction.consistency import surface_normals, vote

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
