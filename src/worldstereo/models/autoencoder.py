"""The nano keyframe autoencoder: a small 2D convolutional network, made to be fast on a CPU.

Pixels are rearranged into channels first, so that no convolution runs at the full resolution, and most of the work
is done by dense 3×3 convolutions at 1/4 and 1/8 of it. Borders are replicated and every position is normalised over
its channels alone: what the network makes of a region depends neither on the size of the picture nor on the distance
of its border, beyond the reach of the convolutions.
"""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.models.keyframe_codec import check_frame_size

_FRAMES_AT_ONCE = {"cpu": 4}
"""So few fit a CPU's caches better: 21 frames of 256×144 take a third less time than all at once."""

_FRAMES_AT_ONCE_ELSEWHERE = 64

_SMALLEST_STD = 1e-4
"""A channel that never changes is divided by this rather than by 0."""


class KeyframeAutoencoder(ModelMixin, ConfigMixin):
    """Frames to latents at 1/8 of the size and back; a `KeyframeCodec`.

    The encoder is deterministic. `encode` and `decode` use normalised latents; `encode_raw` and `decode_raw` are the
    bare networks with gradients, for training, after which `fit_normalisation` sets the normalisation once.

    Args:
        in_channels: channels of a picture.
        latent_channels: channels of the latents.
        encoder_channels: channels at 1/2, 1/4, 1/8, ... of the resolution; their number sets `spatial_factor`.
        encoder_blocks: residual blocks at each of them.
        decoder_channels: the same for the decoder, in the same order (finest first).
        decoder_blocks: residual blocks at each of them.

    Raises:
        InputError: the four lists have different lengths.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        encoder_channels: Sequence[int] = (64, 96, 160),
        encoder_blocks: Sequence[int] = (1, 1, 2),
        decoder_channels: Sequence[int] = (64, 128, 160),
        decoder_blocks: Sequence[int] = (2, 2, 2),
    ) -> None:
        super().__init__()
        levels = len(encoder_channels)
        if not levels or {len(encoder_blocks), len(decoder_channels), len(decoder_blocks)} != {levels}:
            raise InputError("an autoencoder needs as many channels as block counts, and as many up as down")
        encoder: list[nn.Module] = []
        for level, (channels, blocks) in enumerate(zip(encoder_channels, encoder_blocks, strict=True)):
            below = encoder_channels[level - 1] if level else in_channels
            encoder += [
                nn.PixelUnshuffle(2),
                nn.Conv2d(4 * below, channels, 1) if level else _conv(4 * below, channels),
            ]
            encoder += [ResidualBlock(channels) for _ in range(blocks)]
        self.encoder = nn.Sequential(*encoder, _conv(channels, latent_channels))

        decoder: list[nn.Module] = [_conv(latent_channels, decoder_channels[-1])]
        for level in reversed(range(levels)):
            channels = decoder_channels[level]
            decoder += [ResidualBlock(channels) for _ in range(decoder_blocks[level])]
            if level:
                decoder += [nn.Conv2d(channels, 4 * decoder_channels[level - 1], 1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(
            *decoder, ChannelNorm(channels), nn.SiLU(), _conv(channels, 4 * in_channels), nn.PixelShuffle(2)
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** len(self.config.encoder_channels)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.latent_channels

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f c h8 w8"]:
        """RGB in [0, 1] to normalised latents, in the dtype and on the device of `frames`.

        Raises:
            InputError: a side is not a multiple of `spatial_factor`.
        """
        mean, std = self._normalisation()
        batches = frames.to(self.device, self.dtype).split(self._at_once)
        return torch.cat([(self.encode_raw(batch).float() - mean) / std for batch in batches]).to(frames)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "f c h8 w8"]) -> Float[Tensor, "f 3 h w"]:
        """Normalised latents to RGB in [0, 1], in the dtype and on the device of `latents`."""
        mean, std = self._normalisation()
        raw = (latents.to(self.device, torch.float32) * std + mean).to(self.dtype)
        return torch.cat([self.decode_raw(batch).clamp(0, 1) for batch in raw.split(self._at_once)]).to(latents)

    def encode_raw(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f c h8 w8"]:
        """RGB in [0, 1] to latents before normalisation, in the network's dtype, with gradients.

        Raises:
            InputError: a side is not a multiple of `spatial_factor`.
        """
        check_frame_size(frames, self.spatial_factor)
        return self.encoder(_channels_last(frames * 2 - 1))

    def decode_raw(self, latents: Float[Tensor, "f c h8 w8"]) -> Float[Tensor, "f 3 h w"]:
        """Latents before normalisation to RGB in [0, 1], not clamped, in the network's dtype, with gradients."""
        return (self.decoder(_channels_last(latents)) + 1) / 2

    def forward(self, frames: Float[Tensor, "f 3 h w"]) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "f c h8 w8"]]:
        """The training pass: `decode_raw(encode_raw(frames))`, and the latents between."""
        latents = self.encode_raw(frames)
        return self.decode_raw(latents), latents

    @torch.no_grad()
    def fit_normalisation(self, latents: Float[Tensor, "f c h8 w8"]) -> None:
        """Set mean and standard deviation of every channel from latents of `encode_raw`, over frames and positions.

        They are buffers of the state dict. The networks themselves stay as they are.
        """
        std, mean = torch.std_mean(latents.float(), dim=(0, 2, 3))
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp(min=_SMALLEST_STD))

    @property
    def _at_once(self) -> int:
        return _FRAMES_AT_ONCE.get(self.device.type, _FRAMES_AT_ONCE_ELSEWHERE)

    def _normalisation(self) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
        return self.latent_mean.float()[:, None, None], self.latent_std.float()[:, None, None]


class ResidualBlock(nn.Module):
    """Normalisation and two 3×3 convolutions with SiLU between, added to the input; the last weights begin as 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = _conv(channels, channels)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(ChannelNorm(channels), _conv(channels, channels), nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
        """The block at the same shape."""
        return x + self.body(x)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position."""

    def forward(self, x: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
        """The normalised features; no copy where they are `channels_last`."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")


def _channels_last(x: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c h w"]:
    return x.contiguous(memory_format=torch.channels_last)
