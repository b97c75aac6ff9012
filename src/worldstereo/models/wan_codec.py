"""Wan 2.1's video autoencoder as a keyframe codec, for the published checkpoints.

The published pipelines encode a keyframe as a video of one frame, and they do so in a loop. Here frames share the
batch dimension. A causal convolution over the first frame of a video sees two frames of padding before it; leaving
them out saves most of the work and changes the result by rounding alone.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.models.keyframe_codec import check_frame_size
from worldstereo.models.pretrained import load_complete


class WanKeyframeCodec:
    """A `KeyframeCodec` around the diffusers class `AutoencoderKLWan`.

    Latents are the posterior's mode, normalised per channel by `latents_mean` and `latents_std` of the autoencoder's
    configuration, as in the published pipelines. Results have the dtype and the device of what was given.

    Args:
        vae: the autoencoder, used in place: its dtype and device are the codec's, and it may be moved. It is put into
            evaluation mode, and its causal convolutions skip padding in time.
        frames_per_batch: frames encoded or decoded at once, with the same result for any number. At 832×480 a frame
            takes about 3 GB beside the weights in float32 and half of that in bfloat16.
        tiled: work on overlapping tiles of 256 pixels and blend them, for pictures of which even one is too large. A
            tile sees nothing beyond its border, so the result is close, not equal; smaller pictures are one tile.

    Raises:
        InputError: `frames_per_batch` is below 1.
    """

    def __init__(self, vae: AutoencoderKLWan, frames_per_batch: int = 4, tiled: bool = False) -> None:
        if frames_per_batch < 1:
            raise InputError(f"frames_per_batch must be at least 1, not {frames_per_batch}")
        self.vae = vae.eval()
        self.frames_per_batch = frames_per_batch
        if tiled:
            vae.enable_tiling()
        else:
            vae.disable_tiling()
        for module in vae.modules():
            if isinstance(module, WanCausalConv3d):
                module.forward = partial(_causal_convolution, module)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        subfolder: str = "vae",
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        local_files_only: bool = False,
        frames_per_batch: int = 4,
        tiled: bool = False,
    ) -> "WanKeyframeCodec":
        """The codec of a folder or hub repository in the diffusers layout.

        Raises:
            InputError: the autoencoder is not there, lacks a tensor, or cannot be loaded.
        """
        try:
            vae = load_complete(
                AutoencoderKLWan,
                str(model),
                subfolder=subfolder,
                torch_dtype=dtype,
                local_files_only=local_files_only,
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{model}: the Wan autoencoder in its subfolder '{subfolder}' cannot be loaded "
                f"({type(error).__name__}); check the name, or download the model once while connected"
            ) from error
        return cls(vae.to(device), frames_per_batch, tiled)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along each side (8)."""
        return self.vae.config.scale_factor_spatial

    @property
    def latent_channels(self) -> int:
        """Channels of the latents (16)."""
        return self.vae.config.z_dim

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f c h8 w8"]:
        """RGB in [0, 1] to normalised latents, each frame as a video of its own.

        Raises:
            InputError: a side is not a multiple of `spatial_factor`.
        """
        check_frame_size(frames, self.spatial_factor)
        batches = frames.split(self.frames_per_batch)
        return torch.cat([self._encode_videos(batch[:, :, None])[:, :, 0] for batch in batches])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "f c h8 w8"]) -> Float[Tensor, "f 3 h w"]:
        """Normalised latents to RGB in [0, 1], each as a video of its own."""
        mean, std = self._normalisation()
        decoded = []
        for batch in latents.split(self.frames_per_batch):
            raw = batch[:, :, None].to(self.vae.device, torch.float32) * std + mean
            video = self.vae.decode(raw.to(self.vae.dtype)).sample
            decoded.append(((video[:, :, 0].float() + 1) / 2).clamp(0, 1).to(latents))
        return torch.cat(decoded)

    @torch.no_grad()
    def encode_video(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "t c h8 w8"]:
        """The ordinary encoding of a video of n = 4k + 1 frames, RGB in [0, 1], to k + 1 normalised latents.

        Latent 0 is that of frame 0 alone; each further one holds four frames and what came before them. The published
        condition mode `full_vae` wants it, for the photo followed by 80 mid-grey frames.

        Raises:
            InputError: n is not 4k + 1, or a side is not a multiple of `spatial_factor`.
        """
        check_frame_size(frames, self.spatial_factor)
        step = self.vae.config.scale_factor_temporal
        if len(frames) % step != 1:
            raise InputError(f"a video of {len(frames)} frames cannot be encoded: the count must be {step}·k + 1")
        return self._encode_videos(frames.transpose(0, 1)[None])[0].transpose(0, 1)

    def _encode_videos(self, videos: Float[Tensor, "b 3 n h w"]) -> Float[Tensor, "b c t h8 w8"]:
        mean, std = self._normalisation()
        posterior = self.vae.encode((videos * 2 - 1).to(self.vae.device, self.vae.dtype)).latent_dist
        return ((posterior.mode().float() - mean) / std).to(videos)

    def _normalisation(self) -> tuple[Float[Tensor, "c 1 1 1"], Float[Tensor, "c 1 1 1"]]:
        config, device = self.vae.config, self.vae.device
        mean, std = (torch.tensor(values, device=device) for values in (config.latents_mean, config.latents_std))
        return mean[:, None, None, None], std[:, None, None, None]


def _causal_convolution(
    conv: WanCausalConv3d, x: Float[Tensor, "b c n h w"], cache_x: Float[Tensor, "b c m h w"] | None = None
) -> Float[Tensor, "b c2 n2 h2 w2"]:
    """A causal convolution that does not multiply the zeros before the first frame of a video.

    Equal to the class's own: of a kernel over time, a lone first frame meets the last tap alone. The first four
    numbers of `_padding` are those in space.
    """
    if cache_x is not None or x.shape[2] > 1:
        return WanCausalConv3d.forward(conv, x, cache_x)
    return F.conv3d(F.pad(x, conv._padding[:4]), conv.weight[:, :, -1:], conv.bias, conv.stride)
