"""A network of your own size in the loop: build it, save it as a model folder, fly with it.

    python examples/05_own_network.py out/05

Its weights are random, so the clips show noise where a trained one would show the scene; what runs is the whole chain:
guidance, retrieval, backbone with control and stereo branch, both memories. docs/models.md describes the folder.
"""

import sys
from pathlib import Path

import torch

from worldstereo.files import write_json
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.text_encoder import save_prompt_embeddings
from worldstereo.models.transformer import KeyframeTransformer
from worldstereo.pipelines.world import Settings, WorldPipeline


def write_model(folder: Path, height: int, width: int, frames: int) -> None:
    latent, channels = 8, 96
    backbone = KeyframeTransformer(
        num_attention_heads=4,
        attention_head_dim=channels // 4,
        in_channels=2 * latent + 4,
        out_channels=latent,
        text_dim=16,
        ffn_dim=4 * channels,
        num_layers=4,
        image_dim=None,
        added_kv_proj_dim=None,
        prediction="residual",
    )
    sizes = {"conv_out_dim": channels, "dim": 64, "ffn_dim": 256, "num_heads": 4, "num_layers": 2}
    sizes |= {"time_embed_dim": channels, "in_channels": 2 * latent + 4, "out_channels": channels}
    branches = ControlBranch(**sizes, mid_channels=32), StereoBranch(**sizes, latent_channels=latent)
    PaperTransformer(backbone, *branches).save_pretrained(folder)
    KeyframeAutoencoder(latent_channels=latent).save_pretrained(folder / "autoencoder")
    save_prompt_embeddings(folder / "prompt_embeds.safetensors", torch.zeros(1, 1, 16), [""])
    few_steps = {"dmd_start_steps": 250, "dmd_end_steps": 1000, "dmd_steps": 4, "gen_shift": 5.0}
    clip = {"nframe": frames, "scale_map": [[height, width]], "latent_cond_mode": "filled_render"}
    write_json(folder / "config.json", {"model_type": "worldstereo-paper"} | clip | few_steps)


def main(out: Path, short_side: int = 144, frames: int = 9) -> None:
    write_model(out / "model", short_side, short_side // 9 * 16 // 16 * 16, frames)
    pipe = WorldPipeline.from_pretrained(str(out / "model"), depth="nano")
    settings = Settings(trajectories=("orbit-right:10", "orbit-right:20"))
    world = pipe(Path(__file__).with_name("temple.jpg"), out / "world", settings)
    for clip in world.clips:
        print(clip.name, tuple(clip.frames.shape), clip.video)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/05"))
