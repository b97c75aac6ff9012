"""Image metrics against closed forms and against scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from worldstereo.errors import InputError
from worldstereo.evaluation.texture_metrics import (
    colour_distance,
    gradient_energy_ratio,
    seam_gradient_ratio,
    texture_distance,
)
from worldstereo.image_metrics import ms_ssim, psnr, psnr_of_frames, ssim


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def everywhere(pictures: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(pictures), *pictures.shape[2:], dtype=torch.bool)


def half(pictures: torch.Tensor) -> torch.Tensor:
    """The left half."""
    mask = everywhere(pictures)
    mask[..., pictures.shape[-1] // 2 :] = False
    return mask


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    truth = torch.nn.functional.interpolate(random(2, 3, 12, 16), size=(48, 64), mode="bicubic").clamp(0, 1)
    return (truth + 0.1 * (random(2, 3, 48, 64, seed=1) - 0.5)).clamp(0, 1), truth


# PSNR


def test_psnr_of_a_constant_error_and_of_its_half():
    truth = torch.full((2, 3, 8, 8), 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-4)
    assert psnr(truth, truth) == math.inf
    wrong = truth.clone()
    wrong[..., :4] += 0.1
    assert psnr(wrong, truth) == pytest.approx(20 + 10 * math.log10(2), abs=1e-4)
    assert psnr(wrong, truth, half(truth)) == pytest.approx(20, abs=1e-4)
    assert psnr(wrong, truth, ~half(truth)) == math.inf
    assert math.isnan(psnr(wrong, truth, torch.zeros_like(half(truth))))


def test_psnr_is_pooled_over_pixels_not_over_frames():
    truth = torch.zeros(2, 3, 8, 8)
    wrong = truth.clone()
    wrong[0], wrong[1] = 0.1, 0.01
    assert psnr_of_frames(wrong, truth) == pytest.approx([20, 40], abs=1e-4)
    assert psnr(wrong, truth) == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-4)
    frames = psnr_of_frames(wrong, truth, torch.stack([half(truth)[0], torch.zeros(8, 8, dtype=torch.bool)]))
    assert frames[0] == pytest.approx(20, abs=1e-4)
    assert math.isnan(frames[1])


def test_psnr_and_ssim_equal_those_of_scikit_image(pair):
    ours, truth = pair
    for one, true in zip(ours, truth, strict=True):
        assert psnr(one[None], true[None]) == pytest.approx(
            peak_signal_noise_ratio(true.double().numpy(), one.double().numpy(), data_range=1), abs=1e-6
        )
        expected, values = structural_similarity(
            true.double().numpy(),
            one.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
            full=True,
        )
        assert ssim(one[None], true[None]) == pytest.approx(expected, abs=1e-7)
        mask = half(true[None])
        inner = values[:, 5:-5, 5:-5].mean(axis=0)[mask[0, 5:-5, 5:-5].numpy()]
        assert ssim(one[None], true[None], mask) == pytest.approx(inner.mean(), abs=1e-7)
    assert ssim(*pair) == pytest.approx(np.mean([ssim(a[None], b[None]) for a, b in zip(*pair, strict=True)]))


def test_ssim_of_equal_and_of_constant_pictures():
    truth = random(1, 3, 16, 16)
    assert ssim(truth, truth) == pytest.approx(1)
    a, b = 0.2, 0.6
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b)) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="11 pixels"):
        ssim(truth[..., :8], truth[..., :8])


def test_ms_ssim_of_equal_and_of_constant_pictures():
    truth = random(1, 3, 176, 180)
    assert ms_ssim(truth, truth) == pytest.approx(1)
    a, b = 0.2, 0.6
    luminance = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    pictures = [torch.full((1, 1, 176, 176), value) for value in (a, b)]
    assert ms_ssim(*pictures) == pytest.approx(luminance**0.1333, abs=1e-6)
    with pytest.raises(InputError, match="176"):
        ms_ssim(truth[..., :170], truth[..., :170])


def test_ms_ssim_by_another_road():
    """Contrast times structure, with SciPy's filter, scale by scale."""
    from scipy.ndimage import gaussian_filter

    x, y = (random(1, 1, 192, 208, seed=seed)[0, 0].double().numpy() for seed in (0, 1))
    y = 0.7 * x + 0.3 * y
    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2] for v in (x, y))
            x, y = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2).mean(axis=(1, 3)) for v in (x, y))
        blur = lambda v: gaussian_filter(v, 1.5, truncate=3.5)[5:-5, 5:-5]  # noqa: E731
        mx, my = blur(x), blur(y)
        cs = (2 * (blur(x * y) - mx * my) + 9e-4) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + 9e-4)
        luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) if scale == 4 else 1.0
        expected *= np.mean(cs * luminance) ** weight
    x, y = (random(1, 1, 192, 208, seed=seed) for seed in (0, 1))
    assert ms_ssim(x, 0.7 * x + 0.3 * y) == pytest.approx(expected, abs=1e-6)


# Sharpness, seams, colours, texture


def test_gradient_energy_goes_with_the_square_of_contrast(pair):
    _, truth = pair
    mask = half(truth)
    assert gradient_energy_ratio(truth, truth, mask) == pytest.approx(1)
    assert gradient_energy_ratio(0.5 * truth + 0.2, truth, mask) == pytest.approx(0.25, abs=1e-6)
    assert gradient_energy_ratio(torch.full_like(truth, 0.3), truth, mask) == 0
    changed = truth.clone()
    changed[..., 32:] = random(2, 3, 48, 32)
    assert gradient_energy_ratio(changed, truth, mask) == pytest.approx(1)
    assert math.isnan(gradient_energy_ratio(truth, torch.zeros_like(truth), mask))


def test_only_the_border_makes_a_seam():
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 48, 64).clone()
    shifted = ramp.clone()
    shifted[..., :32] += 3 / 63
    mask = half(ramp)
    assert seam_gradient_ratio(ramp, ramp, mask) == pytest.approx(1)
    assert seam_gradient_ratio(shifted, ramp, mask) == pytest.approx((1 - 3) ** 2, rel=1e-3)
    assert gradient_energy_ratio(shifted, ramp, mask) == pytest.approx(1, rel=1e-4)


def test_colours_of_gaussians(pair):
    _, truth = pair
    mask = everywhere(truth)
    assert colour_distance(truth, truth, mask) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([0.1, -0.2, 0.2])[:, None, None]
    assert colour_distance(truth + shift, truth, mask) == pytest.approx(0.3, abs=1e-6)
    spread = float(truth.double().flatten(2).transpose(0, 1).flatten(1).var(dim=1, unbiased=False).sum().sqrt())
    middle = truth.mean(dim=(0, 2, 3))[:, None, None]
    assert colour_distance(middle + 0.5 * (truth - middle), truth, mask) == pytest.approx(0.5 * spread, abs=1e-5)
    assert math.isnan(colour_distance(truth, truth, ~mask))


def test_texture_knows_no_place_but_smoothing_noise_and_blocks():
    truth = random(1, 3, 64, 96)
    mask = everywhere(truth)
    smooth = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    noisy = truth + 0.5 * (random(1, 3, 64, 96, seed=1) - 0.5)
    blocks = torch.nn.functional.interpolate(truth[..., ::8, ::8], scale_factor=8)
    same = texture_distance(truth.roll((10, 23), (2, 3)), truth, mask)
    assert texture_distance(truth, truth, mask) == 0
    others = [texture_distance(each, truth, mask) for each in (smooth, noisy, blocks)]
    assert 2 * same < min(others)
    assert texture_distance(torch.full_like(truth, 0.5), truth, mask) > others[0]


def test_texture_outside_the_mask_does_not_count():
    truth = random(1, 3, 64, 96)
    changed = truth.clone()
    changed[..., 64:] = 0.5
    mask = half(truth)
    assert texture_distance(changed, truth, mask) == 0
    assert texture_distance(changed, truth, ~mask) > 0.01
    assert math.isnan(texture_distance(truth, truth, torch.zeros_like(mask)))
