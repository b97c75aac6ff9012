"""Losses of nano depth: per sample, on the pixels whose depth is known."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_GRADIENT_STRIDES = (1, 2, 4, 8, 16)
_RESIDUAL_LIMIT = 2.0


def depth_loss(
    log_depth: Float[Tensor, "n h w"],
    sky_logit: Float[Tensor, "n h w"],
    depth: Float[Tensor, "n h w"],
    sky: Bool[Tensor, "n h w"],
    hinted: Bool[Tensor, " n"],
) -> dict[str, Float[Tensor, ""]]:
    """The terms and their weighted sum `total`.

    * `scale`: |log-depth error|, after removing its median where the sample has no hint (scale-invariant);
    * `gradient`: |difference of the log-depth error between pixels 1 to 16 apart|, which asks for sharp edges at
      the small distances and straight surfaces at the large ones;
    * `sky`: binary cross-entropy where sky or a surface is known.
    """
    known = depth > 0
    target = torch.where(known, depth, 1.0).log()
    residual = torch.where(known, log_depth - target, 0.0)
    shift = torch.where(hinted, torch.zeros_like(residual[:, 0, 0]), _masked_median(residual, known).detach())
    aligned = (residual - shift[:, None, None]).clamp(-_RESIDUAL_LIMIT, _RESIDUAL_LIMIT)
    terms = {
        "scale": _mean(aligned.abs(), known),
        "gradient": _gradient(residual, known),
        "sky": _sky(sky_logit, sky, known),
    }
    total = terms["scale"] + 2.0 * terms["gradient"] + 0.2 * terms["sky"]
    return {**terms, "total": total}


def _gradient(residual: Float[Tensor, "n h w"], known: Bool[Tensor, "n h w"]) -> Float[Tensor, ""]:
    total = residual.new_zeros(())
    for stride in _GRADIENT_STRIDES:
        step = max(stride // 2, 1)
        r, k = residual[:, ::step, ::step], known[:, ::step, ::step]
        gap = stride // step
        horizontal, vertical = r[:, :, gap:] - r[:, :, :-gap], r[:, gap:] - r[:, :-gap]
        total = total + _mean(horizontal.abs().clamp(max=1.0), k[:, :, gap:] & k[:, :, :-gap])
        total = total + _mean(vertical.abs().clamp(max=1.0), k[:, gap:] & k[:, :-gap])
    return total / (2 * len(_GRADIENT_STRIDES))


def _sky(logit: Float[Tensor, "n h w"], sky: Bool[Tensor, "n h w"], known: Bool[Tensor, "n h w"]) -> Float[Tensor, ""]:
    error = F.binary_cross_entropy_with_logits(logit, sky.to(logit.dtype), reduction="none")
    return _mean(error, known | sky)


def _mean(values: Float[Tensor, "n h w"], mask: Bool[Tensor, "n h w"]) -> Float[Tensor, ""]:
    """Mean over the batch of the mean over each sample's mask; samples with an empty mask count as 0."""
    weight = mask.to(values.dtype)
    return ((values * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)).mean()


def _masked_median(values: Float[Tensor, "n h w"], mask: Bool[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """Lower median over the mask, 0 where the mask is empty."""
    flat = torch.where(mask, values, torch.nan).flatten(1)
    return torch.nan_to_num(flat.nanmedian(dim=1).values)
