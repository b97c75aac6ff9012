"""What every reader of splats returns, and the checks that all formats share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldstereo.errors import InputError
from worldstereo.geometry.splats import GaussianSplats

SMALLEST_SCALE = 1e-12
OPACITY_MARGIN = 1e-6


@dataclass(frozen=True, eq=False)
class SplatFile:
    """The splats of one file.

    Attributes:
        splats: in world axes (OpenCV), with their colours of no direction (spherical harmonics of degree 0).
        sh_degree: the highest degree in the file; colours of degree 1 and more, which change with the direction of
            view, are left out.
    """

    splats: GaussianSplats
    sh_degree: int


def build(
    path: Path,
    means: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    sh_degree: int,
) -> SplatFile:
    """Splats of float32 arrays [n, 3], [n, 3], [n, 4] (w, x, y, z), [n], [n, 3].

    Quaternions are normalised, scales and opacities brought into their open ranges.

    Raises:
        InputError: a value is not finite, or a quaternion is zero; the message names file, field and splat.
    """
    lengths = np.linalg.norm(rotations.astype(np.float64), axis=1)
    checks = {
        "position": np.isfinite(means).all(axis=1),
        "scale": np.isfinite(scales).all(axis=1),
        "rotation": np.isfinite(lengths) & (lengths > 1e-12),
        "opacity": np.isfinite(opacities),
        "colour": np.isfinite(colors).all(axis=1),
    }
    for name, good in checks.items():
        if not good.all():
            complaint = "is zero or not finite" if name == "rotation" else "is not finite"
            raise InputError(f"{path}: the {name} of splat {int((~good).argmax())} {complaint}; the file is damaged")
    splats = GaussianSplats(
        means=torch.from_numpy(means),
        scales=torch.from_numpy(np.maximum(scales, SMALLEST_SCALE)),
        rotations=torch.from_numpy((rotations / lengths[:, None]).astype(np.float32)),
        opacities=torch.from_numpy(np.clip(opacities, OPACITY_MARGIN, 1 - OPACITY_MARGIN)),
        colors=torch.from_numpy(colors),
    )
    return SplatFile(splats, sh_degree)
