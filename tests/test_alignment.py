"""Robust disparity fit, percentile ranks, similarity, thinning and outliers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstereo.errors import InputError
from worldstereo.geometry.alignment import fit_disparity, ranks_agree, umeyama
from worldstereo.geometry.filtering import voxel_keep


def disparities(count: int = 4000) -> torch.Tensor:
    return 0.1 + 0.9 * torch.rand(count, generator=torch.Generator().manual_seed(1))


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.01, 100), shift=st.floats(-0.05, 0.5), seed=st.integers(0, 5))
def test_scale_and_shift_are_found_among_forty_percent_outliers(scale, shift, seed):
    target = disparities()
    disparity = (target - shift).clamp(min=1e-3) / scale
    noisy = target.clone()
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(target), generator=generator) < 0.4
    noisy[wrong] = 0.1 + 0.9 * torch.rand(int(wrong.sum()), generator=generator)
    fit = fit_disparity(disparity, noisy, seed=seed)
    assert fit is not None
    usable = target - shift > 1e-3
    error = (fit.scale * disparity + fit.shift - target).abs() / target
    assert error[usable].max() < 0.03
    depth = 1 / disparity[usable]
    torch.testing.assert_close(fit.apply(depth), 1 / target[usable], rtol=0.04, atol=0)


def test_a_single_depth_gives_the_scale_alone():
    fit = fit_disparity(torch.full((500,), 0.5), torch.full((500,), 2.0))
    assert fit is not None
    assert fit.shift == 0
    assert fit.scale == pytest.approx(4.0)
    assert fit.inliers == 1


def test_an_inverted_depth_has_no_good_fit():
    target = disparities()
    fit = fit_disparity(1.2 - target, target)
    assert fit is None or fit.inliers < 0.5


def test_too_few_pairs_have_no_fit():
    assert fit_disparity(torch.ones(5), torch.ones(5)) is None


def test_the_same_seed_gives_the_same_fit():
    x, y = disparities(), disparities() * 2 + 0.1
    assert fit_disparity(x, y, seed=4) == fit_disparity(x, y, seed=4)


def test_unknown_and_negative_stay_unknown():
    fit = fit_disparity(disparities(), disparities() - 0.05)
    assert fit is not None
    out = fit.apply(torch.tensor([0.0, 1000.0, 2.0]))
    assert out[0] == 0
    assert out[1] == 0
    assert out[2] == pytest.approx(1 / 0.45, rel=1e-3)


def test_ranks():
    first = torch.arange(101.0)
    assert ranks_agree(first, first.exp()).all()
    moved = first.clone()
    moved[[10, 90]] = moved[[90, 10]]
    assert (~ranks_agree(first, moved)).nonzero()[:, 0].tolist() == [10, 90]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_umeyama_recovers_a_similarity(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation).sign()
    shift = torch.randn(3, generator=generator, dtype=torch.float64)
    source = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    found = umeyama(source, scale * source @ rotation.T + shift)
    torch.testing.assert_close(found.rotation, rotation, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.translation, shift, atol=1e-5, rtol=0)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    torch.testing.assert_close(found.apply(source), scale * source @ rotation.T + shift)


def test_umeyama_never_mirrors_and_heeds_weights():
    source = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    mirrored = source * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.linalg.det(umeyama(source, mirrored).rotation) > 0
    target, weights = 2 * source, torch.ones(30)
    target[0], weights[0] = 100.0, 0.0
    assert umeyama(source, target, weights).scale == pytest.approx(2.0, rel=1e-5)
    assert umeyama(source, target).scale != pytest.approx(2.0, rel=0.1)


def test_umeyama_refuses_what_does_not_determine_it():
    line = torch.arange(9.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="one line"):
        umeyama(line, line)
    with pytest.raises(InputError, match="three pairs"):
        umeyama(line[:2], line[:2])


def test_one_point_a_voxel_the_first():
    points = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [1.1, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.2, 0.1, 0.1]])
    assert voxel_keep(points, 1.0).tolist() == [True, False, True, True, False]
    assert len(voxel_keep(torch.zeros(0, 3), 1.0)) == 0
    with pytest.raises(InputError, match="voxel"):
        voxel_keep(points, 0.0)
