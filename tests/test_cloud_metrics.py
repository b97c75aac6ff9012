"""Cloud metrics against brute force and closed forms."""

import numpy as np
import pytest
import torch

from worldstereo.errors import InputError
from worldstereo.evaluation.cloud_metrics import cloud_errors, nearest_distances


def test_figures_equal_brute_force():
    random = torch.Generator().manual_seed(0)
    ours, truth = torch.rand(731, 3, generator=random), torch.rand(512, 3, generator=random)
    limits = (0.02, 0.05, 0.1)
    errors = cloud_errors(ours, truth, limits, chunk=100)
    distances = torch.cdist(ours.double(), truth.double())
    there, back = distances.amin(dim=1), distances.amin(dim=0)
    assert errors.precision == pytest.approx([float((there <= t).double().mean()) for t in limits])
    assert errors.recall == pytest.approx([float((back <= t).double().mean()) for t in limits])
    assert errors.f1 == pytest.approx(
        [2 * p * r / (p + r) for p, r in zip(errors.precision, errors.recall, strict=True)]
    )
    assert errors.accuracy == pytest.approx(float(there.mean()))
    assert errors.completeness == pytest.approx(float(back.mean()))
    assert errors.auc == pytest.approx(
        float(torch.trapezoid(torch.tensor([0, *errors.f1]), torch.tensor([0, *limits]))) / 0.1
    )


def test_a_shifted_grid():
    """A plane of points lifted by 0.1 is 0.1 away everywhere; half a plane misses half of the truth."""
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0), torch.zeros(1))
    lifted = cloud_errors(grid + torch.tensor([0, 0, 0.1]), grid, (0.05, 0.2))
    assert (lifted.accuracy, lifted.completeness) == pytest.approx((0.1, 0.1))
    assert (lifted.precision, lifted.recall, lifted.f1) == ((0, 1), (0, 1), (0, 1))
    assert lifted.auc == pytest.approx((0.15 / 2) / 0.2)
    half = cloud_errors(grid[:200], grid, (0.5,))
    assert (half.precision, half.recall) == ((1.0,), (0.5,))
    assert half.f1[0] == pytest.approx(2 / 3)


def test_neighbours_come_in_chunks():
    source, target = np.random.default_rng(0).random((1050, 3)), np.random.default_rng(1).random((64, 3))
    chunks = list(nearest_distances(source, target, chunk=500))
    assert [len(chunk) for chunk in chunks] == [500, 500, 50]
    expected = np.linalg.norm(source[:, None] - target, axis=2).min(axis=1)
    np.testing.assert_allclose(np.concatenate(chunks), expected)


@pytest.mark.parametrize(
    ("points", "limits", "words"),
    [
        (torch.zeros(0, 3), (0.1,), "has no points"),
        (torch.full((4, 3), float("nan")), (0.1,), "not finite"),
        (torch.zeros(4, 3), (0.2, 0.1), "ascending"),
        (torch.zeros(4, 3), (), "ascending"),
    ],
)
def test_what_cannot_be_compared_is_refused(points, limits, words):
    with pytest.raises(InputError, match=words):
        cloud_errors(points, torch.zeros(4, 3), limits)
