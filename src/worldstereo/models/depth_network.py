"""The nano depth network: one picture, and optionally a partial depth, to log-depth and sky.

A plain convolutional encoder-decoder with a few attention blocks at 1/32 of the resolution. Most of the work is
done by dense convolutions at 1/4 resolution and below (the fast path of a CPU in `channels_last`); half-resolution
features and a pixel-shuffle head keep depth edges sharp. A hint enters twice: filled from its surroundings, so that
the network predicts only what is left over, and as the raw samples with their mask.
"""

from dataclasses import asdict, dataclass
from math import radians, tan

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldstereo.errors import InputError

STRIDE = 32
"""The sides of the network's input are multiples of this."""

ASSUMED_FOV_DEGREES = 60.0
"""Field of view over the longer side that the network is told when the camera is unknown."""

_INPUT_CHANNELS = 8
"""RGB, ray x, ray y, filled hint, raw hint, hint mask."""

_LOG_DEPTH_LIMIT = 8.0
_WIDEST, _MOST_BLOCKS = 2048, 64


@dataclass(frozen=True)
class DepthNetworkConfig:
    """Size of the network.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution; multiples of 8.
        blocks: residual blocks at each of them.
        attention_blocks: attention blocks at 1/32.
        decoder_widths: channels at 1/16, 1/8, 1/4 and 1/2 on the way up.
    """

    widths: tuple[int, ...] = (32, 64, 128, 192, 256)
    blocks: tuple[int, ...] = (0, 1, 2, 2, 1)
    attention_blocks: int = 2
    decoder_widths: tuple[int, ...] = (128, 96, 64, 32)

    def __post_init__(self) -> None:
        if len(self.widths) != 5 or len(self.blocks) != 5 or len(self.decoder_widths) != 4:
            raise InputError("a depth network has 5 widths, 5 block counts and 4 decoder widths")
        if any(width < 8 or width % 8 for width in (*self.widths, *self.decoder_widths)):
            raise InputError("the widths of a depth network must be positive multiples of 8")
        if max(*self.widths, *self.decoder_widths) > _WIDEST or max(*self.blocks, self.attention_blocks) > _MOST_BLOCKS:
            raise InputError(f"a depth network has at most {_WIDEST} channels and {_MOST_BLOCKS} blocks at a place")

    @classmethod
    def from_dict(cls, values: dict) -> "DepthNetworkConfig":
        """The configuration of a `config.json`."""
        return cls(
            widths=tuple(values["widths"]),
            blocks=tuple(values["blocks"]),
            attention_blocks=int(values["attention_blocks"]),
            decoder_widths=tuple(values["decoder_widths"]),
        )

    def to_dict(self) -> dict:
        """Plain values for `config.json`."""
        return asdict(self)


class DepthNetwork(nn.Module):
    """Picture, rays and hint to log-depth and a sky logit."""

    def __init__(self, config: DepthNetworkConfig | None = None) -> None:
        super().__init__()
        config = config or DepthNetworkConfig()
        self.config = config
        widths, up = config.widths, config.decoder_widths
        self.stem = nn.Sequential(nn.Conv2d(4 * _INPUT_CHANNELS, widths[0], 3, padding=1), _norm(widths[0]), nn.SiLU())
        self.stages = nn.ModuleList()
        for level in range(5):
            layers: list[nn.Module] = []
            if level:
                kernel = 3 if level == 1 else 1
                layers.append(nn.Conv2d(4 * widths[level - 1], widths[level], kernel, padding=kernel // 2))
                layers.append(_norm(widths[level]))
            layers += [ResidualBlock(widths[level]) for _ in range(config.blocks[level])]
            self.stages.append(nn.Sequential(*layers))
        self.attention = nn.Sequential(*[AttentionBlock(widths[4]) for _ in range(config.attention_blocks)])
        inputs = (widths[4], *up[:3])
        self.lateral = nn.ModuleList(nn.Conv2d(widths[3 - i], up[i], 1) for i in range(4))
        self.project = nn.ModuleList(nn.Conv2d(inputs[i], up[i], 1) for i in range(4))
        self.refine = nn.ModuleList(nn.Sequential(_norm(up[i]), ResidualBlock(up[i])) for i in range(4))
        self.head = nn.Sequential(_norm(up[3]), nn.SiLU(), nn.Conv2d(up[3], 8, 3, padding=1))
        for name, parameter in self.named_parameters():
            if name.endswith(("body.5.weight", "out.weight", "mlp.2.weight")):
                nn.init.zeros_(parameter)  # residual branches begin as zero

    def forward(
        self,
        image: Float[Tensor, "n 3 h w"],
        rays: Float[Tensor, "n 2 h w"],
        hint: Float[Tensor, "n h w"],
    ) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
        """Log-depth and sky logit at the input's size, whose sides are multiples of 32.

        `image` is RGB in [0, 1]; `rays` are the x and y of the pixel rays at z = 1; `hint` is a partial z-depth
        (0 = unknown). The log-depth has the hint's scale: over the hinted pixels its mean is the hint's. Without a
        hint its mean is 0.

        Raises:
            InputError: a side is not a multiple of 32.
        """
        if image.shape[2] % STRIDE or image.shape[3] % STRIDE:
            raise InputError(f"the depth network needs multiples of {STRIDE} as sides, not {tuple(image.shape[2:])}")
        known = hint > 0
        log_hint, offset = normalized_log_hint(hint, known)
        mask = known.to(image.dtype)
        filled = fill_unknown(log_hint, known)
        inputs = torch.cat([(image - 0.5) * 4, rays, torch.stack([filled, log_hint, mask], dim=1)], dim=1)
        features = F.pixel_unshuffle(inputs, 2).contiguous(memory_format=torch.channels_last)
        x = self.stem(features)
        skips = []
        for level, stage in enumerate(self.stages):
            x = stage(F.pixel_unshuffle(x, 2) if level else x)
            skips.append(x)
        x = self.attention(x)
        for i in range(4):
            x = F.interpolate(self.project[i](x), scale_factor=2, mode="bilinear", align_corners=False)
            x = self.refine[i](x + self.lateral[i](skips[3 - i]))
        with torch.autocast(x.device.type, enabled=False):  # what bfloat16 can tell apart is coarser than depth edges
            residual, sky = F.pixel_shuffle(self.head(x.float()), 2).unbind(dim=1)
        anchor = torch.where(known.any(dim=2).any(dim=1)[:, None, None], mask, 1.0)
        residual = residual - (residual * anchor).sum(dim=(1, 2), keepdim=True) / anchor.sum(dim=(1, 2), keepdim=True)
        log_depth = (filled + residual).clamp(-_LOG_DEPTH_LIMIT, _LOG_DEPTH_LIMIT) + offset[:, None, None]
        return log_depth, sky


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with group normalisation before each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            _norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.body(x)


class AttentionBlock(nn.Module):
    """Self-attention over all positions, then a two-layer perceptron; the rays in the features tell the position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 64, 1)
        self.norm_1, self.norm_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm_1(tokens)).unflatten(2, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(attended)
        tokens = tokens + self.mlp(self.norm_2(tokens))
        return tokens.transpose(1, 2).reshape(n, c, h, w).contiguous(memory_format=torch.channels_last)


def normalized_log_hint(
    hint: Float[Tensor, "n h w"], known: Bool[Tensor, "n h w"]
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, " n"]]:
    """Logarithm of the hint minus its mean over the known pixels (0 elsewhere), and that mean (0 without a hint)."""
    logarithm = torch.where(known, hint, 1.0).log()
    offset = logarithm.sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)
    return torch.where(known, logarithm - offset[:, None, None], 0.0), offset


def fill_unknown(values: Float[Tensor, "n h w"], known: Bool[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Fill unknown pixels by the mean of the known ones in the smallest cell, of doubling sizes, that has any.

    Known pixels stay; where a picture has none at all the result is 0. O(pixels). Part of the network's definition:
    its weights are trained with it.
    """
    height, width = values.shape[1:]
    value, weight = (values * known)[:, None], known[:, None].to(values.dtype)
    pyramid = [(value, weight)]
    while max(value.shape[2:]) > 1:
        odd = (0, value.shape[3] % 2, 0, value.shape[2] % 2)
        value, weight = F.avg_pool2d(F.pad(value, odd), 2), F.avg_pool2d(F.pad(weight, odd), 2)
        pyramid.append((value, weight))
    filled = torch.zeros_like(value)
    for value, weight in reversed(pyramid):
        if filled.shape != value.shape:
            filled = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)
            filled = filled[:, :, : value.shape[2], : value.shape[3]]
        filled = torch.where(weight > 0, value / weight.clamp(min=1e-12), filled)
    return filled[:, 0, :height, :width]


def assumed_rays(width: int, height: int) -> Float[Tensor, "2 h w"]:
    """Pixel rays that the network is given when the camera is unknown: centred, 60° over the longer side."""
    focal = max(width, height) / (2 * tan(radians(ASSUMED_FOV_DEGREES) / 2))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([(x - width / 2) / focal, (y - height / 2) / focal])


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 8, channels)
