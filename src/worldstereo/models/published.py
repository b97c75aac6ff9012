"""The published WorldStereo 2.0 networks: camera and memory model, state-dict keys and all.

The control branch hangs under `controlnet.`; the memory model's references join the backbone's own self-attention, with
rotary positions to the right of the target frame that first asked for them, and poses added to all tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldstereo.models.context_parallel import GATHER_TOKENS, SPLIT_TOKENS, Shard
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.rotary import Rotary, rotary_table
from worldstereo.models.transformer import ClipCache, KeyframeTransformer

_RELEASE_DEFAULTS = {"add_channels": 1, "mid_channels": 64, "mask_downsample": 4, "interp": False}
"""What the official code takes where `controlnet_cfg` is silent; other fields of the branch must be there."""

_NOT_OF_THE_BRANCH = {"update_ref", "ref_embedding", "main_camera_embedding", "camera_embedding_dim"}
"""Published fields of `controlnet_cfg` that describe how the backbone takes references."""


class PublishedTransformer(KeyframeTransformer):
    """Backbone and control branch of the published release; with `memory` also references.

    Args:
        controlnet_cfg: the published fields of that name: those of `ControlBranch`, and for a memory model
            `update_ref`, `main_camera_embedding`, `camera_embedding_dim`.
        memory: whether it takes references.

    Others as in `KeyframeTransformer`. Source: official release, reference behaviour of `WorldStereoModel` and
    `WorldStereoRefSModel`.
    """

    _no_split_modules = ["TransformerBlock", "ModulatedBlock"]
    _repeated_blocks = ["TransformerBlock", "ModulatedBlock"]
    _skip_layerwise_casting_patterns = ["embedding", "condition_embedder", "norm"]
    _keys_to_ignore_on_load_unexpected = ["norm_added_q", "ref_index_embedding"]
    _cp_plan = {
        "shard": SPLIT_TOKENS,
        "reference_shard": SPLIT_TOKENS,
        "controlnet.shard": SPLIT_TOKENS,
        "proj_out": GATHER_TOKENS,
    }

    @register_to_config
    def __init__(
        self,
        controlnet_cfg: dict[str, Any],
        memory: bool,
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
    ) -> None:
        super().__init__(
            patch_size,
            num_attention_heads,
            attention_head_dim,
            in_channels,
            out_channels,
            text_dim,
            freq_dim,
            ffn_dim,
            num_layers,
            cross_attn_norm,
            qk_norm,
            eps,
            image_dim,
            added_kv_proj_dim,
            rope_max_seq_len,
            pos_embed_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        control = _RELEASE_DEFAULTS | {k: v for k, v in controlnet_cfg.items() if k not in _NOT_OF_THE_BRANCH}
        self.controlnet = ControlBranch(in_channels=in_channels, out_channels=width, patch_size=patch_size, **control)
        self.camera_embedding = None
        if memory and controlnet_cfg.get("main_camera_embedding", False):
            self.camera_embedding = nn.Sequential(
                nn.Linear(controlnet_cfg["camera_embedding_dim"], width // 2),
                nn.SiLU(),
                nn.Linear(width // 2, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
        self.reference_shard = Shard()

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, " b"] | Int[Tensor, " b"],
        encoder_hidden_states: Float[Tensor, "k n t"],
        encoder_hidden_states_image: Float[Tensor, "k m i"] | None = None,
        render_latent: Float[Tensor, "b l f h w"] | None = None,
        render_mask: Float[Tensor, "b 1 g y x"] | None = None,
        camera_embedding: Float[Tensor, "b 6 g y x"] | None = None,
        reference_latent: Float[Tensor, "b c r h w"] | None = None,
        ref_index: Int[Tensor, " r"] | None = None,
        camera_qt: Float[Tensor, "b f q"] | None = None,
        camera_qt_ref: Float[Tensor, "b r q"] | None = None,
        cache: ClipCache | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Velocity of the latents; arguments have the official names.

        Args:
            hidden_states: noisy latent (16), first-frame mask (4), condition latent (16).
            timestep: in [0, 1000].
            encoder_hidden_states: text tokens; k = b, or a multiple of b for several contexts (guidance).
            encoder_hidden_states_image: image tokens, as many samples as text.
            render_latent: latent of the point-cloud render.
            render_mask: 1 = hole, 0 = rendered, at pixel resolution.
            camera_embedding: Plücker rays at pixel resolution.
            reference_latent: clean latent (16), ones (4), the same clean latent (16) of every reference; there may be
                none (r = 0).
            ref_index: of the target frame that first asked for each reference, minus 1.
            camera_qt: of the targets: quaternion and translation of `cam_from_world`, jointly normalised.
            camera_qt_ref: of the references.
            cache: of this clip.

        Returns:
            [k, out_channels, f, h, w], as `.sample` or in a tuple.

        Raises:
            ValueError: a condition that this model needs is missing.
        """
        if render_latent is None or render_mask is None:
            raise ValueError("render_latent and render_mask are needed")
        cache = ClipCache() if cache is None else cache
        embedding, modulation = self.condition_embedder.time(timestep, self.dtype_at_work)
        additions = self.controlnet(
            hidden_states,
            render_latent,
            render_mask,
            camera_embedding,
            embedding,
            cache,
            self.config.out_channels,
        )
        references = reference_rotary = None
        if self.config.memory:
            if reference_latent is None or ref_index is None:
                raise ValueError("a memory model needs reference_latent and ref_index")
            if reference_latent.shape[2]:
                references, reference_rotary = cache.once(
                    "references", lambda: self._references(reference_latent, ref_index, camera_qt_ref)
                )
                references, reference_rotary = self.reference_shard.split(references, reference_rotary)
        sample = self._velocity(
            hidden_states,
            embedding,
            modulation,
            encoder_hidden_states,
            encoder_hidden_states_image,
            additions,
            cache,
            target_change=lambda: self._poses(camera_qt, hidden_states),
            references=references,
            reference_rotary=reference_rotary,
            update_references=self.config.memory and self.config.controlnet_cfg["update_ref"],
        )
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _references(self, latent: Tensor, ref_index: Tensor, poses: Tensor | None) -> tuple[Tensor, Rotary]:
        """Tokens of the references, and positions beside their targets: one frame on, a width to the right."""
        _, rows, columns = self.grid(latent)
        rotary = rotary_table(
            self.config.attention_head_dim,
            ref_index.to(latent.device) + 1,
            torch.arange(rows, device=latent.device),
            torch.arange(columns, 2 * columns, device=latent.device),
        )
        tokens, change = self.patch_embedding(latent), self._poses(poses, latent)
        return (tokens if change is None else tokens + change), rotary

    def _poses(self, poses: Tensor | None, latent: Tensor) -> Tensor | None:
        """What the poses add to the tokens of their frames."""
        if poses is None or self.camera_embedding is None:
            return None
        _, rows, columns = self.grid(latent)
        return self.camera_embedding(poses.to(self.dtype_at_work)).repeat_interleave(rows * columns, dim=1)
