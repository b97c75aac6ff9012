"""Procedural frames for training, rendered once and kept in a folder."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldstereo.data.rgbd import RgbdFrame
from worldstereo.files import atomic_path

_FRAMES_PER_SCENE = 6
_SIZES = ((240, 176), (256, 144), (192, 224), (240, 160))


def procedural_frames(folder: Path, count: int, seed: int, device: str = "cpu") -> list[RgbdFrame]:
    """`count` frames of procedural scenes; shards missing in `folder` are rendered first (resumable)."""
    frames: list[RgbdFrame] = []
    for shard in range(-(-count // _FRAMES_PER_SCENE)):
        path = folder / f"shard_{shard:05d}.npz"
        if not path.is_file():
            write_shard(path, seed, shard, device)
        frames += _read_shard(path)
    return frames[:count]


def render_frames(count: int, seed: int, device: str = "cpu") -> list[RgbdFrame]:
    """`count` frames of procedural scenes, not kept in a folder."""
    frames: list[RgbdFrame] = []
    for shard in range(-(-count // _FRAMES_PER_SCENE)):
        frames += _frames(f"procedural/{seed + shard}", _render(seed, shard, device))
    return frames[:count]


def write_shard(path: Path, seed: int, shard: int, device: str = "cpu") -> None:
    """Render the frames of one scene and keep them."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in _render(seed, shard, device).items()}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def _render(seed: int, shard: int, device: str) -> dict[str, Tensor]:
    from worldstereo.data.procedural import ProceduralScene

    scene = ProceduralScene.sample(seed + shard, device=device)
    cameras = scene.sample_cameras(_FRAMES_PER_SCENE, seed + shard, *_SIZES[shard % len(_SIZES)])
    render = scene.render(cameras)
    return {
        "rgb": (render.rgb.clamp(0, 1) * 255).round().to(torch.uint8),
        "depth": render.depth.half(),
        "sky": render.sky,
        "intrinsics": cameras.intrinsics,
    }


def _read_shard(path: Path) -> list[RgbdFrame]:
    with np.load(path) as shard:
        return _frames(f"procedural/{path.stem}", {name: torch.from_numpy(shard[name]) for name in shard.files})


def _frames(name: str, arrays: dict[str, Tensor]) -> list[RgbdFrame]:
    columns = [arrays[key].cpu() for key in ("rgb", "depth", "sky", "intrinsics")]
    return [
        RgbdFrame(f"{name}/{i}", rgb, depth.float(), sky, intrinsics)
        for i, (rgb, depth, sky, intrinsics) in enumerate(zip(*columns, strict=True))
    ]
