"""Tiny random models on disk, in the layout of the paper."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.text_encoder import save_prompt_embeddings
from worldstereo.models.transformer import KeyframeTransformer

FRAMES, HEIGHT, WIDTH = 5, 64, 96


def tiny_paper_network(layers: int = 3) -> PaperTransformer:
    """Every parameter random, so that both branches have a say."""
    torch.manual_seed(0)
    backbone = KeyframeTransformer(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=20,
        out_channels=8,
        text_dim=16,
        freq_dim=32,
        ffn_dim=96,
        num_layers=layers,
        image_dim=None,
        added_kv_proj_dim=None,
    )
    sizes = {"conv_out_dim": 48, "dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "time_embed_dim": 48}
    control = ControlBranch(**sizes, mid_channels=16, in_channels=20, out_channels=48)
    stereo = StereoBranch(**sizes, in_channels=20, latent_channels=8, out_channels=48)
    for branch in (control, stereo):
        for projection in branch.proj_out:
            nn.init.normal_(projection.weight, std=0.3)
    nn.init.normal_(control.controlnet_mask_embedding.mask_zero_proj.weight, std=0.3)
    return PaperTransformer(backbone, control, stereo).eval()


def write_paper_model(folder: Path, **config: object) -> Path:
    """A model folder in the paper's layout: two UniPC steps with guidance, unless `config` says otherwise."""
    tiny_paper_network().save_pretrained(folder)
    codec = KeyframeAutoencoder(
        latent_channels=8,
        encoder_channels=(16, 16, 24),
        encoder_blocks=(1, 0, 1),
        decoder_channels=(16, 16, 24),
        decoder_blocks=(1, 1, 0),
    )
    codec.save_pretrained(folder / "autoencoder")
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 4, 16, generator=generator)
    save_prompt_embeddings(folder / "prompt_embeds.safetensors", embeds, ["", "ugly"])
    scheduler = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    values = {
        "model_type": "worldstereo-paper",
        "nframe": FRAMES,
        "scale_map": [[HEIGHT, WIDTH], [WIDTH, HEIGHT]],
        "latent_cond_mode": "first_frame_only",
        "negative_prompt": "ugly",
        "scheduler": scheduler,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
    }
    (folder / "config.json").write_text(json.dumps(values | config))
    return folder


def take_a_tensor_out(folder: Path) -> None:
    """Leave the first tensor out of a network's weights."""
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors[min(tensors)]
    save_file(tensors, path, {"format": "pt"})
