"""Cameras of frames by structure from motion (COLMAP, through pycolmap), in a process of its own.

pycolmap brings its own zlib: loaded into a process that writes PNGs later, it crashes it. So nothing of this package
imports it: frames go to a folder, a subprocess (`sfm_process`) reconstructs them, poses come back as JSON.
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.images import save_png

_SECONDS = 600.0
_SAME = 1e-3  # pixels


def is_available() -> bool:
    """Whether pycolmap is installed (it is not imported)."""
    return find_spec("pycolmap") is not None


def recover_cameras(
    frames: Float[Tensor, "f 3 h w"], cameras: Cameras, seed: int = 0, seconds: float = _SECONDS
) -> list[Float[Tensor, "4 4"] | None]:
    """`cam_from_world` of each frame in a world of its own; None where it could not be found.

    SIFT on every frame, exhaustive matching, incremental mapping with the intrinsics of `cameras` held fixed; of
    several reconstructions the one with most frames. COLMAP's demands for 100 common points to begin with and 30 to go
    on are lowered to 30 and 15, as generated frames are few and small. The poses of `cameras` are not looked at.

    Raises:
        MissingExtraError: pycolmap is not installed.
        InputError: the process failed or took longer than `seconds`.
    """
    if not is_available():
        raise MissingExtraError("pycolmap", "sfm", "recovering cameras by structure from motion")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, frame in enumerate(frames):
            save_png(folder / "frames" / f"{number:04d}.png", frame)
        lenses = _lenses(cameras)
        job = {"lenses": lenses, "width": cameras.width, "height": cameras.height, "seed": seed}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "worldstereo.evaluation.sfm_process", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"structure from motion took longer than {seconds:g} s and was stopped") from None
        result = folder / "poses.json"
        if done.returncode or not result.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"structure from motion failed (exit code {done.returncode}: {last[:200]})")
        poses = json.loads(result.read_text(encoding="utf-8"))
    return [torch.tensor(poses[str(k)]) if str(k) in poses else None for k in range(len(frames))]


def _lenses(cameras: Cameras) -> list[dict[str, Any]]:
    """Distinct intrinsics as COLMAP's PINHOLE parameters, with the numbers of their frames."""
    found: list[dict[str, Any]] = []
    for number, k in enumerate(cameras.intrinsics.tolist()):
        parameters = [k[0][0], k[1][1], k[0][2], k[1][2]]
        for lens in found:
            if max(abs(a - b) for a, b in zip(lens["parameters"], parameters, strict=True)) < _SAME:
                lens["frames"].append(number)
                break
        else:
            found.append({"parameters": parameters, "frames": [number]})
    return found
