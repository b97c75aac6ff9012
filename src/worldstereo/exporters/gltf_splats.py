"""Splats as binary glTF 2.0 with the ratified extension `KHR_gaussian_splatting`.

A primitive of points with `POSITION` and, under names that begin with `KHR_gaussian_splatting:`, `ROTATION` (quaternion
x, y, z, w), `SCALE` (linear, not its logarithm), `OPACITY` (0 to 1), `SH_DEGREE_0_COEF_0` = (colour − 0.5) / SH_BASE.
`kernel` "ellipse" is the Gaussian of 3D Gaussian Splatting, `colorSpace` "srgb_rec709_display" that of its pictures.
Viewers without the extension show the points in `COLOR_0`.
(https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting)
"""

from pathlib import Path

import numpy as np
import torch

from worldstereo.cameras.files.fields import Field
from worldstereo.cameras.rotations import matrix_from_quaternion, quaternion_from_matrix
from worldstereo.errors import InputError
from worldstereo.exporters.gltf_file import (
    POINTS,
    GlbArrays,
    GlbFile,
    check_total,
    linear_from_srgb,
    mode_of,
    srgb_from_linear,
)
from worldstereo.exporters.scene_frame import SceneFrame, flip_points, flip_rotations
from worldstereo.exporters.splat_file import SMALLEST_SCALE, SplatFile, build
from worldstereo.geometry.splats import SH_BASE, GaussianSplats

_NAME = "KHR_gaussian_splatting"
_SRGB, _LINEAR = "srgb_rec709_display", "lin_rec709_display"


def write_gltf_splats(path: str | Path, splats: GaussianSplats, frame: SceneFrame | None = None) -> None:
    """Write the splats, x right, y up, z backward, all values as float32; atomic.

    Raises:
        InputError: there are no splats, or the file cannot be written.
    """
    if not len(splats):
        raise InputError(f"{path}: there are no splats, and glTF has no empty primitives")
    rotations = torch.nn.functional.normalize(flip_rotations(splats.rotations.cpu()), dim=1)
    opacities = splats.opacities.cpu().clamp(0, 1)
    shown = np.column_stack(
        [linear_from_srgb(splats.colors.cpu().clamp(0, 1).double().numpy()), opacities.double().numpy()]
    )
    arrays = GlbArrays()
    attributes = {
        "POSITION": arrays.add(flip_points(splats.means.cpu()).numpy(), bounds=True),
        "COLOR_0": arrays.add(np.round(shown * 65535).astype(np.uint16), normalized=True),
        f"{_NAME}:ROTATION": arrays.add(rotations.roll(-1, dims=1).numpy()),
        f"{_NAME}:SCALE": arrays.add(splats.scales.cpu().clamp_min(SMALLEST_SCALE).numpy()),
        f"{_NAME}:OPACITY": arrays.add(opacities.numpy()),
        f"{_NAME}:SH_DEGREE_0_COEF_0": arrays.add(((splats.colors.cpu() - 0.5) / SH_BASE).numpy()),
    }
    extension = {
        "kernel": "ellipse",
        "colorSpace": _SRGB,
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"mode": POINTS, "attributes": attributes, "extensions": {_NAME: extension}}
    arrays.write(path, primitive, frame or SceneFrame(), {"extensionsUsed": [_NAME]})


def read_gltf_splats(path: str | Path) -> SplatFile:
    """Read all splats of the scene, in OpenCV axes; of spherical harmonics the degree is told and degree 0 kept.

    Raises:
        InputError: the file is missing, is no GLB, is damaged or compressed, has no splats, splats of another kernel or
            colour space, or places them with a transform that is no similarity.
    """
    file = GlbFile.read(path)
    path, total, degree = Path(path), 0, 0
    parts = []
    for primitive, matrix in file.primitives():
        if "extensions" not in primitive or _NAME not in primitive["extensions"]:
            continue
        if mode_of(primitive) != POINTS:
            raise primitive.fail(f"has the extension {_NAME} but is not made of points")
        parts.append(_splats(file, primitive, matrix))
        total += len(parts[-1][0])
        check_total(path, total)
        degree = max(degree, _sh_degree(primitive["attributes"]))
    if not parts:
        raise InputError(f"{path}: holds no splats (no primitive with the extension {_NAME}); read meshes as such")
    means, scales, rotations, opacities, colors = (np.concatenate(values) for values in zip(*parts, strict=True))
    return build(
        path,
        flip_points(torch.from_numpy(means)).numpy(),
        scales,
        flip_rotations(torch.from_numpy(rotations)).numpy(),
        opacities,
        colors,
        degree,
    )


def _splats(file: GlbFile, primitive: Field, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means, scales, rotations (w, x, y, z), opacities, sRGB colours of one primitive, in the scene's place."""
    extension, attributes = primitive["extensions"][_NAME], primitive["attributes"]
    if extension["kernel"].text() != "ellipse":
        raise extension["kernel"].fail("is no 'ellipse', the only kernel that is known")
    space = extension["colorSpace"].text() if "colorSpace" in extension else _SRGB
    if space not in (_SRGB, _LINEAR):
        raise extension["colorSpace"].fail(f"must be '{_SRGB}' or '{_LINEAR}'")
    means = file.positions(attributes["POSITION"], matrix)
    rotations = np.roll(file.floats(attributes[f"{_NAME}:ROTATION"], 4), 1, axis=1)
    scales = file.floats(attributes[f"{_NAME}:SCALE"], 3)
    opacities = file.floats(attributes[f"{_NAME}:OPACITY"], 1)[:, 0]
    f_dc = file.floats(attributes[f"{_NAME}:SH_DEGREE_0_COEF_0"], 3)
    if {len(rotations), len(scales), len(opacities), len(f_dc)} != {len(means)}:
        raise primitive.fail("has attributes of different lengths; the file is damaged")
    with np.errstate(over="ignore", invalid="ignore"):
        colors = f_dc * np.float32(SH_BASE) + np.float32(0.5)
        if space == _LINEAR:
            colors = srgb_from_linear(colors.clip(0, 1)).astype(np.float32)
    if np.array_equal(matrix[:3, :3], np.eye(3)):
        return means, scales, rotations, opacities, colors
    scale = abs(float(np.linalg.det(matrix[:3, :3]))) ** (1 / 3)
    turn = matrix[:3, :3] / max(scale, 1e-30)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
        raise primitive.fail("is stretched or mirrored by its node, which splats cannot follow")
    turned = torch.from_numpy(turn).float() @ matrix_from_quaternion(torch.from_numpy(rotations))
    return means, scales * np.float32(scale), quaternion_from_matrix(turned).numpy(), opacities, colors


def _sh_degree(attributes: Field) -> int:
    return max((degree for degree in (1, 2, 3) if f"{_NAME}:SH_DEGREE_{degree}_COEF_0" in attributes), default=0)
