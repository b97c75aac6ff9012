"""The block of which the branches are made: self-attention and feed-forward, modulated by time; no text."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.models.attention import Attention, SplitAttentionCore
from worldstereo.models.rotary import Rotary


class AdaptiveNorm(nn.Module):
    """Layer normalisation whose scale and shift, and a gate for what follows, come from the time embedding."""

    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(time_channels, 3 * channels)
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, tokens: Float[Tensor, "b n d"], embedding: Float[Tensor, "b e"]) -> tuple[Tensor, Tensor]:
        """Normalised tokens and the gate."""
        shift, scale, gate = self.linear(nn.functional.silu(embedding).to(self.linear.weight.dtype)).chunk(3, dim=-1)
        return torch.addcmul(shift[:, None], self.norm(tokens), 1 + scale[:, None]), gate[:, None]


class ModulatedBlock(nn.Module):
    """One block of a branch. Source: Uni3C, in the manner of CogVideoX."""

    def __init__(self, channels: int, feed_forward_channels: int, heads: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(channels, time_channels)
        self.self_attn = Attention(channels, heads, 1e-6, SplitAttentionCore())
        self.norm2 = AdaptiveNorm(channels, time_channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, feed_forward_channels),
            nn.GELU(approximate="tanh"),
            nn.Linear(feed_forward_channels, channels),
        )

    def forward(
        self, tokens: Float[Tensor, "b n d"], embedding: Float[Tensor, "b e"], rotary: Rotary
    ) -> Float[Tensor, "b n d"]:
        """The tokens after the block."""
        normed, gate = self.norm1(tokens, embedding)
        tokens = torch.addcmul(tokens, self.self_attn(normed, rotary), gate)
        normed, gate = self.norm2(tokens, embedding)
        return torch.addcmul(tokens, self.ffn(normed), gate)
