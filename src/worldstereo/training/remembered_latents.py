"""Latents of frames that a run has encoded before.

Clips are drawn many times, and encoding a small clip costs half as much as the step of the network that learns from it.
"""

import hashlib
from collections import OrderedDict
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.models.keyframe_codec import KeyframeCodec

_MOST_BYTES = 512 * 2**20


class RememberingCodec:
    """A codec on the CPU whose `encode` computes each frame once, as long as its latent is remembered.

    Frames are recognised by a hash of their bytes; the least recently used latents are forgotten first. Same results
    as the codec's, whose frames do not depend on each other. Several threads may call it.
    """

    def __init__(self, codec: KeyframeCodec, most_bytes: int = _MOST_BYTES) -> None:
        """
        Args:
            most_bytes: of all latents that are remembered.
        """
        self._codec = codec
        self._most_bytes = most_bytes
        self._latents: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def spatial_factor(self) -> int:
        """The codec's."""
        return self._codec.spatial_factor

    @property
    def latent_channels(self) -> int:
        """The codec's."""
        return self._codec.latent_channels

    def encode(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f c h8 w8"]:
        """See `KeyframeCodec.encode`."""
        keys = [_key(frame) for frame in frames]
        with self._lock:
            found = {key: self._latents[key] for key in keys if key in self._latents}
        if missing := {key: index for index, key in enumerate(keys) if key not in found}:
            made = self._codec.encode(frames[list(missing.values())])
            found |= {key: latent.clone() for key, latent in zip(missing, made, strict=True)}
        with self._lock:
            for key in dict.fromkeys(keys):
                self._remember(key, found[key])
        return torch.stack([found[key] for key in keys])

    def decode(self, latents: Float[Tensor, "f c h8 w8"]) -> Float[Tensor, "f 3 h w"]:
        """The codec's."""
        return self._codec.decode(latents)

    def _remember(self, key: bytes, latent: Tensor) -> None:
        if key not in self._latents:
            self._latents[key] = latent
            self._bytes += latent.nbytes
        self._latents.move_to_end(key)
        while self._bytes > self._most_bytes:
            self._bytes -= self._latents.popitem(last=False)[1].nbytes


def _key(frame: Float[Tensor, "3 h w"]) -> bytes:
    header = f"{frame.dtype} {tuple(frame.shape)}".encode()
    return hashlib.blake2b(frame.contiguous().numpy().data, digest_size=16, key=header[:64]).digest()
