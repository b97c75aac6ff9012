"""The backbone: the video diffusion transformer of Wan 2.1, image-to-video layout.

Its latents are keyframe latents: every frame is encoded on its own. State-dict keys and shapes are those of diffusers'
`WanTransformer3DModel`, so its checkpoints load unchanged. What the branches compute comes in as `additions`; what
does not change from step to step is kept in a `ClipCache`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin, FeedForward
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldstereo.models.attention import Attention, KeysValues, SplitAttentionCore, TextImageAttention, repeat_to
from worldstereo.models.context_parallel import GATHER_TOKENS, SPLIT_TOKENS, Shard, gather_through
from worldstereo.models.patches import PatchEmbedding, unpatchify
from worldstereo.models.rotary import Rotary, rotary_table

_LEAST_SIGMA = 1e-3

Context = tuple[KeysValues, KeysValues | None]
"""Keys and values of text and image tokens, as one block sees them."""

Branches = Callable[[Float[Tensor, "b d"]], Iterable[Float[Tensor, "b n d"]]]
"""From the time embedding to what is added to the tokens after block 0, 1, ...; made while the blocks run."""


@dataclass
class ClipCache:
    """What a network computes once for a clip and reuses in every step.

    Empty when made; the first forward pass fills it. Give it back only with the same conditions: everything but the
    noisy latents and the time step is then taken from here.

    Attributes:
        static: token sums and tables by name.
        context: keys and values of text and image of every block.
    """

    static: dict[str, Any] = field(default_factory=dict)
    context: dict[int, Context] = field(default_factory=dict)

    def once(self, name: str, compute: Any) -> Any:
        """The kept value of that name, computed if there is none yet."""
        if name not in self.static:
            self.static[name] = compute()
        return self.static[name]


class TextImageContext(nn.Module):
    """The conditioning embedder: time, text and image tokens brought to the width of the backbone."""

    def __init__(self, channels: int, frequencies: int, text_channels: int, image_channels: int | None) -> None:
        super().__init__()
        self.timesteps_proj = Timesteps(frequencies, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(frequencies, channels)
        self.time_proj = nn.Linear(channels, 6 * channels)
        self.text_embedder = PixArtAlphaTextProjection(text_channels, channels, act_fn="gelu_tanh")
        self.image_embedder = None if image_channels is None else ImageProjection(image_channels, channels)

    def time(self, timestep: Float[Tensor, " b"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The time embedding [b, d] and the modulation of the blocks [b, 6, d]; `timestep` lies in [0, 1000]."""
        weight = self.time_embedder.linear_1.weight
        frequencies = self.timesteps_proj(timestep)
        embedding = self.time_embedder(frequencies.to(weight.dtype if weight.is_floating_point() else dtype)).to(dtype)
        return embedding, self.time_proj(nn.functional.silu(embedding)).unflatten(1, (6, -1))

    def text(self, embeddings: Float[Tensor, "b n t"]) -> Float[Tensor, "b n d"]:
        """Text tokens."""
        return self.text_embedder(embeddings)

    def image(self, embeddings: Float[Tensor, "b n i"]) -> Float[Tensor, "b n d"]:
        """Image tokens.

        Raises:
            ValueError: the network was built without an image embedder.
        """
        if self.image_embedder is None:
            raise ValueError("encoder_hidden_states_image was given, but image_dim is none in this network's config")
        return self.image_embedder(embeddings)


class ImageProjection(nn.Module):
    """Image tokens to the width of the backbone, normalised before and after."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(in_channels)
        self.ff = FeedForward(in_channels, out_channels, mult=1, activation_fn="gelu")
        self.norm2 = FP32LayerNorm(out_channels)

    def forward(self, embeddings: Float[Tensor, "b n i"]) -> Float[Tensor, "b n d"]:
        """Image tokens."""
        return self.norm2(self.ff(self.norm1(embeddings)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to text and image, feed-forward; all modulated by time.

    References, if there are any, take part in the self-attention of the targets (same projections, positions of their
    own), skip the cross-attention, and pass the feed-forward layer.
    """

    def __init__(
        self,
        channels: int,
        feed_forward_channels: int,
        heads: int,
        cross_attention_norm: bool,
        eps: float,
        image_channels: int | None,
    ) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(channels, eps, elementwise_affine=False)
        self.attn1 = Attention(channels, heads, eps, SplitAttentionCore())
        self.norm2 = FP32LayerNorm(channels, eps, elementwise_affine=True) if cross_attention_norm else nn.Identity()
        self.attn2 = TextImageAttention(channels, heads, eps, image_channels)
        self.norm3 = FP32LayerNorm(channels, eps, elementwise_affine=False)
        self.ffn = FeedForward(channels, inner_dim=feed_forward_channels, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, channels) / channels**0.5)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        modulation: Float[Tensor, "#k 6 d"],
        rotary: Rotary,
        text: Float[Tensor, "k m d"],
        image: Float[Tensor, "k i d"] | None = None,
        context: Context | None = None,
        references: Float[Tensor, "#b r d"] | None = None,
        reference_rotary: Rotary | None = None,
        keep_references: bool = False,
    ) -> tuple[Tensor, Tensor | None, Context]:
        """One block.

        Tokens that are the same for several contexts (under guidance, before the first block) come once: their
        self-attention is computed once and they leave with a copy a context, k = b or a multiple of it.

        Args:
            context: keys and values of `text` and `image` from an earlier step; computed if none.
            keep_references: whether the references' own outputs are wanted; they cost as much as targets.

        Returns:
            The targets, the references (none unless kept), and the context's keys and values for the next step.
        """
        table = self.scale_shift_table.float() + modulation.float()
        shift, scale, gate, shift_ff, scale_ff, gate_ff = table.chunk(6, dim=1)

        def modulated(x: Tensor, norm: nn.Module, by_scale: Tensor, by_shift: Tensor) -> Tensor:
            return torch.addcmul(by_shift[: len(x)], norm(x.float()), 1 + by_scale[: len(x)]).type_as(x)

        def gated(x: Tensor, change: Tensor, by_gate: Tensor) -> Tensor:
            return torch.addcmul(x.float(), change.float(), by_gate[: len(x)]).type_as(x)

        normed = modulated(tokens, self.norm1, scale, shift)
        query, (key, value) = self.attn1.query(normed, rotary), self.attn1.keys_values(normed, rotary)
        if references is None:
            tokens = gated(tokens, self.attn1.project(self.attn1.attend(query, (key, value))), gate)
        else:
            normed = modulated(references, self.norm1, scale, shift)
            reference_key, reference_value = self.attn1.keys_values(normed, reference_rotary)
            key = torch.cat([repeat_to(reference_key, len(key)), key], dim=1)
            value = torch.cat([repeat_to(reference_value, len(value)), value], dim=1)
            if keep_references:
                reference_query = repeat_to(self.attn1.query(normed, reference_rotary), len(query))
                gathered = self.attn1.attend(torch.cat([reference_query, query], dim=1), (key, value))
                count = references.shape[1]
                references = repeat_to(references, len(tokens))
                references = gated(references, self.attn1.project(gathered[:, :count]), gate)
                tokens = gated(tokens, self.attn1.project(gathered[:, count:]), gate)
            else:
                tokens = gated(tokens, self.attn1.project(self.attn1.attend(query, (key, value))), gate)
        if context is None:
            context = self.attn2.context(text, image)
        tokens = repeat_to(tokens, len(context[0][0]))
        tokens = tokens + self.attn2(self.norm2(tokens.float()).type_as(tokens), context)
        tokens = gated(tokens, self.ffn(modulated(tokens, self.norm3, scale_ff, shift_ff)), gate_ff)
        if references is not None and keep_references:
            references = gated(references, self.ffn(modulated(references, self.norm3, scale_ff, shift_ff)), gate_ff)
        return tokens, references if keep_references else None, context


class KeyframeTransformer(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
    """The backbone. Config fields have diffusers' names and, apart from the image ones, Wan 14B's values.

    Args:
        patch_size: of a token in latent frames, rows, columns.
        num_attention_heads, attention_head_dim: their product is the width.
        in_channels: noisy latent, first-frame mask (4), condition latent.
        out_channels: of the latent.
        text_dim, image_dim: of the encoders' tokens; no image tokens if none.
        freq_dim: of the sinusoidal time embedding.
        ffn_dim: of the feed-forward layers.
        num_layers: number of blocks.
        cross_attn_norm: whether the cross-attention's input is normalised.
        qk_norm: only "rms_norm_across_heads" exists.
        eps: of the normalisations.
        added_kv_proj_dim: width of the image tokens in the blocks, i.e. the backbone's.
        rope_max_seq_len: the largest number of positions on an axis.
        pos_embed_seq_len: only none exists.
        prediction: what the last layer gives: the "velocity" (Wan), or the "residual" of the clean latents over the
            condition latents, of which the velocity follows. Small models learn the latter much faster.

    Raises:
        ValueError: a value that this layout does not have.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _repeated_blocks = ["TransformerBlock"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm2.weight", "norm2.bias"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "condition_embedder", "norm"]
    _keys_to_ignore_on_load_unexpected = ["norm_added_q"]
    _cp_plan = {"shard": SPLIT_TOKENS, "proj_out": GATHER_TOKENS}

    @register_to_config
    def __init__(
        self,
        patch_size: Sequence[int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        added_kv_proj_dim: int | None = 5120,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        prediction: str = "velocity",
    ) -> None:
        super().__init__()
        if prediction not in ("velocity", "residual"):
            raise ValueError(f"prediction is {prediction!r} but must be 'velocity' or 'residual'")
        if qk_norm != "rms_norm_across_heads":
            raise ValueError(f"qk_norm is {qk_norm!r}, but this layout has only 'rms_norm_across_heads'")
        if pos_embed_seq_len is not None:
            raise ValueError(f"pos_embed_seq_len is {pos_embed_seq_len}, but this layout has no image positions")
        channels = num_attention_heads * attention_head_dim
        pf, ph, pw = patch_size
        self.patch_embedding = PatchEmbedding(in_channels, channels, (pf, ph, pw))
        self.condition_embedder = TextImageContext(channels, freq_dim, text_dim, image_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, ffn_dim, num_attention_heads, cross_attn_norm, eps, added_kv_proj_dim)
            for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(channels, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(channels, out_channels * pf * ph * pw)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, channels) / channels**0.5)
        self.shard = Shard()
        self.gradient_checkpointing = False

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config.num_attention_heads * self.config.attention_head_dim

    def grid(self, latents: Float[Tensor, "b c f h w"]) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens.

        Raises:
            ValueError: the latents cannot be cut into whole patches, or there are more positions than the layout has.
        """
        sizes = latents.shape[2:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch_size, strict=True)):
            raise ValueError(f"latents of {tuple(sizes)} cannot be cut into patches of {self.config.patch_size}")
        f, h, w = (size // patch for size, patch in zip(sizes, self.config.patch_size, strict=True))
        if max(f, h, w) > self.config.rope_max_seq_len:
            raise ValueError(f"{f}×{h}×{w} tokens are more than rope_max_seq_len {self.config.rope_max_seq_len} allows")
        return f, h, w

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, " b"] | Int[Tensor, " b"],
        encoder_hidden_states: Float[Tensor, "k n t"],
        encoder_hidden_states_image: Float[Tensor, "k m i"] | None = None,
        branches: Branches | None = None,
        cache: ClipCache | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Velocity of the latents.

        Args:
            hidden_states: noisy latent, mask and condition latent on the channel axis.
            timestep: in [0, 1000].
            encoder_hidden_states: text tokens; k = b, or a multiple of b for several contexts (guidance), the first
                b of which are the first context of every sample.
            encoder_hidden_states_image: image tokens, as many samples as text.
            branches: what steers the backbone from outside.
            cache: of this clip.

        Returns:
            [k, out_channels, f, h, w], as `.sample` or in a tuple.
        """
        cache = ClipCache() if cache is None else cache
        embedding, modulation = self.condition_embedder.time(timestep, self.dtype_at_work)
        additions = () if branches is None else branches(embedding)
        sample = self._velocity(
            hidden_states, embedding, modulation, encoder_hidden_states, encoder_hidden_states_image, additions, cache
        )
        if self.config.prediction == "residual":
            sample = self._velocity_of_residual(sample, hidden_states, timestep)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _velocity_of_residual(self, residual: Tensor, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        """(noisy − clean) / σ, clean being the condition latent (the last channels) plus the residual."""
        channels = self.config.out_channels
        difference = (hidden_states[:, :channels] - hidden_states[:, -channels:]).float()
        sigma = (timestep.float() / 1000).clamp(min=_LEAST_SIGMA).reshape(-1, 1, 1, 1, 1)
        return (repeat_to(difference, len(residual)) - residual.float()) / repeat_to(sigma, len(residual))

    @property
    def dtype_at_work(self) -> torch.dtype:
        """Of the tokens: what the patch embedding is kept in."""
        return self.patch_embedding.weight.dtype

    def _velocity(
        self,
        hidden_states: Tensor,
        embedding: Tensor,
        modulation: Tensor,
        text: Tensor,
        image: Tensor | None,
        additions: Iterable[Tensor],
        cache: ClipCache,
        target_change: Callable[[], Tensor | None] | None = None,
        references: Tensor | None = None,
        reference_rotary: Rotary | None = None,
        update_references: bool = False,
    ) -> Float[Tensor, "k c f h w"]:
        """The whole pass. `target_change` is added to the target tokens before the first block; `references` join the
        self-attention of every block, as they are or (`update_references`) as the block before left them."""
        grid = self.grid(hidden_states)
        noisy, dtype = self.config.out_channels, self.dtype_at_work

        def static() -> Tensor:
            tokens = self.patch_embedding(hidden_states[:, noisy:], first_channel=noisy)
            change = None if target_change is None else target_change()
            return tokens if change is None else tokens + change

        tokens = self.patch_embedding(hidden_states[:, :noisy], bias=False) + cache.once("target", static)
        rotary = cache.once("rotary", lambda: self._grid_rotary(grid, tokens.device))
        text = cache.once("text", lambda: self.condition_embedder.text(text.to(dtype)))
        if image is not None:
            image = cache.once("image", lambda: self.condition_embedder.image(image.to(dtype)))
        tokens, rotary = self.shard.split(tokens, rotary)
        modulation = repeat_to(modulation, len(text)) if len(modulation) > 1 else modulation
        additions, last = iter(additions), len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            keep = update_references and references is not None and index < last
            context = cache.context.get(index)
            arguments = (tokens, modulation, rotary, text, image, context, references, reference_rotary, keep)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens, kept, context = self._gradient_checkpointing_func(block, *arguments)
            else:
                tokens, kept, context = block(*arguments)
            if not torch.is_grad_enabled():
                cache.context[index] = context
            references = kept if keep else references
            if (addition := next(additions, None)) is not None:
                tokens = (tokens.unflatten(0, (-1, len(addition))) + addition).flatten(0, 1)
        table = self.scale_shift_table.float() + repeat_to(embedding, len(modulation))[:, None].float()
        shift, scale = table.chunk(2, dim=1)
        tokens = torch.addcmul(shift, self.norm_out(tokens.float()), 1 + scale).to(dtype)
        output = gather_through(self.proj_out, tokens, math.prod(grid), self._parallel_config)
        return unpatchify(output, grid, tuple(self.config.patch_size))

    def _grid_rotary(self, grid: tuple[int, int, int], device: torch.device) -> Rotary:
        return rotary_table(self.config.attention_head_dim, *(torch.arange(size, device=device) for size in grid))
