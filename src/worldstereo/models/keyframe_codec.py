"""The interface of keyframe codecs: every frame to latents and back on its own, without temporal compression.

Keyframes are far apart in view, so a latent that mixes four neighbours would blur them; one latent per keyframe keeps
each sharp, and lets references and guidance be encoded once and used anywhere in a clip.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError


@runtime_checkable
class KeyframeCodec(Protocol):
    """Pictures to latents and back, frame by frame.

    The result of a frame does not depend on the other frames of the call, and is the same at every call. Neither
    method tracks gradients. Results have the dtype and the device of what was given, whatever the codec computes in.
    """

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along each side; the sides of the frames are multiples of it."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        ...

    def encode(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f c h8 w8"]:
        """RGB in [0, 1] to latents with about zero mean and unit variance in every channel.

        Raises:
            InputError: a side is not a multiple of `spatial_factor`.
        """
        ...

    def decode(self, latents: Float[Tensor, "f c h8 w8"]) -> Float[Tensor, "f 3 h w"]:
        """Latents of `encode`, or generated ones, to RGB in [0, 1]."""
        ...


def check_frame_size(frames: Float[Tensor, "f 3 h w"], spatial_factor: int) -> None:
    """Refuse frames that a codec cannot divide into whole latents.

    Raises:
        InputError: a side is not a multiple of `spatial_factor`.
    """
    height, width = frames.shape[2:]
    if height % spatial_factor or width % spatial_factor:
        raise InputError(
            f"frames of {width}×{height} pixels cannot be encoded: both sides must be multiples of {spatial_factor}"
        )
