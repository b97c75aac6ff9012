"""What exporters take from a world beside its clips: its frame, and the results of `worldstereo reconstruct`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.reconstruction.fusion import FusedCloud


def frame_of(world: World) -> SceneFrame:
    """What the world's coordinates mean."""
    return SceneFrame(world.manifest.up, world.manifest.metric)


def fused_cloud(world: World) -> FusedCloud | None:
    """The reconstruction's cloud; None if there is none yet."""
    folder = _folder(world)
    return folder.cloud if folder.has_cloud else None


def best_cloud(world: World) -> PointCloud:
    """The reconstruction's cloud, or else the memory's."""
    fused = fused_cloud(world)
    return world.point_cloud if fused is None else fused.cloud


def splats_of(world: World) -> GaussianSplats:
    """The reconstruction's splats.

    Raises:
        InputError: there are none yet, or their file is damaged.
    """
    folder = _folder(world)
    if not folder.has_splats:
        raise _missing(world, "splats")
    with _whole(folder.folder / "splats.safetensors"):
        splats = folder.splats
        _require_columns(means=splats.means, scales=splats.scales, colors=splats.colors)
    return splats


def mesh_of(world: World) -> TriangleMesh:
    """The reconstruction's mesh.

    Raises:
        InputError: there is none yet, or its file is damaged.
    """
    folder = _folder(world)
    if not folder.has_mesh:
        raise _missing(world, "mesh")
    with _whole(folder.folder / "mesh.safetensors"):
        mesh = folder.mesh
        _require_columns(vertices=mesh.vertices, faces=mesh.faces, colors=mesh.colors)
    return mesh


def _folder(world: World) -> ReconstructionFolder:
    return ReconstructionFolder(world.folder / "reconstruction")


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Name the file where its tensors are not what they ought to be."""
    try:
        yield
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete it and run 'worldstereo reconstruct' again") from None


def _require_columns(**tensors: Tensor) -> None:
    for name, values in tensors.items():
        if values.ndim != 2 or values.shape[1] != 3:
            raise InputError(f"{name} has the shape {tuple(values.shape)}")
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"{name} has a value that is not finite")


def _missing(world: World, what: str) -> InputError:
    return InputError(f"{world.folder}: has no {what} yet; run 'worldstereo reconstruct {world.folder}' first")
