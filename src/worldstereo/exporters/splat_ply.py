"""Splats as PLY files of 3D Gaussian Splatting (Kerbl et al., SIGGRAPH 2023), the form that every splat tool knows.

Per splat, all float32: `x y z`, `nx ny nz` (unused, 0), `f_dc_0..2` = (colour − 0.5) / SH_BASE, `opacity` as logit,
`scale_0..2` as natural logarithm, `rot_0..3` = quaternion (w, x, y, z). Coordinates as of COLMAP: x right, y down,
z forward, which are our world's axes.
"""

from math import isqrt
from pathlib import Path

import numpy as np
import torch

from worldstereo.errors import InputError
from worldstereo.exporters import ply_vertices
from worldstereo.exporters.ply_vertices import PlyVertices, open_vertices
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.exporters.splat_file import OPACITY_MARGIN, SMALLEST_SCALE, SplatFile, build
from worldstereo.files import atomic_path
from worldstereo.geometry.splats import SH_BASE, GaussianSplats

_MEANS = ("x", "y", "z")
_COLORS = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_ROTATIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
_WRITTEN = (*_MEANS, "nx", "ny", "nz", *_COLORS, "opacity", *_SCALES, *_ROTATIONS)
_NEEDED = (*_MEANS, *_COLORS, "opacity", *_SCALES, *_ROTATIONS)


def write_splat_ply(path: str | Path, splats: GaussianSplats, frame: SceneFrame | None = None) -> None:
    """Write binary little-endian; atomic, in bounded memory.

    Opacities are held 10⁻⁶ away from 0 and 1, whose logits are infinite.

    Raises:
        InputError: the file cannot be written.
    """
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment worldstereo 3D Gaussian splats: logit opacity, log scale, rotation w x y z, f_dc = (c - 0.5) / 0.2821",
        *(f"comment {line}" for line in (frame or SceneFrame()).comments()),
        f"element vertex {len(splats)}",
        *(f"property float {name}" for name in _WRITTEN),
        "end_header",
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        for start in range(0, len(splats), ply_vertices.BLOCK):
            part = splats[start : start + ply_vertices.BLOCK]
            opacities = part.opacities.clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
            columns = [
                part.means,
                torch.zeros_like(part.means),
                (part.colors - 0.5) / SH_BASE,
                torch.logit(opacities)[:, None],
                part.scales.clamp_min(SMALLEST_SCALE).log(),
                torch.nn.functional.normalize(part.rotations, dim=1),
            ]
            file.write(torch.cat(columns, dim=1).cpu().numpy().astype("<f4").tobytes())


def read_splat_ply(path: str | Path) -> SplatFile:
    """Read the splats; of spherical harmonics (`f_rest_*`, channel by channel) the degree is told and degree 0 kept.

    Raises:
        InputError: the file is missing, is no PLY of splats, is cut short, or has a value that is not finite.
    """
    path = Path(path)
    with open_vertices(path) as vertices:
        missing = [name for name in _NEEDED if name not in vertices.names]
        if missing:
            mend = (
                "it is compressed; decompress it first"
                if "packed_position" in vertices.names
                else "read point clouds as such"
            )
            raise InputError(f"{path}: is no PLY of splats (it has no property '{missing[0]}'); {mend}")
        degree = _sh_degree(path, vertices)
        columns = np.empty((vertices.count, len(_NEEDED)), np.float32)
        for part, rows in vertices.blocks():
            vertices.fill(columns, part, rows, _NEEDED)
    means, colors, logits, logs, rotations = np.split(columns, [3, 6, 7, 10], axis=1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scales, opacities = np.exp(logs), 1 / (1 + np.exp(-logits[:, 0]))
        colors = colors * np.float32(SH_BASE) + np.float32(0.5)
    return build(path, np.ascontiguousarray(means), scales, rotations, opacities, colors, degree)


def _sh_degree(path: Path, vertices: PlyVertices) -> int:
    """0 to 3 (or more), from the number of coefficients beyond the first: 3 · ((degree + 1)² − 1)."""
    rest = sum(name.startswith("f_rest_") for name in vertices.names)
    degree = isqrt(rest // 3 + 1) - 1
    if 3 * ((degree + 1) ** 2 - 1) != rest:
        raise InputError(f"{path}: has {rest} properties f_rest_*, which is no whole degree of spherical harmonics")
    return degree
