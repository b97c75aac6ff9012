"""The stereo branch: carries the spatial-stereo memory, frames seen before, into the backbone.

A light transformer that looks at one target frame and one reference frame at a time, stitched along the width. Target
and reference attend only to each other; what the target half has learnt goes to the backbone's tokens. Pointmaps of
both halves show which of their places are the same place. Source: WorldStereo (arXiv 2603.02049), spatial-stereo
memory; widths, positions and the block (that of the control branch) are not published and are ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldstereo.models.attention import AttentionCore
from worldstereo.models.context_parallel import SPLIT_TOKENS
from worldstereo.models.modulated_block import ModulatedBlock
from worldstereo.models.patches import PatchEmbedding, zeroed
from worldstereo.models.rotary import Rotary, rotary_table
from worldstereo.models.transformer import ClipCache


@dataclass(frozen=True)
class Pairs:
    """Targets that have a reference, and where they lie in this process's share of the clip's tokens.

    Attributes:
        samples: sample of each pair.
        targets: frame of each pair in its clip.
        used_samples, used: sample and index of the distinct references of these pairs.
        reference_of_pair: index into `used`.
        first: the first frame that this process has tokens of.
        frames: number of frames that it has tokens of, those at the ends perhaps in part.
        share: its tokens among the tokens of these frames.
    """

    samples: Int[Tensor, " p"]
    targets: Int[Tensor, " p"]
    used_samples: Int[Tensor, " u"]
    used: Int[Tensor, " u"]
    reference_of_pair: Int[Tensor, " p"]
    first: int
    frames: int
    share: slice


class StereoBranch(ModelMixin, ConfigMixin):
    """The stereo branch; config fields have the control branch's names.

    A pair costs what a sequence of 2·h·w tokens costs. The whole grows in proportion to the number of targets that
    have a reference; a target without one costs nothing.

    Under context parallelism every process computes the pairs of the frames that it holds tokens of. Pairs are
    independent, so this needs no communication and fits any number of processes; a pair is computed more than once
    only where a boundary between two shares cuts through its frame.

    Args:
        conv_out_dim: width of the embeddings before the first block; the backbone's, if they start as a copy of its.
        dim: width of the blocks.
        ffn_dim: of their feed-forward layers.
        num_heads: of their attention.
        num_layers: number of blocks, at most the backbone's.
        time_embed_dim: width of the backbone's time embedding.
        in_channels: of a target, as the backbone sees it: noisy latent, first-frame mask, condition latent.
        latent_channels: of one latent.
        out_channels: width of the backbone's tokens.
        patch_size: of a token.
        pointmaps: whether there are pointmaps; without them the branch has no parameters for them.

    Raises:
        ValueError: a patch spans several frames, or `in_channels` has no room for two latents.
    """

    _no_split_modules = ["ModulatedBlock"]
    _repeated_blocks = ["ModulatedBlock"]
    _skip_layerwise_casting_patterns = ["embedding", "norm"]
    _supports_gradient_checkpointing = True
    _cp_plan = {"shard": {0: SPLIT_TOKENS[0]}}

    @register_to_config
    def __init__(
        self,
        conv_out_dim: int = 5120,
        dim: int = 1024,
        ffn_dim: int = 4096,
        num_heads: int = 16,
        num_layers: int = 20,
        time_embed_dim: int = 5120,
        in_channels: int = 36,
        latent_channels: int = 16,
        out_channels: int = 5120,
        patch_size: Sequence[int] = (1, 2, 2),
        pointmaps: bool = True,
    ) -> None:
        super().__init__()
        if patch_size[0] != 1:
            raise ValueError(f"patch_size is {tuple(patch_size)}, but a pair holds one frame: it must start with 1")
        if in_channels < 2 * latent_channels:
            raise ValueError(f"in_channels is {in_channels}: too few for two latents of {latent_channels} channels")
        patch = (1, patch_size[1], patch_size[2])
        self.patch_embedding = PatchEmbedding(in_channels, conv_out_dim, patch)
        self.pointmap_embedding = PatchEmbedding(latent_channels, conv_out_dim, patch) if pointmaps else None
        self.proj_in = nn.Identity() if conv_out_dim == dim else nn.Linear(conv_out_dim, dim)
        blocks = [ModulatedBlock(dim, ffn_dim, num_heads, time_embed_dim) for _ in range(num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.proj_out = nn.ModuleList(zeroed(nn.Linear(dim, out_channels)) for _ in range(num_layers))
        self.shard = nn.Identity()
        self.gradient_checkpointing = False
        for block in blocks:
            block.self_attn.processor = AttentionCore()  # a pair is never shared out among processes

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        reference_latent: Float[Tensor, "b l r h w"],
        reference_of_target: Int[Tensor, "b f"],
        target_pointmap_latent: Float[Tensor, "b l f h w"] | None,
        reference_pointmap_latent: Float[Tensor, "b l r h w"] | None,
        embedding: Float[Tensor, "b e"],
        cache: ClipCache,
    ) -> Iterator[Float[Tensor, "b n d"]]:
        """What is added after backbone block 0, 1, ...; every item is computed when it is asked for.

        Args:
            hidden_states: noisy latent, first-frame mask, condition latent.
            reference_latent: clean latents of the distinct references, each encoded on its own. Where samples have
                different numbers of them, the rest may hold anything.
            reference_of_target: which of its sample's references each target is paired with; -1 for none. It is read
                on the CPU.
            target_pointmap_latent: pointmaps of the targets, encoded like frames.
            reference_pointmap_latent: those of the references, normalised by the same box.
            embedding: the backbone's time embedding.
            cache: of this clip.

        Returns:
            This process's tokens, in the order of the backbone's; zero for targets without a reference. Nothing at
            all if this process holds no target that has one.

        Raises:
            ValueError: pointmaps are missing, or a target asks for a reference that is not there.
        """
        if self.config.pointmaps and (target_pointmap_latent is None or reference_pointmap_latent is None):
            raise ValueError("the stereo branch needs target_pointmap_latent and reference_pointmap_latent")
        _, rows, columns = (s // p for s, p in zip(hidden_states.shape[2:], self.config.patch_size, strict=True))
        size, noisy, device = rows * columns, self.config.latent_channels, hidden_states.device
        count = reference_latent.shape[2]
        pairs = cache.once("stereo pairs", lambda: self._pairs(reference_of_target, count, size, device))
        if len(pairs.targets) == 0:
            return iter(())

        def targets() -> Tensor:
            return self._embed(hidden_states[:, noisy:], noisy, target_pointmap_latent, pairs.samples, pairs.targets)

        def references() -> Tensor:
            known = torch.ones_like(reference_latent[:, :1])
            known = known.expand(-1, self.config.in_channels - 2 * noisy, -1, -1, -1)
            latent = torch.cat([reference_latent, known, reference_latent], dim=1)
            return self.proj_in(self._embed(latent, 0, reference_pointmap_latent, pairs.used_samples, pairs.used))

        changing = self.patch_embedding(_frames(hidden_states[:, :noisy], pairs.samples, pairs.targets), bias=False)
        target = self.proj_in(changing + cache.once("stereo targets", targets))
        reference = cache.once("stereo references", references)[pairs.reference_of_pair]
        rotary = cache.once("stereo rotary", lambda: self._rotary(rows, columns, device))
        return self._steps(torch.cat([target, reference], dim=1), embedding, rotary, pairs)

    def _steps(
        self, tokens: Float[Tensor, "k n d"], embedding: Float[Tensor, "b e"], rotary: Rotary, pairs: Pairs
    ) -> Iterator[Tensor]:
        """A pair's tokens are those of its target, then those of its reference."""
        batch, size = len(embedding), tokens.shape[1] // 2
        embedding, place = embedding[pairs.samples], (pairs.samples, pairs.targets - pairs.first)
        for block, projection in zip(self.blocks, self.proj_out, strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, embedding, rotary)
            else:
                tokens = block(tokens, embedding, rotary)
            change = projection(tokens[:, :size])
            additions = change.new_zeros(batch, pairs.frames, *change.shape[1:]).index_put_(place, change)
            yield additions.flatten(1, 2)[:, pairs.share]

    def _pairs(self, reference_of_target: Tensor, references: int, size: int, device: torch.device) -> Pairs:
        """The pairs that this process computes, for frames of `size` tokens."""
        reference = reference_of_target.cpu()
        if not bool(((reference >= -1) & (reference < references)).all()):
            raise ValueError(f"reference_of_target is {reference.tolist()}, but there are {references} references")
        own = self.shard(torch.arange(reference.shape[1] * size)[None, :, None]).flatten()
        first, last = int(own[0]) // size, int(own[-1]) // size
        samples, targets = (reference[:, first : last + 1] >= 0).nonzero(as_tuple=True)
        targets = first + targets
        chosen = torch.stack([samples, reference[samples, targets]])
        (used_samples, used), reference_of_pair = chosen.unique(dim=1, return_inverse=True)
        start = int(own[0]) - first * size
        share = slice(start, start + len(own))
        samples, targets, reference_of_pair = samples.to(device), targets.to(device), reference_of_pair.to(device)
        used_samples, used = used_samples.to(device), used.to(device)
        return Pairs(samples, targets, used_samples, used, reference_of_pair, first, last + 1 - first, share)

    def _embed(
        self, latents: Tensor, first_channel: int, pointmaps: Tensor | None, samples: Tensor, frames: Tensor
    ) -> Float[Tensor, "k n d"]:
        """Embeddings of some samples' frames, pointmaps included; the others may hold anything."""
        tokens = self.patch_embedding(_frames(latents, samples, frames), first_channel=first_channel)
        if self.pointmap_embedding is None or pointmaps is None:
            return tokens
        return tokens + self.pointmap_embedding(_frames(pointmaps, samples, frames))

    def _rotary(self, rows: int, columns: int, device: torch.device) -> Rotary:
        """Positions of a pair: the reference's columns follow the target's. All are in frame 0, so that a pair's
        result depends neither on where in the clip the target stands nor on how old the reference is."""
        frame, row = torch.zeros(1, device=device, dtype=torch.long), torch.arange(rows, device=device)
        halves = (torch.arange(start, start + columns, device=device) for start in (0, columns))
        tables = (rotary_table(self.config.dim // self.config.num_heads, frame, row, half) for half in halves)
        cos, sin = zip(*tables, strict=True)
        return torch.cat(cos), torch.cat(sin)


def _frames(
    latents: Float[Tensor, "b c f h w"], samples: Int[Tensor, " k"], frames: Int[Tensor, " k"]
) -> Float[Tensor, "k c 1 h w"]:
    """Some samples' frames, as clips of one frame."""
    return latents.transpose(1, 2)[samples, frames].unsqueeze(2)
