"""Whether made-up content looks like the truth's, where it need not be the truth: sharpness, colours, texture, seams.

Nothing here is trained. All figures compare pictures with the truth inside the same mask.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_LEVELS = 3
_PATCH = 5
_PATCHES = 4096
_FEWEST_PATCHES = 64
_DIRECTIONS = 64


def gradient_energy_ratio(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n h w"]
) -> float:
    """Energy of the differences between neighbouring pixels of the mask, relative to the truth's.

    1 = as sharp as the truth, 0 = flat, far above 1 = noise; contrast times k gives k². NaN where the truth is flat.
    """
    return _energy_ratio(pictures, truth, mask[..., :, 1:] & mask[..., :, :-1], mask[..., 1:, :] & mask[..., :-1, :])


def seam_gradient_ratio(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n h w"]
) -> float:
    """The same of neighbours of which one lies in the mask and the other does not: above 1, a border is visible."""
    return _energy_ratio(pictures, truth, mask[..., :, 1:] ^ mask[..., :, :-1], mask[..., 1:, :] ^ mask[..., :-1, :])


def colour_distance(
    pictures: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"], mask: Bool[Tensor, "n h w"]
) -> float:
    """Distance between the colours in the mask by their means and covariances, in units of the colours.

    The 2-Wasserstein distance of two Gaussians (Dowson and Landau, 1982): |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½),
    square root. NaN for fewer than two pixels.
    """
    if int(mask.sum()) < 2:
        return math.nan
    (mean, covariance), (true_mean, true_covariance) = (
        _moments(each.double().permute(0, 2, 3, 1)[mask]) for each in (pictures, truth)
    )
    shared = torch.linalg.eigvals(covariance @ true_covariance).real.clamp(min=0).sqrt().sum()
    square = (mean - true_mean).square().sum() + torch.trace(covariance + true_covariance) - 2 * shared
    return float(square.clamp(min=0).sqrt())


def texture_distance(
    pictures: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"], mask: Bool[Tensor, "n h w"], seed: int = 0
) -> float:
    """Distance between the texture in the mask and the truth's there, wherever in the mask it is; 0 for equal ones.

    Sliced 1-Wasserstein distance between patches of 5×5 pixels of Laplacian pyramids of three levels, mean over 64
    directions and the levels, as Karras et al. (2018, §5) compare images. A shifted texture is the same texture; a
    smoothed, noisier or blockier one is not. Levels with fewer than 64 patches inside the mask are left out; NaN if
    all are.

    Args:
        seed: of the directions and of the choice of at most 4,096 patches a level.
    """
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(3 * _PATCH**2, _DIRECTIONS, generator=random, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(pictures.device)
    distances = []
    fine, true_fine = pictures.double(), truth.double()
    for _ in range(_LEVELS):
        if min(fine.shape[-2:]) < 2 * _PATCH:
            break
        (coarse, band), (true_coarse, true_band) = _split(fine), _split(true_fine)
        inside = -F.max_pool2d(-mask[:, None].double(), _PATCH, 1)[:, 0] > 0.5
        corners = inside.nonzero()
        if len(corners) >= _FEWEST_PATCHES:
            chosen = torch.randperm(len(corners), generator=random)[:_PATCHES].to(corners.device)
            ours, theirs = (_patches(each, corners[chosen]) @ directions for each in (band, true_band))
            distances.append(float((ours.sort(dim=0).values - theirs.sort(dim=0).values).abs().mean()))
        fine, true_fine = coarse, true_coarse
        mask = -F.max_pool2d(-mask[:, None].double(), 2)[:, 0] > 0.5
    return sum(distances) / len(distances) if distances else math.nan


def _energy_ratio(pictures: Tensor, truth: Tensor, across: Bool[Tensor, "n h v"], down: Bool[Tensor, "n u w"]) -> float:
    energies = []
    for each in (pictures.double(), truth.double()):
        right = (each[..., :, 1:] - each[..., :, :-1]).square().sum(dim=1)[across].sum()
        below = (each[..., 1:, :] - each[..., :-1, :]).square().sum(dim=1)[down].sum()
        energies.append(float(right + below))
    return energies[0] / energies[1] if energies[1] > 0 else math.nan


def _moments(values: Float[Tensor, "p 3"]) -> tuple[Float[Tensor, "3"], Float[Tensor, "3 3"]]:
    mean = values.mean(dim=0)
    return mean, (values - mean).T @ (values - mean) / len(values)


def _split(fine: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 y x"], Float[Tensor, "n 3 h w"]]:
    """A pyramid's next level, and what is lost by it."""
    coarse = F.avg_pool2d(fine, 2)
    return coarse, fine - F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)


def _patches(pictures: Float[Tensor, "n 3 h w"], corners: Tensor) -> Float[Tensor, "p d"]:
    """Patches with these upper left corners (picture, row, column), as vectors."""
    steps = torch.arange(_PATCH, device=pictures.device)
    rows = corners[:, 1, None, None] + steps[:, None]
    columns = corners[:, 2, None, None] + steps[None, :]
    return pictures.permute(0, 2, 3, 1)[corners[:, 0, None, None], rows, columns].flatten(1)
