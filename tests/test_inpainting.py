"""Pull–push against what it promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstereo.geometry.inpainting import continued_depth, pull_push, sky_share


def _known(height: int, width: int, seed: int, share: float) -> torch.Tensor:
    known = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)) > share
    known[..., 0, 0] = True
    return known


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_known_pixels_stay_and_filled_ones_lie_within_the_known_range(height, width, seed, share):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(1, 3, height, width, generator=generator)
    importance = torch.rand(1, 1, height, width, generator=generator) * 100 + 1
    known = _known(height, width, seed, share)
    filled = pull_push(values, known, importance)
    assert torch.equal(filled[known.expand_as(values)], values[known.expand_as(values)])
    for channel in range(3):
        range_of = values[0, channel][known[0, 0]]
        assert filled[0, channel].min() >= range_of.min() - 1e-4
        assert filled[0, channel].max() <= range_of.max() + 1e-4


def test_a_constant_is_reproduced_whatever_lies_under_the_holes():
    known = _known(33, 47, 0, 0.9)
    values = torch.where(known, torch.tensor(0.37), torch.tensor(99.0)).expand(1, 2, 33, 47)
    filled = pull_push(values, known, torch.ones(1, 1, 33, 47))
    torch.testing.assert_close(filled, torch.full((1, 2, 33, 47), 0.37))


def test_what_is_no_number_under_the_holes_is_ignored():
    known = _known(33, 47, 0, 0.9)
    values = torch.where(known, torch.tensor(0.37), torch.tensor(torch.nan))
    filled = pull_push(values, known, torch.ones(1, 1, 33, 47))
    torch.testing.assert_close(filled, torch.full((1, 1, 33, 47), 0.37))


def test_the_more_important_side_fills_the_hole():
    values = torch.zeros(1, 1, 1, 8)
    values[..., 7] = 1
    known = torch.zeros(1, 1, 1, 8, dtype=torch.bool)
    known[..., 0] = known[..., 7] = True
    importance = torch.ones(1, 1, 1, 8)
    equal = pull_push(values, known, importance)[0, 0, 0, 3:5].mean()
    importance[..., 7] = 9
    assert equal.item() == pytest.approx(0.5)
    assert pull_push(values, known, importance)[0, 0, 0, 3:5].mean() > 0.8


def test_without_any_known_pixel_the_result_is_zero():
    nothing = torch.zeros(1, 1, 5, 6, dtype=torch.bool)
    assert pull_push(torch.ones(1, 3, 5, 6), nothing, torch.ones(1, 1, 5, 6)).abs().max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (480, 16)])
def test_any_size(size):
    known = torch.ones(2, 1, *size, dtype=torch.bool)
    assert pull_push(torch.rand(2, 3, *size), known, torch.ones(2, 1, *size)).shape == (2, 3, *size)


def test_continued_depth_keeps_what_is_known_and_takes_the_far_side():
    depth = torch.zeros(16, 40)
    depth[:, :10], depth[:, 30:] = 1.0, 8.0
    continued = continued_depth(depth, depth > 0)
    assert torch.equal(continued[depth > 0], depth[depth > 0])
    assert continued.min() >= 1 - 1e-4
    assert continued.max() <= 8 + 1e-4
    assert continued[8, 20] > 6


def test_depth_continues_into_the_sky_as_infinitely_far():
    depth = torch.zeros(16, 40)
    depth[:, :10] = 1.0
    known = torch.ones(16, 40, dtype=torch.bool)
    known[:, 12:20] = False
    continued = continued_depth(depth, known)
    assert continued[:, 25:].min() > 1e6
    assert torch.equal(continued[:, :10], depth[:, :10])


def test_without_any_surface_depth_stays_unknown():
    depth = torch.zeros(5, 7)
    assert torch.equal(continued_depth(depth, torch.ones(5, 7, dtype=torch.bool)), depth)


def test_sky_goes_on_beside_it_but_not_into_the_ground():
    depth, known = torch.zeros(100, 60), torch.zeros(100, 60, dtype=torch.bool)
    known[:40, :20] = True  # sky at the left above a horizon, and a strip of ground below it
    known[40:60, :20], depth[40:60, :20] = True, 5.0
    share = sky_share(depth, known)
    assert (share[:40, :20] == 1).all()
    assert (share[40:60, :20] == 0).all()
    assert (share[:30, 20:] > 0.9).all()
    assert (share[71:] == 0).all()
    assert share[:, 40].diff().abs().max() < 0.2, "no edge in what is open"
    assert (sky_share(torch.where(known, 5.0, 0.0), known) == 0).all(), "no sky at all"
