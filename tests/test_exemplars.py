"""Continuing a picture's texture into holes, against what it promises."""

import pytest
import torch
from torch.nn import functional as F

from worldstereo.geometry.exemplars import Exemplars

HEIGHT, WIDTH = 150, 240


def stripes(period: float = 8.0, tilt: float = 0.3) -> torch.Tensor:
    """Tilted stripes of two colours, no edge harder than a sine's."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
    wave = torch.sin(2 * torch.pi * (columns + tilt * rows) / period)
    return torch.stack([0.5 + 0.3 * wave, 0.5 - 0.1 * wave, 0.4 + 0.2 * wave])


def middle() -> torch.Tensor:
    holes = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    holes[50:100, 90:150] = True
    return holes


NOTHING = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)


def smooth(picture: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    return torch.where(holes, picture.mean(dim=(1, 2))[:, None, None], picture)


def test_stripes_go_on_through_a_hole_in_step():
    picture, holes = stripes(), middle()
    filled = smooth(picture, holes)
    continued = Exemplars(picture).continue_into(filled, holes, NOTHING, seed=0)
    error = (continued - picture)[:, holes].square().mean()
    assert error < 0.2 * (filled - picture)[:, holes].square().mean()


def test_noise_keeps_its_strength_where_the_filling_has_none():
    picture = 0.5 + 0.1 * torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    holes = middle()
    filled = smooth(picture, holes)
    continued = Exemplars(picture).continue_into(filled, holes, NOTHING, seed=0)
    assert filled[:, holes].std(dim=1).max() < 1e-6
    assert 0.4 < continued[:, holes].std() / picture.std() < 1.2


def test_the_colour_is_the_fillings():
    picture, holes = stripes(), middle()
    filled = torch.where(holes, smooth(picture, holes) + 0.1, picture)
    continued = Exemplars(picture).continue_into(filled, holes, NOTHING, seed=0)
    assert abs(float((continued - filled)[:, holes].mean())) < 0.03


def test_other_pixels_come_back_unchanged_and_all_are_colours():
    picture = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    holes = middle()
    continued = Exemplars(1 - picture).continue_into(picture, holes, NOTHING, seed=0)
    assert torch.equal(continued[:, ~holes], picture[:, ~holes])
    assert continued.min() >= 0
    assert continued.max() <= 1


def test_a_picture_without_detail_adds_none():
    filled = F.interpolate(torch.rand(1, 3, 3, 4), (HEIGHT, WIDTH), mode="bilinear")[0]
    continued = Exemplars(torch.full((3, HEIGHT, WIDTH), 0.3)).continue_into(filled, middle(), NOTHING, seed=0)
    torch.testing.assert_close(continued, filled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [0, 7, 2**62])
def test_the_same_seed_gives_the_same_on_any_number_of_threads(seed):
    picture, holes = stripes(), middle()
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(Exemplars(picture).continue_into(smooth(picture, holes), holes, NOTHING, seed))
    torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [(4, 4), (31, 64), (64, 31)])
def test_a_tiny_exemplar_adds_nothing(size):
    filled = torch.rand(3, HEIGHT, WIDTH)
    assert torch.equal(Exemplars(torch.rand(3, *size)).continue_into(filled, middle(), NOTHING, 0), filled)


def test_without_holes_nothing_changes_and_without_anything_else_it_works():
    filled = torch.full((3, HEIGHT, WIDTH), 0.5)
    none, every = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    exemplars = Exemplars(stripes())
    assert torch.equal(exemplars.continue_into(filled, none, NOTHING, 0), filled)
    assert exemplars.continue_into(filled, every, NOTHING, 0).std() > 0.05


def test_what_is_apart_does_not_go_on_in_the_hole_beside_it():
    """A striped object in front of a plain wall that the hole uncovers."""
    picture = stripes()
    picture[:, :, 90:] = 0.5 + 0.002 * torch.randn(3, HEIGHT, WIDTH - 90, generator=torch.Generator().manual_seed(2))
    holes, object_ = NOTHING.clone(), NOTHING.clone()
    holes[50:100, 90:120] = True
    object_[:, :90] = True
    filled = torch.where(holes, 0.5, picture)
    left_out = Exemplars(picture).continue_into(filled, holes, object_, seed=0)
    assert (left_out - filled)[:, holes].abs().max() < 0.02
    taken = Exemplars(picture).continue_into(filled, holes, NOTHING, seed=0)
    assert (taken - filled)[:, holes].abs().max() > 0.04
