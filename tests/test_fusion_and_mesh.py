"""Clouds and meshes of planes and spheres against closed forms."""

import subprocess
import sys

import pytest
import torch

from box_room import look, see_room
from worldstereo.cameras import Cameras
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.reconstruction.fusion import CloudFusion, FusedCloud
from worldstereo.reconstruction.mesh import build_mesh, require_mesh_libraries
from worldstereo.reconstruction.tsdf import SignedDistanceField
from worldstereo.reconstruction.voxel_table import VoxelTable


def ring(count: int = 8, away: float = 3.0, size: int = 96) -> Cameras:
    """Cameras on a circle around the origin that look at it."""
    angles = torch.arange(count) * 2 * torch.pi / count
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 0], poses[:, 0, 2] = angles.cos(), -angles.sin()
    poses[:, 2, 0], poses[:, 2, 2] = angles.sin(), angles.cos()
    poses[:, 2, 3] = away
    return Cameras.from_fov(50.0, size, size).with_poses(poses)


def see_ball(cameras: Cameras, radius: float = 1.0):
    """z-depth of a ball at the origin, 0 beside it."""
    rays = torch.einsum("nji,nhwj->nhwi", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())
    start = cameras.centers[:, None, None]
    a, b = rays.square().sum(-1), (rays * start).sum(-1)
    inside = b.square() - a * (start.square().sum(-1) - radius**2)
    return torch.where(inside > 0, (-b - inside.clamp(min=0).sqrt()) / a, 0.0)


def fused(frames, order=None, **options) -> tuple[FusedCloud, CloudFusion]:
    images, depth, cameras = frames
    fusion = CloudFusion(**options)
    for n in order or range(len(depth)):
        sky = depth[n] == 0
        fusion.add(images[n], depth[n], (depth[n] > 0).float(), sky, cameras[n])
    return fusion.surface(), fusion


def ball_frames():
    cameras = ring()
    depth = see_ball(cameras)
    images = torch.full((len(cameras), 3, 96, 96), 0.25)
    return images, depth, cameras


def room_frames():
    cameras = Cameras.cat([look(x, yaw) for x, yaw in ((0.0, 0.0), (0.3, -5.0), (-0.3, 5.0))])
    return *see_room(cameras), cameras


def test_points_of_a_ball_lie_on_it_with_outward_normals():
    cloud, _ = fused(ball_frames())
    torch.testing.assert_close(cloud.points.norm(dim=1), torch.ones(len(cloud)), atol=0.01, rtol=0)
    outward = (cloud.normals * cloud.points).sum(dim=1)
    assert float(outward.median()) > 0.99
    assert float((outward > 0.8).float().mean()) > 0.97
    torch.testing.assert_close(cloud.colors, torch.full_like(cloud.colors, 0.25))
    torch.testing.assert_close(cloud.confidence, torch.ones(len(cloud)))


def test_the_order_of_the_frames_does_not_matter():
    frames = room_frames()
    one, _ = fused(frames)
    other, _ = fused(frames, order=[2, 0, 1])
    assert len(one) == len(other)
    for name in ("points", "colors", "normals", "confidence"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-5, rtol=0)


def test_averages_go_by_confidence_and_unsure_pixels_stay_out():
    camera = look(0.0, 0.0)
    depth = torch.full((80, 128), 2.0)
    fusion = CloudFusion(spacing=4.0)
    none = torch.zeros(80, 128, dtype=torch.bool)
    fusion.add(torch.zeros(3, 80, 128), depth, torch.full((80, 128), 0.75), none, camera)
    fusion.add(torch.ones(3, 80, 128), depth, torch.full((80, 128), 0.6), none, camera, 0.5)
    fusion.add(torch.ones(3, 80, 128), depth, torch.full((80, 128), 0.4), none, camera, 0.5)
    cloud = fusion.surface()
    torch.testing.assert_close(cloud.colors, torch.full_like(cloud.colors, 0.6 / 1.35))
    torch.testing.assert_close(cloud.confidence, torch.full((len(cloud),), (0.75**2 + 0.6**2) / 1.35))


def test_a_surface_seen_from_near_and_far_is_kept_at_the_finer_spacing_alone():
    near = look(0.0, 0.0)
    pose = torch.eye(4)[None].clone()
    pose[:, 2, 3] = 12.0  # stands twelve units behind
    far = near.with_poses(pose)
    wall = torch.full((80, 128), 2.0)
    none = torch.zeros(80, 128, dtype=torch.bool)
    alone = CloudFusion()
    alone.add(torch.zeros(3, 80, 128), wall, torch.ones(80, 128), none, near)
    both = CloudFusion()
    both.add(torch.zeros(3, 80, 128), wall, torch.ones(80, 128), none, near)
    both.add(torch.ones(3, 80, 128), wall + 12, torch.ones(80, 128), none, far)
    fine, mixed = alone.surface(), both.surface()
    within = (mixed.points[:, 0].abs() < 1.2) & (mixed.points[:, 1].abs() < 0.7)
    only = (fine.points[:, 0].abs() < 1.2) & (fine.points[:, 1].abs() < 0.7)
    assert int(within.sum()) == int(only.sum())
    assert float(mixed.colors[within].max()) == 0
    assert len(mixed) > len(fine)  # what only the far camera sees stays


def test_a_cloud_is_thinned_to_the_number_asked_for_and_keeps_its_place():
    _, fusion = fused(ball_frames())
    cloud = fusion.surface(max_points=2000)
    assert 300 < len(cloud) <= 2000
    torch.testing.assert_close(cloud.points.norm(dim=1), torch.ones(len(cloud)), atol=0.02, rtol=0)


def test_sky_lies_apart_and_far_behind():
    cloud, fusion = fused(ball_frames())
    sky = fusion.sky()
    assert float(sky.points.norm(dim=1).min()) > 50
    assert float(cloud.points.norm(dim=1).max()) < 1.1


def test_a_table_sums_what_falls_into_each_cube_over_many_growths():
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(-40, 40, (300_000, 3), generator=generator)
    table = VoxelTable(1)
    for part in place.split(50_000):
        table.add(torch.zeros(len(part), dtype=torch.long), part, torch.ones(len(part), 1))
    cells = table.cells()
    unique, counts = place.unique(dim=0, return_counts=True)
    assert torch.equal(cells.place, unique)
    assert torch.equal(cells.sums[:, 0].long(), counts)
    assert len(table) == len(unique)


def ball_mesh(max_triangles: int = 400_000):
    images, depth, cameras = ball_frames()
    cloud, _ = fused((images, depth, cameras))
    field = SignedDistanceField(cloud.points, 0.03)
    for n in range(len(depth)):
        field.add(depth[n], torch.ones(96, 96), cameras[n])
    return build_mesh(field, cloud, max_triangles=max_triangles), field


def test_the_mesh_of_a_ball_has_its_radius_faces_outward_and_is_of_one_piece():
    mesh, _ = ball_mesh()
    radius = mesh.vertices.norm(dim=1)
    torch.testing.assert_close(radius, torch.ones(len(radius)), atol=0.02, rtol=0)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    outward = (normal * (a + b + c)).sum(dim=1)
    assert float((outward > 0).float().mean()) > 0.999
    torch.testing.assert_close(mesh.colors, torch.full_like(mesh.colors, 0.25))
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).sort(dim=1).values
    uses = edges.unique(dim=0, return_counts=True)[1]
    assert int(uses.max()) == 2  # chunks are joined: no edge is doubled
    assert float((uses == 1).float().mean()) < 0.02  # open only at the poles, which no camera sees


def test_a_simplified_mesh_keeps_its_shape():
    mesh, _ = ball_mesh(max_triangles=1500)
    assert 1000 < len(mesh.faces) <= 1510
    assert float((mesh.vertices.norm(dim=1) - 1).abs().max()) < 0.03


def test_small_parts_are_removed():
    images, depth, cameras = ball_frames()
    depth[0, 4:8, 4:8] = 2.0
    cloud, _ = fused((images, depth, cameras))
    field = SignedDistanceField(cloud.points, 0.03)
    for n in range(len(depth)):
        field.add(depth[n], torch.ones(96, 96), cameras[n])
    kept = build_mesh(field, cloud, smallest_part=0.02)
    every = build_mesh(field, cloud, smallest_part=0.0)
    assert float(every.vertices.norm(dim=1).max()) > 1.2
    assert float(kept.vertices.norm(dim=1).max()) < 1.05


def test_a_field_coarsens_until_it_fits():
    cloud, _ = fused(ball_frames())
    field = SignedDistanceField(cloud.points, 0.005, max_blocks=200)
    assert len(field) <= 200
    assert field.voxel > 0.02


def test_a_field_without_points_is_refused():
    with pytest.raises(InputError, match="needs points"):
        SignedDistanceField(torch.zeros(0, 3), 0.1)


def test_a_missing_extra_is_named(monkeypatch):
    require_mesh_libraries()
    monkeypatch.setattr("worldstereo.reconstruction.mesh.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--no-mesh.*worldstereo\[mesh\]"):
        require_mesh_libraries()


def test_the_package_imports_without_the_extra():
    code = "import sys; import worldstereo.reconstruction.reconstruct; assert 'skimage' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
