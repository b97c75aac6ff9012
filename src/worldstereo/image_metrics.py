"""How near pictures are to the truth: PSNR, SSIM and MS-SSIM, over all pixels or over those of a mask."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n h w"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB of all pixels (of the mask) together: −10 log₁₀ of their mean square error.

    Infinite for equal pictures, NaN for an empty mask.

    Args:
        pictures, truth: values in [0, 1].
        mask: the pixels that count; all if none.
    """
    error = _square_error(pictures, truth)
    return _decibels(float((error if mask is None else error[mask]).mean()))


def psnr_of_frames(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n h w"] | None = None
) -> list[float]:
    """PSNR of each picture; see `psnr`. Without a mask their mean never lies below that of all pixels together."""
    masks = [None] * len(pictures) if mask is None else [each[None] for each in mask]
    return [psnr(one[None], true[None], each) for one, true, each in zip(pictures, truth, masks, strict=True)]


def ssim(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n h w"] | None = None
) -> float:
    """Structural similarity (Wang et al., 2004), mean over pictures, channels and pixels; 1 for equal pictures.

    Gaussian window of 11×11, σ 1.5, population covariances, L = 1; pixels whose window leaves the picture do not
    count. With a mask it is the mean over the pixels of the mask; their windows see what lies around it. NaN if none
    is left.

    Raises:
        InputError: a side is shorter than the window.
    """
    luminance, structure = _similarities(pictures, truth)
    values = luminance * structure
    if mask is None:
        return float(values.mean())
    margin = _WINDOW // 2
    inner = mask[:, margin : mask.shape[1] - margin, margin : mask.shape[2] - margin]
    return float(values.mean(dim=1)[inner].mean())


def ms_ssim(pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"]) -> float:
    """Multi-scale structural similarity (Wang et al., 2003, eq. 7), mean over pictures and channels.

    Five scales, each half of the one before (2×2 means), with the published weights. Negative means of a scale's
    contrast and structure count as 0.

    Raises:
        InputError: a side is shorter than 176 pixels, which the coarsest scale needs.
    """
    smallest = _WINDOW * 2 ** (len(_SCALE_WEIGHTS) - 1)
    if min(pictures.shape[-2:]) < smallest:
        raise InputError(
            f"MS-SSIM of pictures of {pictures.shape[-1]}×{pictures.shape[-2]}: its five scales need sides of at "
            f"least {smallest} pixels; use SSIM"
        )
    result = torch.ones(pictures.shape[:2], dtype=torch.float64, device=pictures.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            pictures, truth = F.avg_pool2d(pictures, 2), F.avg_pool2d(truth, 2)
        luminance, structure = _similarities(pictures, truth)
        coarsest = scale == len(_SCALE_WEIGHTS) - 1
        values = luminance * structure if coarsest else structure
        result = result * values.mean(dim=(2, 3)).clamp(min=0) ** weight
    return float(result.mean())


def _square_error(pictures: Tensor, truth: Tensor) -> Float[Tensor, "n h w"]:
    return (pictures.double() - truth.double()).square().mean(dim=1)


def _decibels(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _similarities(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"]
) -> tuple[Float[Tensor, "n c y x"], Float[Tensor, "n c y x"]]:
    """The luminance term, and contrast times structure, wherever the window lies inside."""
    if min(pictures.shape[-2:]) < _WINDOW:
        raise InputError(f"SSIM of pictures of {pictures.shape[-1]}×{pictures.shape[-2]}: sides must have 11 pixels")
    x, y = pictures.double(), truth.double()
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _windowed(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c y x"]:
    """Gaussian means."""
    offsets = torch.arange(_WINDOW, dtype=values.dtype, device=values.device) - _WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    taps = taps / taps.sum()
    single = values.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(single, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return blurred[:, 0].unflatten(0, values.shape[:2])
