"""Seconds of a published memory network: python benchmarks/bench_network.py [--steps N] [--latents ROWS COLUMNS].

One forward pass, and a whole denoising: with `--steps` the UniPC sampler under guidance, else the 4 steps of the
distilled model without. Weights are random, all widths in the proportions of the published 14B layout. Baselines of the
same run, with the same weights:

* plain: the same network used as the official pipelines use theirs: nothing kept from step to step, and under guidance
  two passes a step, each with its own control branch. The official code does more than that: without `update_ref` it
  also computes outputs of the references that nothing reads.
* diffusers: a later step of the backbone alone against diffusers' `WanTransformer3DModel`.

Seconds are the best wall time of `--repeats`; a denoising runs once. Both sides run in turn; ratios are of CPU time on
the CPU, where other programs disturb it least, and of wall time on a GPU. Latents are 8×12 by default, so that a step
takes seconds on one CPU core; `--full --device cuda --dtype bfloat16 --latents 60 104` is the size of a real clip.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from worldstereo.models.published import PublishedTransformer
from worldstereo.models.transformer import ClipCache, KeyframeTransformer
from worldstereo.pipelines.keyframe_video import ClipFormat, KeyframeVideoPipeline, Sampling
from worldstereo.schedulers.few_step import FewStepFlowScheduler
from worldstereo.schedulers.published_unipc import PublishedUniPC

GUIDANCE, TEXT_TOKENS, IMAGE_TOKENS, PIXELS = 5.0, 512, 257, 8


def layout(args: argparse.Namespace, update_references: bool) -> dict[str, Any]:
    """Arguments of the network: the published ones, or all widths smaller in proportion."""
    if args.full:
        heads, head, control_heads = 40, 128, 16
        layers, control_layers = 40, 20
    else:
        head = min(64, args.width // 2)
        heads, control_heads = args.width // head, max(args.width // (4 * head), 1)
        layers, control_layers = args.layers, args.layers // 2
    width = heads * head
    control_width = control_heads * min(head, 64)
    control = {
        "conv_out_dim": width,
        "dim": control_width,
        "ffn_dim": 4 * control_width,
        "num_heads": control_heads,
        "num_layers": control_layers,
        "time_embed_dim": width,
        "add_channels": 7,
        "mid_channels": max(width // 160, 1) * 8,
        "mask_downsample": 1,
        "main_camera_embedding": True,
        "camera_embedding_dim": 7,
        "update_ref": update_references,
    }
    return {
        "controlnet_cfg": control,
        "memory": True,
        "num_attention_heads": heads,
        "attention_head_dim": head,
        "text_dim": width * 4 // 5,
        "image_dim": width // 4,
        "ffn_dim": width * 27 // 10,
        "num_layers": layers,
        "added_kv_proj_dim": width,
    }


def randomised(network: KeyframeTransformer, args: argparse.Namespace) -> Any:
    """A network of the meta device, with weights of its own on the device, those that stay in float32 included."""
    for name, weight in network.named_parameters():
        kept = any(part in name for part in KeyframeTransformer._keep_in_fp32_modules)
        weight.data = weight.data.to(torch.float32 if kept else getattr(torch, args.dtype))
    network = network.to_empty(device=args.device).requires_grad_(False).eval()
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return network


def clip(config: Any, args: argparse.Namespace, contexts: int) -> dict[str, Tensor]:
    """Random conditions; `first_frame` goes behind the noisy latents."""
    frames, references, (rows, columns) = args.frames, args.references, args.latents
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(args.device)

    pixels = (frames, rows * PIXELS, columns * PIXELS)
    return {
        "first_frame": normal(1, 20, frames, rows, columns),
        "encoder_hidden_states": normal(contexts, TEXT_TOKENS, config.text_dim),
        "encoder_hidden_states_image": normal(1, IMAGE_TOKENS, config.image_dim).repeat(contexts, 1, 1),
        "render_latent": normal(1, 16, frames, rows, columns),
        "render_mask": (normal(1, 1, *pixels) > 0).float(),
        "camera_embedding": normal(1, 6, *pixels),
        "reference_latent": normal(1, 36, references, rows, columns),
        "ref_index": torch.arange(references, device=args.device) % (frames - 1),
        "camera_qt": normal(1, frames, 7),
        "camera_qt_ref": normal(1, references, 7),
    }


def plain(network: Any, latents: Tensor, timestep: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """Velocity of every context, each from a pass of its own that keeps nothing."""
    rest = dict(conditions)
    hidden = torch.cat([latents, rest.pop("first_frame")], dim=1)
    texts, images = rest.pop("encoder_hidden_states"), rest.pop("encoder_hidden_states_image")
    passes = [
        network(hidden, timestep, encoder_hidden_states=text[None], encoder_hidden_states_image=image[None], **rest)
        for text, image in zip(texts, images, strict=True)
    ]
    return torch.cat([output.sample for output in passes]).float()


def plain_denoise(network: Any, noise: Tensor, conditions: dict[str, Tensor], sampling: Sampling) -> Tensor:
    """Latents from noise, step by step with `plain`."""
    sampling.scheduler.set_timesteps(sampling.steps, device=noise.device)
    latents = noise
    for timestep in sampling.scheduler.timesteps:
        velocity = plain(network, latents, timestep.float().expand(1), conditions)
        if len(velocity) > 1:
            velocity = velocity[1:] + sampling.guidance * (velocity[:1] - velocity[1:])
        latents = sampling.scheduler.step(velocity, timestep, latents).prev_sample
    return latents


def race(
    ours: Callable[[], Tensor], baseline: Callable[[], Tensor], device: str, repeats: int
) -> tuple[float, float, str]:
    """Shortest wall seconds of both, run in turn, and a text: the ratio and how far the results lie apart."""
    wall, busy = [float("inf")] * 2, [float("inf")] * 2
    results: list[Tensor] = [torch.empty(0)] * 2
    for _ in range(repeats):
        for index, work in enumerate((ours, baseline)):
            start, cpu = time.perf_counter(), time.process_time()
            results[index] = work()
            if device == "cuda":
                torch.cuda.synchronize()
            wall[index] = min(wall[index], time.perf_counter() - start)
            busy[index] = min(busy[index], time.process_time() - cpu)
    counted = wall if device == "cuda" else busy
    return wall[0], wall[1], f"{counted[1] / counted[0]:.2f}×, {difference(*results)}"


def difference(a: Tensor, b: Tensor) -> str:
    """The largest difference, beside the size of the values."""
    return f"largest difference {(a - b).abs().max().item():.1e} of values of size {b.std().item():.2f}"


def measure_backbone(args: argparse.Namespace, contexts: int) -> None:
    """A step of the backbone alone, with what a clip keeps, against diffusers' own."""
    config = layout(args, True)
    del config["controlnet_cfg"], config["memory"]
    with torch.device("meta"):
        ours = KeyframeTransformer(**config)
    theirs = WanTransformer3DModel(**config | {"in_channels": 36}).to(args.device, getattr(torch, args.dtype))
    ours = randomised(ours, args)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    conditions = clip(ours.config, args, contexts)
    hidden = torch.cat([torch.randn_like(conditions["render_latent"]), conditions["first_frame"]], dim=1)
    text, image = conditions["encoder_hidden_states"], conditions["encoder_hidden_states_image"]
    timestep, cache, dtype = torch.full((1,), 500.0, device=args.device), ClipCache(), getattr(torch, args.dtype)

    def separate() -> Tensor:
        passes = [
            theirs(hidden.to(dtype), timestep, t[None].to(dtype), i[None].to(dtype)).sample
            for t, i in zip(text, image, strict=True)
        ]
        return torch.cat(passes).float()

    def together() -> Tensor:
        return ours(hidden, timestep, text, image, cache=cache).sample.float()

    together(), separate()
    fast, slow, ratio = race(together, separate, args.device, args.repeats)
    print(f"backbone, contexts {contexts}: later steps {fast:.3f} s, diffusers {slow:.3f} s: {ratio}")


def measure(args: argparse.Namespace, update_references: bool) -> None:
    """Print one network's figures."""
    with torch.device("meta"):
        network = PublishedTransformer(**layout(args, update_references))
    network = randomised(network, args)
    if args.compile:
        network.compile_repeated_blocks()
    if args.steps:
        values = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
        sampling = Sampling(PublishedUniPC(**values), args.steps, GUIDANCE)
    else:
        sampling = Sampling(FewStepFlowScheduler(250, 1000, 4, 5.0), 4, 1.0)
    contexts = 2 if sampling.guidance > 1 else 1
    conditions = clip(network.config, args, contexts)
    noise = torch.randn(1, 16, *conditions["render_latent"].shape[2:], device=args.device)
    tokens = noise[0, 0].numel() // 4
    print(
        f"update_ref {update_references}: {sum(p.numel() for p in network.parameters()) / 1e9:.2f} B parameters, "
        f"{tokens} tokens, {args.references} references, contexts {contexts}"
    )

    hidden, timestep = torch.cat([noise, conditions["first_frame"]], dim=1), torch.full((1,), 500.0).to(args.device)
    rest = {name: value for name, value in conditions.items() if name != "first_frame"}

    def one_pass(cache: ClipCache) -> Tensor:
        return network(hidden, timestep, cache=cache, **rest).sample.float()

    kept = ClipCache()
    one_pass(kept), plain(network, noise, timestep, conditions)
    first, slow, ratio = race(
        lambda: one_pass(ClipCache()), lambda: plain(network, noise, timestep, conditions), args.device, args.repeats
    )
    print(f"  first step {first:.3f} s, plain {slow:.3f} s: {ratio}")
    later, slow, ratio = race(
        lambda: one_pass(kept), lambda: plain(network, noise, timestep, conditions), args.device, args.repeats
    )
    print(f"  later step {later:.3f} s, plain {slow:.3f} s: {ratio}")

    def unused(*_: Any) -> Any:
        raise AssertionError("a denoising encodes nothing")

    arguments = {name: value for name, value in conditions.items() if not name.startswith("encoder_hidden")}
    text, image = conditions["encoder_hidden_states"], conditions["encoder_hidden_states_image"]
    shape = ClipFormat(args.frames, (tuple(args.latents),), "first_frame_only")
    pipeline = KeyframeVideoPipeline(network, None, sampling, shape, unused, unused, args.device)  # type: ignore[arg-type]
    whole, slow, ratio = race(
        lambda: pipeline.denoise(noise[0], text, image, arguments, lambda done, total: None)[None],
        lambda: plain_denoise(network, noise, conditions, sampling),
        args.device,
        1,
    )
    print(
        f"  {sampling.steps} steps {whole:.2f} s: {whole / sampling.steps:.3f} s a step, "
        f"{tokens * sampling.steps / whole:,.0f} tokens/s; plain {slow:.2f} s: {ratio}"
    )


@torch.no_grad()
def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--width", type=int, default=1024, help="of the backbone")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--full", action="store_true", help="the published layout: 17 B parameters")
    parser.add_argument("--frames", type=int, default=21)
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--latents", type=int, nargs=2, default=(8, 12), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--steps", type=int, default=0, help="of UniPC with guidance (0: 4 distilled steps without)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch on the CPU (0: its own choice)")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--no-backbone", action="store_true", help="leave diffusers' backbone out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{args.device}, {args.dtype}, {torch.get_num_threads()} threads")
    for update_references in (True, False):
        measure(args, update_references)
    if not args.no_backbone and not args.full:
        measure_backbone(args, 2 if args.steps else 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory {peak / 2**30:.2f} GiB", end="")
    print(f", GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if args.device == "cuda" else "")


if __name__ == "__main__":
    main()
