"""Attention shared by the networks: projections in the published layout, any back-end of diffusers at the core."""

from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.models.rotary import Rotary, apply_rotary

KeysValues = tuple[Float[Tensor, "_ _ heads c"], Float[Tensor, "_ _ heads c"]]


class AttentionCore:
    """softmax(q·k)·v through diffusers, which sets the back-end here (`model.set_attention_backend`)."""

    _attention_backend: Any = None

    def __call__(
        self,
        query: Float[Tensor, "b n heads c"],
        key: Float[Tensor, "b m heads c"],
        value: Float[Tensor, "b m heads c"],
    ) -> Float[Tensor, "b n heads*c"]:
        """All heads of all queries, side by side."""
        return dispatch_attention_fn(query, key, value, backend=self._attention_backend).flatten(2)


class SplitAttentionCore(AttentionCore):
    """The same over tokens that may be shared out among processes: diffusers sets how (`enable_parallelism`)."""

    _parallel_config: Any = None

    def __call__(
        self,
        query: Float[Tensor, "b n heads c"],
        key: Float[Tensor, "b m heads c"],
        value: Float[Tensor, "b m heads c"],
    ) -> Float[Tensor, "b n heads*c"]:
        """All heads of all queries, side by side; with heads of zeros where they do not divide among the processes."""
        config, heads = self._parallel_config, query.shape[2]
        if config is not None and (missing := -heads % config.context_parallel_config.ulysses_degree):
            query, key, value = (nn.functional.pad(x, (0, 0, 0, missing)) for x in (query, key, value))
        gathered = dispatch_attention_fn(query, key, value, backend=self._attention_backend, parallel_config=config)
        return gathered[:, :, :heads].flatten(2)


class Attention(nn.Module, AttentionModuleMixin):
    """Projections of multi-head attention; queries and keys are RMS-normalised over all heads together.

    Args:
        channels: of the tokens; a multiple of `heads`.
        eps: of the normalisation.
        core: `SplitAttentionCore()` where the tokens attended to may live in several processes.
    """

    def __init__(self, channels: int, heads: int, eps: float, core: AttentionCore) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared among {heads} heads")
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.norm_q = nn.RMSNorm(channels, eps=eps)
        self.norm_k = nn.RMSNorm(channels, eps=eps)
        self.processor = core

    def query(self, tokens: Float[Tensor, "b n d"], rotary: Rotary | None = None) -> Float[Tensor, "b n heads c"]:
        """Queries, turned by their positions if there are any."""
        query = self.norm_q(self.to_q(tokens)).unflatten(-1, (self.heads, -1))
        return query if rotary is None else apply_rotary(query, rotary)

    def keys_values(self, tokens: Float[Tensor, "b n d"], rotary: Rotary | None = None) -> KeysValues:
        """Keys, turned by their positions if there are any, and values."""
        key = self.norm_k(self.to_k(tokens)).unflatten(-1, (self.heads, -1))
        value = self.to_v(tokens).unflatten(-1, (self.heads, -1))
        return (key if rotary is None else apply_rotary(key, rotary)), value

    def attend(self, query: Float[Tensor, "b n heads c"], keys_values: KeysValues) -> Float[Tensor, "b n d"]:
        """What the queries gather, before the output projection."""
        return self.processor(query, *keys_values)

    def project(self, gathered: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The output projection."""
        return self.to_out[0](gathered)

    def forward(self, tokens: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n d"]:
        """Self-attention over all tokens."""
        return self.project(self.attend(self.query(tokens, rotary), self.keys_values(tokens, rotary)))


class TextImageAttention(Attention):
    """Cross-attention to text and, with projections of its own, to image tokens; the two results are added."""

    def __init__(self, channels: int, heads: int, eps: float, image_channels: int | None) -> None:
        super().__init__(channels, heads, eps, AttentionCore())
        self.add_k_proj = self.add_v_proj = self.norm_added_k = None
        if image_channels is not None:
            self.add_k_proj = nn.Linear(image_channels, channels)
            self.add_v_proj = nn.Linear(image_channels, channels)
            self.norm_added_k = nn.RMSNorm(channels, eps=eps)

    def context(
        self, text: Float[Tensor, "b n d"], image: Float[Tensor, "b m d"] | None
    ) -> tuple[KeysValues, KeysValues | None]:
        """Keys and values of both; they depend on neither the video nor the time."""
        if image is None or self.add_k_proj is None or self.add_v_proj is None or self.norm_added_k is None:
            return self.keys_values(text), None
        key = self.norm_added_k(self.add_k_proj(image)).unflatten(-1, (self.heads, -1))
        return self.keys_values(text), (key, self.add_v_proj(image).unflatten(-1, (self.heads, -1)))

    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "b n d"], context: tuple[KeysValues, KeysValues | None]
    ) -> Float[Tensor, "b n d"]:
        """Attention of the tokens to a context made by `context`."""
        query = self.query(tokens)
        text, image = context
        gathered = self.attend(query, text)
        if image is not None:
            gathered = gathered + self.attend(query, image)
        return self.project(gathered)


def repeat_to(x: Tensor, batch: int) -> Tensor:
    """`x` as often as needed to have `batch` samples: the first sample's copies lie a whole `x` apart."""
    return x if len(x) == batch else x.repeat(batch // len(x), *[1] * (x.ndim - 1))
