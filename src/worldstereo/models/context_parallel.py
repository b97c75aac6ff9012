"""The seams at which diffusers' context parallelism shares tokens out among processes."""

from typing import Any

import torch
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.models.rotary import Rotary


class Shard(nn.Module):
    """Gives tokens and their rotary table back as they are: a place for a hook that keeps this process's share."""

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same."""
        return tokens, cos, sin

    def split(self, tokens: Tensor, rotary: Rotary) -> tuple[Tensor, Rotary]:
        """This process's share of tokens and positions: everything where there is one process."""
        tokens, cos, sin = self(tokens, *rotary)
        return tokens, (cos, sin)


SPLIT_TOKENS: dict[str | int, Any] = {
    0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True),
    1: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True),
    2: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True),
}
"""What a plan says of a `Shard`."""

GATHER_TOKENS = ContextParallelOutput(gather_dim=1, expected_dims=3)
"""What a plan says of the layer after which all tokens are wanted again."""


def gather_through(
    layer: nn.Module, tokens: Float[Tensor, "b n c"], count: int, parallel_config: Any
) -> Float[Tensor, "b m o"]:
    """`layer`, of which the plan says `GATHER_TOKENS`, applied to all `count` tokens; `tokens` is this process's share.

    Shares may differ by one token; the smaller ones are filled up, since gloo gathers only shares of one size.
    """
    config = None if parallel_config is None else parallel_config.context_parallel_config
    processes = 1 if config is None else config.ulysses_degree * config.ring_degree
    if not count % processes:
        return layer(tokens)
    largest = count // processes + 1
    gathered = layer(nn.functional.pad(tokens, (0, 0, 0, largest - tokens.shape[1])))
    shares = torch.arange(count).tensor_split(processes)
    parts = zip(gathered.split(largest, dim=1), shares, strict=True)
    return torch.cat([part[:, : len(share)] for part, share in parts], dim=1)
