"""Meshes with vertex colours as binary glTF 2.0, which opens upright and in the pictures' colours."""

from pathlib import Path

import numpy as np
import torch

from worldstereo.cameras.files.fields import Field
from worldstereo.errors import InputError
from worldstereo.exporters.gltf_file import (
    TRIANGLES,
    GlbArrays,
    GlbFile,
    check_total,
    linear_from_srgb,
    mode_of,
    srgb_from_linear,
)
from worldstereo.exporters.scene_frame import SceneFrame, flip_points
from worldstereo.geometry.triangle_mesh import TriangleMesh

_MATERIAL = {
    "name": "colours of the pictures",
    "doubleSided": True,
    "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
    "extensions": {"KHR_materials_unlit": {}},
}


def write_glb(path: str | Path, mesh: TriangleMesh, frame: SceneFrame | None = None) -> None:
    """Write the mesh, x right, y up, z backward; atomic.

    Colours are linear as glTF wants them, in 16 bits, so that 8-bit sRGB comes back exactly. The material is unlit
    (`KHR_materials_unlit`): the light of the pictures is in the colours already.

    Raises:
        InputError: the mesh is empty or the file cannot be written.
    """
    if not len(mesh.vertices) or not len(mesh.faces):
        raise InputError(f"{path}: the mesh has no triangles, and glTF has no empty meshes")
    colors = linear_from_srgb(mesh.colors.cpu().clamp(0, 1).double().numpy())
    levels = np.full((len(colors), 4), 65535, np.uint16)
    levels[:, :3] = np.round(colors * 65535)
    arrays = GlbArrays()
    primitive = {
        "mode": TRIANGLES,
        "attributes": {
            "POSITION": arrays.add(flip_points(mesh.vertices.cpu().float()).numpy(), bounds=True),
            "COLOR_0": arrays.add(levels, normalized=True),
        },
        "indices": arrays.add(mesh.faces.cpu().numpy().astype(np.uint32).reshape(-1), indices=True),
        "material": 0,
    }
    parts = {"materials": [_MATERIAL], "extensionsUsed": ["KHR_materials_unlit"]}
    arrays.write(path, primitive, frame or SceneFrame(), parts)


def read_glb(path: str | Path) -> TriangleMesh:
    """Read all triangles of the scene into one mesh in OpenCV axes; points, lines and textures are left out.

    Colours are those of the vertices times the material's, white where there are none.

    Raises:
        InputError: the file is missing, is no GLB, is damaged, compressed, or has no triangles.
    """
    file = GlbFile.read(path)
    path, total = Path(path), 0
    vertices, colors, faces = [], [], []
    for primitive, matrix in file.primitives():
        if mode_of(primitive) != TRIANGLES:
            continue
        part_vertices, part_colors, part_faces = _triangles(file, primitive, matrix)
        vertices.append(part_vertices)
        colors.append(part_colors)
        faces.append(part_faces + total)
        total += len(part_vertices)
        check_total(path, total + sum(len(part) for part in faces))
    if not faces:
        raise InputError(f"{path}: holds no triangles; read splats as such, or save a triangle mesh")
    return TriangleMesh(
        vertices=flip_points(torch.from_numpy(np.concatenate(vertices))),
        faces=torch.from_numpy(np.concatenate(faces)),
        colors=torch.from_numpy(np.concatenate(colors)),
    )


def _triangles(file: GlbFile, primitive: Field, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices and sRGB colours, float32 [v, 3], and faces [f, 3] of one primitive, in the scene's place."""
    attributes = primitive["attributes"]
    vertices = file.positions(attributes["POSITION"], matrix)
    faces = file.whole(primitive["indices"]) if "indices" in primitive else np.arange(len(vertices))
    if len(faces) % 3 or (len(faces) and faces.max() >= len(vertices)):
        raise primitive.fail("has indices that are no triangles of its vertices; the file is damaged")
    faces = faces.reshape(-1, 3)
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]
    linear = np.ones((len(vertices), 3), np.float32)
    if "COLOR_0" in attributes:
        linear = file.floats(attributes["COLOR_0"], 3, 4)[:, :3]
        if len(linear) != len(vertices):
            raise primitive.fail("has another number of colours than of vertices; the file is damaged")
    linear = np.nan_to_num(linear * np.array(file.base_color(primitive), np.float32), nan=0.5)
    return vertices, srgb_from_linear(linear.clip(0, 1)).astype(np.float32), faces
