"""The control branch: carries the global-geometric memory and the cameras into the backbone.

A light transformer over the backbone's own token grid. It sees the noisy latent, the latent of the point-cloud render,
its hole mask and the Plücker rays, and gives after each of its blocks what is added to the backbone's tokens.
Architecture: Uni3C (arXiv 2504.14899), as WorldStereo uses it; Uni3C's weights load (`checkpoints.load_uni3c`).
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.models.context_parallel import SPLIT_TOKENS, Shard
from worldstereo.models.modulated_block import ModulatedBlock
from worldstereo.models.patches import PatchEmbedding, zeroed
from worldstereo.models.rotary import rotary_table
from worldstereo.models.transformer import ClipCache


class ControlBranch(ModelMixin, ConfigMixin):
    """The control branch; config fields have the published names.

    Args:
        conv_out_dim: width of the embeddings before the first block.
        dim: width of the blocks.
        ffn_dim: of their feed-forward layers.
        num_heads: of their attention.
        num_layers: number of blocks, at most the backbone's.
        time_embed_dim: width of the backbone's time embedding.
        add_channels: of hole mask and rays: 7, or 1 without rays.
        mid_channels: of the mask embedding, a multiple of 8.
        mask_downsample: frames of mask and rays per latent frame: 1 for keyframes, 4 for video latents.
        interp: whether frames of padding follow as well as precede the mask and rays (video latents only).
        in_channels: noisy latent, first-frame mask, render latent.
        out_channels: width of the backbone's tokens.
        patch_size: of a token.
    """

    _no_split_modules = ["ModulatedBlock"]
    _repeated_blocks = ["ModulatedBlock"]
    _skip_layerwise_casting_patterns = ["embedding", "norm"]
    _supports_gradient_checkpointing = True
    _cp_plan = {"shard": SPLIT_TOKENS}

    @register_to_config
    def __init__(
        self,
        conv_out_dim: int = 5120,
        dim: int = 1024,
        ffn_dim: int = 4096,
        num_heads: int = 16,
        num_layers: int = 20,
        time_embed_dim: int = 5120,
        add_channels: int = 7,
        mid_channels: int = 256,
        mask_downsample: int = 1,
        interp: bool = False,
        in_channels: int = 36,
        out_channels: int = 5120,
        patch_size: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        pf, ph, pw = patch_size
        patch = (pf, ph, pw)
        self.controlnet_patch_embedding = PatchEmbedding(in_channels, conv_out_dim, patch)
        self.controlnet_mask_embedding = MaskEmbedding(add_channels, mid_channels, conv_out_dim, mask_downsample, patch)
        self.proj_in = nn.Identity() if conv_out_dim == dim else nn.Linear(conv_out_dim, dim)
        self.controlnet_blocks = nn.ModuleList(
            ModulatedBlock(dim, ffn_dim, num_heads, time_embed_dim) for _ in range(num_layers)
        )
        self.proj_out = nn.ModuleList(zeroed(nn.Linear(dim, out_channels)) for _ in range(num_layers))
        self.shard = Shard()
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        render_latent: Float[Tensor, "b l f h w"],
        render_mask: Float[Tensor, "b 1 g y x"],
        camera_embedding: Float[Tensor, "b 6 g y x"] | None,
        embedding: Float[Tensor, "b e"],
        cache: ClipCache,
        noisy_channels: int = 16,
    ) -> Iterator[Float[Tensor, "b n d"]]:
        """What is added after backbone block 0, 1, ...; every item is computed when it is asked for.

        Args:
            hidden_states: noisy latent (`noisy_channels` of them), then the first-frame mask; further channels are
                left aside.
            render_latent: latent of the render of the point cloud along the path.
            render_mask: 1 = hole, 0 = rendered; at pixel resolution.
            camera_embedding: Plücker rays at pixel resolution; a branch without rays leaves them aside.
            embedding: the backbone's time embedding.
            cache: of this clip.
        """
        known = self.config.in_channels - render_latent.shape[1]

        def static() -> Tensor:
            constant = torch.cat([hidden_states[:, noisy_channels:known], render_latent], dim=1)
            parts = [render_mask]
            if camera_embedding is not None and self.config.add_channels > 1:
                parts.append(camera_embedding)
            geometry = self.controlnet_mask_embedding(torch.cat(parts, dim=1), self.config.interp)
            return self.controlnet_patch_embedding(constant, first_channel=noisy_channels) + geometry

        noisy = hidden_states[:, :noisy_channels]
        tokens = self.controlnet_patch_embedding(noisy, bias=False) + cache.once("control", static)
        rotary = cache.once("control rotary", lambda: self._rotary(hidden_states))
        tokens, rotary = self.shard.split(tokens, rotary)
        return self._steps(self.proj_in(tokens), embedding, rotary)

    def _steps(self, tokens: Tensor, embedding: Tensor, rotary: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        for block, projection in zip(self.controlnet_blocks, self.proj_out, strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, embedding, rotary)
            else:
                tokens = block(tokens, embedding, rotary)
            yield projection(tokens)

    def _rotary(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (s // p for s, p in zip(hidden_states.shape[2:], self.config.patch_size, strict=True))
        positions = (torch.arange(size, device=hidden_states.device) for size in sizes)
        return rotary_table(self.config.dim // self.config.num_heads, *positions)


class MaskEmbedding(nn.Module):
    """Hole mask and rays at pixel resolution, brought to the token grid; gives zeros when new."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, frames: int, patch: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.frames = frames
        self.mask_proj = nn.Sequential(
            nn.Conv3d(in_channels, mid_channels, (frames, 8, 8), stride=(frames, 8, 8)),
            nn.GroupNorm(mid_channels // 8, mid_channels),
            nn.SiLU(),
        )
        self.mask_zero_proj = zeroed(PatchEmbedding(mid_channels, out_channels, patch))

    def forward(self, geometry: Float[Tensor, "b c g y x"], pad_behind: bool) -> Float[Tensor, "b n d"]:
        """Tokens; video latents' first frame stands for one frame, the others for several: zeros are put in front."""
        if self.frames > 1:
            geometry = nn.functional.pad(geometry, (0, 0, 0, 0, 3, 3 if pad_behind else 0))
        return self.mask_zero_proj(self.mask_proj(geometry.to(self.mask_zero_proj.weight.dtype)))
