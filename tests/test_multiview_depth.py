"""Depth from several posed pictures against scenes in closed form."""

import numpy as np
import pytest
import torch

from box_room import look, see_room
from textured_wall import textured_wall
from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.depth.multiview.likeness import UNSEEN, Likeness
from worldstereo.depth.multiview.neighbours import choose_neighbours
from worldstereo.depth.multiview.posed_depth import estimate_posed_depth
from worldstereo.depth.multiview.refinement import refine_depth
from worldstereo.depth.multiview.scale import triangulated_scale
from worldstereo.depth.multiview.semi_global import smooth_labels

INNER = (slice(10, -10), slice(24, -24))


class Flat:
    """Says that everything is a fronto-parallel plane."""

    name = "flat"

    def estimate(self, image, intrinsics=None, hint=None):
        return DepthPrediction(torch.ones(image.shape[1:]), torch.zeros(image.shape[1:]).bool(), None, False, self.name)


def test_neighbours_see_the_same_from_elsewhere():
    cameras = Cameras.cat([look(x, 0.0) for x in (0.0, 0.0, 0.3, 0.35, 3.0)] + [look(0.0, 180.0)])
    depth = torch.full((80, 128), 3.0)
    chosen = choose_neighbours(cameras, lambda index: depth, 3)
    assert 1 not in chosen[0]  # the same place: nothing to triangulate
    assert 5 not in chosen[0]  # looks the other way
    assert chosen[0][0] in (2, 3)
    assert choose_neighbours(cameras, torch.zeros(6, 80, 128).__getitem__, 3) == [()] * 6


def test_pictures_are_most_alike_at_the_true_depth_and_unseen_where_nobody_looks():
    images, depth, cameras = textured_wall(3.0, 0.5)
    likeness = Likeness(images[0], cameras[0], images[1:], cameras[1:])
    at = {factor: likeness(depth[0] * factor)[INNER].median() for factor in (0.8, 1.0, 1.25)}
    assert at[1.0] > 0.95 > 0.7 > max(at[0.8], at[1.25])
    assert bool((likeness(depth[0] * 1e-3) == UNSEEN).all())


def test_labels_follow_the_clear_pixels_and_jump_at_edges():
    """Two halves of labels 3 and 9; where costs say nothing, the label of the half; a lone wrong pixel is outvoted."""
    height, width, right = 24, 32, slice(16, 32)
    truth = torch.full((height, width), 3.0)
    truth[:, right] = 9
    grey = (truth > 5).float()
    costs = (torch.arange(12) - truth[..., None]).abs().clamp(max=1)
    plain = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < 0.7
    costs[plain] = 0
    costs[5, 5] = (torch.arange(12) - 11).abs().clamp(max=1)
    assert torch.equal(smooth_labels(costs, grey).round(), truth)


def test_labels_equal_those_of_all_paths_by_hand():
    """On a single row, paths are the two directions along it: dynamic programming written out."""
    costs = torch.rand(1, 7, 5, generator=torch.Generator().manual_seed(3)) * 3
    forth, back = (_path(costs[0].flip(0) if turn else costs[0]) for turn in (False, True))
    total = (forth + back.flip(0) + 6 * costs[0]).argmin(dim=1)  # six directions leave the picture at once
    found = smooth_labels(costs, torch.zeros(1, 7))[0]
    assert bool(((found - total).abs() <= 1).all())
    inner = (total > 0) & (total < 4)
    assert bool(((found - total).abs() <= 0.5)[inner].all())


def _path(costs: torch.Tensor) -> torch.Tensor:
    rows = [costs[0]]
    change = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    price = torch.where(change == 0, 0.0, torch.where(change == 1, 0.3, 3.0))
    for cost in costs[1:]:
        rows.append(cost + (rows[-1][None] + price).amin(dim=1) - rows[-1].min())
    return torch.stack(rows)


def test_refinement_brings_bent_depth_to_the_truth():
    images, depth, cameras = textured_wall(3.0, 0.3)
    bent = depth[0] * (1 + 0.3 * torch.linspace(-1, 1, 120))
    refined = refine_depth(images[0], bent, cameras[0], images[1:], cameras[1:])
    before, after = ((d / depth[0] - 1).abs()[INNER].median() for d in (bent, refined))
    assert float(before) > 0.08
    assert float(after) < 0.008  # a tenth of a pixel of disparity


def test_refinement_leaves_unknown_pixels_and_plain_pictures_alone():
    images, depth, cameras = textured_wall(3.0)
    holed = depth[0].clone()
    holed[:20] = 0
    refined = refine_depth(images[0], holed, cameras[0], images[1:], cameras[1:])
    assert torch.equal(refined == 0, holed == 0)
    plain = torch.full_like(images, 0.5)
    torch.testing.assert_close(refine_depth(plain[0], holed, cameras[0], plain[1:], cameras[1:]), holed)


@pytest.mark.parametrize("factor", [0.2, 1.0, 30.0])
def test_cameras_tell_the_scale_of_depth(factor):
    images, depth, cameras = textured_wall(3.0, 0.3)
    assert triangulated_scale(images, cameras, depth / factor) == pytest.approx(factor, rel=0.06)


def test_there_is_no_scale_without_motion_texture_or_depth():
    images, depth, cameras = textured_wall(3.0)
    turning = Cameras.cat([look(0.0, angle, 120, 80, 60.0) for angle in (0.0, 2.0, 4.0, 6.0)])
    assert triangulated_scale(see_room(turning)[0], turning, depth) is None
    assert triangulated_scale(images, cameras[[0] * 4], depth) is None
    assert triangulated_scale(images[:1], cameras[:1], depth[:1]) is None
    assert triangulated_scale(torch.full_like(images, 0.5), cameras, depth) is None
    assert triangulated_scale(images, cameras, torch.zeros_like(depth)) is None


def test_posed_pictures_correct_what_was_estimated_alone():
    images, depth, cameras = textured_wall(3.0, 0.6)
    found, sky = estimate_posed_depth(images, cameras, Flat())
    errors = [float((d / t - 1).abs()[INNER].median()) for d, t in zip(found, depth, strict=True)]
    flat = [float((t.median() / t - 1).abs()[INNER].median()) for t in depth]
    assert min(flat) > 0.1
    assert max(errors) < 0.02
    assert not bool(sky.any())


def test_pictures_that_tell_nothing_keep_their_depth_at_little_parallax():
    _, depth, cameras = textured_wall(3.0)
    found, _ = estimate_posed_depth(torch.full((4, 3, 80, 120), 0.5), cameras, Flat())
    path = float(np.ptp(cameras.centers[:, 0].numpy()))
    torch.testing.assert_close(found, torch.full_like(depth, path / 0.02))
    still, _ = estimate_posed_depth(torch.full((4, 3, 80, 120), 0.5), cameras[[0] * 4], Flat())
    assert bool((still == 1).all())
