"""What a render of splats is asked for: likeness to the frame, depth, normals, and splats of a sane shape."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def picture_loss(
    rgb: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"], weight: Float[Tensor, "h w"], ssim_share: float
) -> Float[Tensor, ""]:
    """(1 - share) · L1 + share · (1 - SSIM), means weighted per pixel."""
    l1 = ((rgb - truth).abs().mean(dim=0) * weight).mean()
    if ssim_share == 0 or min(rgb.shape[1:]) < _WINDOW:
        return l1
    margin = _WINDOW // 2
    inner = weight[margin : weight.shape[0] - margin, margin : weight.shape[1] - margin]
    unlike = ((1 - ssim_map(rgb, truth).mean(dim=0)) * inner).mean()
    return (1 - ssim_share) * l1 + ssim_share * unlike


def ssim_map(rgb: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 y x"]:
    """Structural similarity (Wang et al., 2004) where the window of 11×11, σ 1.5, lies inside; cheap in float32.

    Pictures are taken relative to mid-grey, so that variances lose little to rounding.
    """
    x, y = rgb - 0.5, truth - 0.5
    with torch.no_grad():
        mean_y, square_y = _windowed(torch.cat([y, y * y])).chunk(2)
    mean_x, square_x, product = _windowed(torch.cat([x, x * x, x * y])).chunk(3)
    variances = square_x - mean_x * mean_x + square_y - mean_y * mean_y
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return luminance * (2 * covariance + _C2) / (variances + _C2)


def depth_loss(
    depth_sum: Float[Tensor, "h w"],
    surface: Float[Tensor, "h w"],
    truth: Float[Tensor, "h w"],
    weight: Float[Tensor, "h w"],
) -> Float[Tensor, ""]:
    """Mean relative error of the expected depth, each pixel's at most 0.1, where the truth is known (> 0).

    Args:
        depth_sum: Σ wᵢ zᵢ over the surface splats.
        surface: Σ wᵢ over them.
    """
    counts = (truth > 0) & (surface.detach() > 0.5)
    expected = depth_sum / surface.clamp(min=0.5)
    relative = (expected / truth.clamp(min=1e-12) - 1).abs().clamp(max=_MOST_DEPTH_ERROR)
    return torch.where(counts, relative * weight, 0.0).mean()


_MOST_DEPTH_ERROR = 0.1


def normal_loss(
    normals: Float[Tensor, "3 h w"], truth: Float[Tensor, "h w 3"], weight: Float[Tensor, "h w"]
) -> Float[Tensor, ""]:
    """Mean of 1 - n · n' where the truth is known (not 0); `normals` are weighted sums of the splats'."""
    known = truth.square().sum(dim=2) > 0.5
    unlike = 1 - (normals.permute(1, 2, 0) * truth).sum(dim=2)
    return torch.where(known, unlike * weight, 0.0).mean()


def shape_loss(log_scales: Float[Tensor, "n 3"], most_ratio: float) -> Float[Tensor, ""]:
    """Mean excess of a splat's longest over its shortest axis beyond a ratio, in logarithms.

    In the spirit of Xie et al. (PhysGaussian, CVPR 2024, eq. 21), there of the ratio itself.
    """
    ratio = log_scales.amax(dim=1) - log_scales.amin(dim=1)
    return F.relu(ratio - torch.tensor(most_ratio).log()).mean()


def _windowed(values: Float[Tensor, "c h w"]) -> Float[Tensor, "c y x"]:
    """Gaussian means."""
    channels = len(values)
    offsets = torch.arange(_WINDOW, dtype=values.dtype, device=values.device) - _WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    taps = (taps / taps.sum()).expand(channels, 1, _WINDOW)
    rows = F.conv2d(values[None], taps[:, :, None], groups=channels)
    return F.conv2d(rows, taps[..., None], groups=channels)[0]
