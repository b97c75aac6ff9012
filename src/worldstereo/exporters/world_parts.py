"""What exporters take from a world beside its clips: its frame, and the results of `worldstereo reconstruct`."""

from worldstereo.errors import InputError
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.pipelines.world_folder import World
from worldstereo.reconstruction.folder import ReconstructionFolder
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.posed_frames import PosedFrames


def frame_of(world: World) -> SceneFrame:
    """What the world's coordinates mean."""
    return SceneFrame(world.manifest.up, world.manifest.metric)


def outdated(world: World) -> str:
    """One sentence that names the clips which the reconstruction has not seen; empty if there are none, or it is not
    made yet.

    A clip is seen if any of its frames was; clips that show nothing new, or that `reconstruct` leaves out, need not be.

    Raises:
        InputError: the record of the reconstruction is damaged.
    """
    folder = _folder(world)
    finished = [clip.name for clip in world.clips if clip.is_done]
    seen = {name.rpartition("-")[0] for name in folder.names}
    if not folder.has_cloud or seen.issuperset(finished):
        return ""
    usable = set(PosedFrames.of_world(world).clips)
    unseen = [name for name in finished if name in usable - seen]
    if not unseen:
        return ""
    clips = f"clip {unseen[0]}" if len(unseen) == 1 else f"clips {', '.join(unseen)}"
    return f"the reconstruction was made before {clips}; run 'worldstereo reconstruct {world.folder}' again"


def fused_cloud(world: World) -> FusedCloud | None:
    """The reconstruction's cloud; None if there is none yet, or it is `outdated`."""
    folder = _folder(world)
    return folder.cloud if folder.has_cloud and not outdated(world) else None


def best_cloud(world: World) -> PointCloud:
    """The reconstruction's cloud, or where it has not seen every clip the memory's."""
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
    return folder.splats


def mesh_of(world: World) -> TriangleMesh:
    """The reconstruction's mesh.

    Raises:
        InputError: there is none yet, or its file is damaged.
    """
    folder = _folder(world)
    if not folder.has_mesh:
        raise _missing(world, "mesh")
    return folder.mesh


def _folder(world: World) -> ReconstructionFolder:
    return ReconstructionFolder(world.folder / "reconstruction")


def _missing(world: World, what: str) -> InputError:
    return InputError(f"{world.folder}: has no {what} yet; run 'worldstereo reconstruct {world.folder}' first")
