"""From pictures to tokens and back."""

from typing import TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Conv3d):
    """A convolution whose stride is its kernel: one token a patch, frame by frame and row by row.

    It is linear in its channels, so parts that do not change from step to step can be embedded once and added.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size=patch, stride=patch)

    def forward(  # type: ignore[override]
        self, video: Float[Tensor, "b c f h w"], first_channel: int = 0, bias: bool = True
    ) -> Float[Tensor, "b n d"]:
        """Tokens of `video`, whose channels are `first_channel` and those after it."""
        b, channels, f, h, w = video.shape
        pf, ph, pw = self.kernel_size
        video = video.to(self.weight.dtype).reshape(b, channels, f // pf, pf, h // ph, ph, w // pw, pw)
        patches = video.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        weight = self.weight[:, first_channel : first_channel + channels].flatten(1)
        return F.linear(patches, weight, self.bias if bias else None)


Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """The layer with all its parameters 0: what a new branch ends in, so that at first it changes nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def unpatchify(
    tokens: Float[Tensor, "b n d"], grid: tuple[int, int, int], patch: tuple[int, int, int]
) -> Float[Tensor, "b c f h w"]:
    """Pictures of tokens that hold (frame, row, column, channel) of their patch, the channel last."""
    f, h, w = grid
    pf, ph, pw = patch
    video = tokens.reshape(len(tokens), f, h, w, pf, ph, pw, -1)
    return video.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(tokens), -1, f * pf, h * ph, w * pw)
