"""The seams at which diffusers' context parallelism shares tokens out among processes."""

from typing import Any

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
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
