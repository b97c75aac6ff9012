"""The files for people that crown a reconstruction."""

from worldstereo.exporters.glb import write_glb
from worldstereo.exporters.ply import write_ply
from worldstereo.exporters.scene_frame import SceneFrame
from worldstereo.exporters.splat_ply import write_splat_ply
from worldstereo.reconstruction.folder import ReconstructionFolder


def finish_reconstruction(reconstruction: ReconstructionFolder, frame: SceneFrame | None = None) -> None:
    """Write `point_cloud.ply`, and `mesh.glb` and `splats.ply` of what there is, into the reconstruction's folder."""
    cloud = reconstruction.cloud
    write_ply(reconstruction.folder / "point_cloud.ply", cloud.cloud, cloud.normals, frame)
    if reconstruction.has_mesh:
        write_glb(reconstruction.folder / "mesh.glb", reconstruction.mesh, frame)
    if reconstruction.has_splats:
        write_splat_ply(reconstruction.folder / "splats.ply", reconstruction.splats, frame)
