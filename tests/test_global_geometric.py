"""The global-geometric memory: rendering, growth, rejection, files."""

import pytest
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from box_room import look, predicted, see_room
from worldstereo.cameras import Cameras
from worldstereo.data.procedural import ProceduralScene
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.memory.clip_alignment import align_clip
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture


def memory_of_room() -> GlobalGeometricMemory:
    camera = look(0.0, 0.0)
    image, depth = see_room(camera)
    lifted = lift_picture(image[0], predicted(depth[0]), camera)
    return GlobalGeometricMemory(lifted.cloud, lifted.sky)


def clip(x: float, yaw: float, frames: int = 5) -> Cameras:
    """A path from the start to a camera at (x, 0, 0) turned by `yaw`."""
    return Cameras.cat([look(x * t, yaw * t) for t in torch.linspace(1 / frames, 1, frames).tolist()])


def rescaled(depth: Float[Tensor, "h w"], scale: float, shift: float) -> DepthPrediction:
    """A depth whose disparity d' obeys d = scale · d' + shift."""
    return predicted(scale / (1 / depth - shift))


def error_against_truth(points: Float[Tensor, "p 3"], cameras: Cameras, depth: Float[Tensor, "f h w"]) -> Tensor:
    """Relative depth error of points in the views that see them, the best view each."""
    best = torch.full((len(points),), torch.inf)
    for f in range(len(cameras)):
        pixels, z = (value[0] for value in cameras[f].project(points))
        column, row = pixels.floor().long().unbind(dim=1)
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < cameras.width) & (row < cameras.height)
        truth = depth[f, row[inside], column[inside]]
        best[inside] = torch.minimum(best[inside], (z[inside] - truth).abs() / truth)
    return best


def test_render_has_sky_behind_the_surfaces():
    camera = look(0.0, 0.0)
    image, depth = see_room(camera)
    sky = torch.zeros_like(depth[0], dtype=torch.bool)
    sky[:20] = True
    depth[0][sky] = 0
    lifted = lift_picture(image[0], predicted(depth[0], sky), camera)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    for render in (memory.render(camera, 0.04), memory.render_sharp(camera)):
        assert not render.hole_mask[0, :18].any()
        assert (render.depth[0, :18] == 0).all()
        below = ~render.hole_mask[0, 23:]
        assert below.float().mean() > 0.95
        assert (render.depth[0, 23:][below] > 0).all()
    aside = memory.render_sharp(look(0.0, 4.0))
    assert aside.hole_mask[0, :18, -3:].all(), "sky that no picture showed is a hole"


@pytest.mark.parametrize(("ratio", "added"), [(2.5, True), (5.0, False)])
def test_what_lies_farther_is_new_surface_up_to_three_times_as_far(ratio: float, added: bool):
    """A wall at depth 2 that ends to the right, and another behind it, which only the turned cameras see."""

    def walls(cameras: Cameras) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
        rays = torch.einsum("nji,nhwj->nhwi", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())
        depth = 2 / rays[..., 2]
        depth = torch.where(depth * rays[..., 0] < 1.6, depth, 2 * ratio / rays[..., 2])
        return (0.5 + 0.4 * torch.sin(5 * depth[..., None] * rays)).permute(0, 3, 1, 2), depth

    camera, cameras = look(0.0, 0.0), clip(0.0, 20.0)
    image, depth = walls(camera)
    lifted = lift_picture(image[0], predicted(depth[0]), camera)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    assert memory.cloud.points[:, 2].max() < 2.001
    images, depths = walls(cameras)
    memory.update(images, cameras, [predicted(one) for one in depths])
    behind = memory.cloud.points[memory.cloud.points[:, 2] > 2.01]
    assert (len(behind) > 300) == added
    assert len(behind) == 0 or added
    torch.testing.assert_close(behind[:, 2], torch.full((len(behind),), 2 * ratio), rtol=0.01, atol=0)


def test_a_clip_with_wrong_scale_and_shift_is_brought_back():
    memory, cameras = memory_of_room(), clip(0.8, 35.0)
    before = memory.cloud
    images, depth = see_room(cameras)
    predictions = [rescaled(one, 0.37 + 0.05 * f, 0.02 * (f % 3)) for f, one in enumerate(depth)]
    report = memory.update(images, cameras, predictions)
    assert [frame.status for frame in report.frames] == ["aligned"] * 5
    for f, frame in enumerate(report.frames):
        assert frame.scale == pytest.approx(0.37 + 0.05 * f, rel=0.02)
        assert frame.shift == pytest.approx(0.02 * (f % 3), abs=0.005)
    assert report.points_added > 1000
    assert report.points_added <= report.points_proposed
    added = memory.cloud.points[len(before) :]
    assert len(added) == report.points_added
    error = error_against_truth(added, cameras, depth)
    assert error.median() < 0.005
    assert error.quantile(0.95) < 0.03
    raw = error_against_truth(cameras[4].unproject(predictions[4].depth[None])[0].reshape(-1, 3), cameras, depth)
    assert raw.median() > 0.2, "unaligned, it would be far off"
    assert torch.equal(memory.cloud.points[: len(before)], before.points)
    assert torch.equal(memory.cloud.colors[: len(before)], before.colors)


def garbage(kind: str, depth: Float[Tensor, "f h w"]) -> list[DepthPrediction]:
    generator = torch.Generator().manual_seed(7)
    shape = depth.shape[1:]
    make = {
        "noise": lambda one: 0.5 + 5 * torch.rand(shape, generator=generator),
        "constant": lambda one: torch.full(shape, 2.0),
        "inverted": lambda one: one.max() + one.min() - one,
        "upside down": lambda one: one.flip(0).flip(1),
        "smooth": lambda one: torch.nn.functional.interpolate(
            1 + 5 * torch.rand(1, 1, 4, 5, generator=generator), shape, mode="bicubic"
        )[0, 0].clamp(min=0.3),
        "unknown": lambda one: torch.zeros(shape),
    }[kind]
    return [predicted(make(one)) for one in depth]


@pytest.mark.parametrize("kind", ["noise", "constant", "inverted", "upside down", "smooth", "unknown"])
def test_a_clip_of_garbage_depth_is_rejected_and_changes_nothing(kind):
    memory, cameras = memory_of_room(), clip(0.8, 35.0)
    points, colors = memory.cloud.points.clone(), memory.cloud.colors.clone()
    images, depth = see_room(cameras)
    report = memory.update(images, cameras, garbage(kind, depth))
    assert [frame.status for frame in report.frames] == ["rejected"] * 5
    assert all(frame.reason for frame in report.frames)
    assert (report.points_proposed, report.points_added, report.sky_added) == (0, 0, 0)
    assert torch.equal(memory.cloud.points, points)
    assert torch.equal(memory.cloud.colors, colors)


def test_one_garbage_frame_does_not_spoil_a_clip():
    memory, cameras = memory_of_room(), clip(0.8, 35.0)
    images, depth = see_room(cameras)
    predictions = [predicted(one) for one in depth]
    predictions[2] = garbage("noise", depth)[2]
    report = memory.update(images, cameras, predictions)
    assert [frame.status for frame in report.frames] == ["aligned", "aligned", "rejected", "aligned", "aligned"]
    added = memory.cloud.points[-report.points_added :]
    assert error_against_truth(added, cameras, depth).quantile(0.95) < 0.03


def test_a_frame_away_from_the_cloud_borrows_its_neighbour():
    memory = memory_of_room()
    cameras = Cameras.cat([look(0.0, 8.0), look(0.0, 16.0), look(0.0, 90.0)])
    _, depth = see_room(cameras)
    predictions = [rescaled(one, 0.5, 0.03) for one in depth]
    aligned = align_clip(predictions, memory.render_sharp(cameras).depth)
    assert [frame.status for frame in aligned] == ["aligned", "aligned", "borrowed"]
    assert "the cloud shows only" in aligned[2].reason
    assert ((aligned[2].depth - depth[2]).abs() / depth[2]).median() < 0.02
    lonely = align_clip(predictions[2:], memory.render_sharp(cameras[2]).depth)
    assert lonely[0].status == "rejected"


def test_a_point_that_other_frames_see_past_is_not_believed():
    cameras = Cameras.cat([look(0.8, 35.0), look(0.81, 35.5), look(0.82, 36.0)])
    images, depth = see_room(cameras)
    honest = memory_of_room().update(images, cameras, [predicted(one) for one in depth])
    lying = depth.clone()
    lying[0, :, -30:] *= 0.6  # what is new in the first frame stands before the wall that the others see
    memory = memory_of_room()
    report = memory.update(images, cameras, [predicted(one) for one in lying])
    assert report.frames[0].points < honest.frames[0].points - 0.9 * 30 * 80
    added = memory.cloud.points[-report.points_added :]
    assert (error_against_truth(added, cameras, depth) > 0.1).float().mean() < 0.02


def test_sky_grows_through_holes():
    cameras = Cameras.cat([look(0.0, 15.0), look(0.0, 30.0)])
    first, aside = look(0.0, 0.0), cameras
    image, depth = see_room(first)
    images, depths = see_room(aside)
    sky = torch.zeros_like(depth[0], dtype=torch.bool)
    sky[:20] = True
    hide = [torch.where(sky, 0.0, one) for one in (depth[0], *depths)]
    lifted = lift_picture(image[0], predicted(hide[0], sky), first)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    report = memory.update(images, aside, [predicted(one, sky) for one in hide[1:]])
    assert report.sky_added > 300
    assert not memory.render_sharp(cameras).hole_mask[:, 2:18, 2:-2].any()
    distance = memory.sky.points.norm(dim=1)
    assert distance.max() < 1.01 * distance.min()


def turned(camera: Cameras, yaw_degrees: float, forward: float) -> Cameras:
    """The camera turned about the world's vertical and moved along its first axis of view."""
    yaw = torch.deg2rad(torch.tensor(yaw_degrees))
    turn = torch.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = yaw.cos(), yaw.sin(), -yaw.sin(), yaw.cos()
    pose = camera.world_from_cam[0].clone()
    pose[:3, 3] += forward * camera.forward[0]
    pose[:3, :3] = turn[:3, :3] @ pose[:3, :3]
    return camera.with_poses(torch.linalg.inv(pose)[None])


def test_three_clips_complete_a_procedural_room_without_thickening_it():
    scene = ProceduralScene.sample(3, kind="room")
    start = scene.sample_cameras(1, 0, 112, 72, (70.0, 71.0))
    seen = scene.render(start)
    lifted = lift_picture(seen.rgb[0], predicted(seen.depth[0], seen.sky[0]), start)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    clips = [
        Cameras.cat([turned(start, end * t, 0.25 * t) for t in (0.2, 0.4, 0.6, 0.8, 1.0)])
        for end in (75.0, -75.0, 140.0)
    ]
    everything = Cameras.cat([start, *clips])
    truth = [scene.render(cameras) for cameras in (start, *clips)]
    depths = torch.cat([render.depth for render in truth])
    surface = everything.unproject(depths)[depths > 0][::5]

    def figures() -> tuple[float, float, float]:
        """Median and 95th percentile distance of the points from the scene, share of the scene within 8 cm."""
        off = scene.distance(memory.cloud.points[::5]).abs()
        near = cKDTree(memory.cloud.points.numpy()).query(surface.numpy())[0] < 0.08
        return float(off.median()), float(off.quantile(0.95)), float(near.mean())

    before = figures()
    generator, added = torch.Generator().manual_seed(0), []
    for path, render in zip(clips, truth[1:], strict=True):
        noisy = render.depth * (1 + 0.003 * torch.randn(render.depth.shape, generator=generator))
        predictions = [
            predicted(torch.where(sky, 0.0, 0.6 / (1 / one.clamp(0.1, 20.0) - 0.02)), sky)
            for one, sky in zip(noisy, render.sky, strict=True)
        ]
        report = memory.update(render.rgb, path, predictions)
        assert "rejected" not in {frame.status for frame in report.frames}
        added.append(report.points_added)
    after = figures()
    print("median distance to a surface, 95th percentile, completeness:", before, after, added)
    assert before[2] < 0.5
    assert after[2] > before[2] + 0.3
    assert after[0] < 0.01
    assert after[1] < 0.05
    render = truth[1]
    predictions = [predicted(one, sky) for one, sky in zip(render.depth, render.sky, strict=True)]
    again = memory.update(render.rgb, clips[0], predictions)
    assert again.points_added < 0.1 * added[0], "what is known is not added again"


def test_same_input_same_bytes():
    cameras = clip(0.8, 35.0, frames=3)
    images, depth = see_room(cameras)
    results = []
    for _ in range(2):
        memory = memory_of_room()
        memory.update(images, cameras, [rescaled(one, 0.5, 0.01) for one in depth])
        results.append(memory.cloud)
    assert torch.equal(results[0].points, results[1].points)
    assert torch.equal(results[0].colors, results[1].colors)


def test_save_and_load_are_lossless(tmp_path):
    memory = memory_of_room()
    sky = PointCloud(torch.randn(5, 3), torch.rand(5, 3))
    memory = GlobalGeometricMemory(memory.cloud, sky)
    memory.save(tmp_path / "memory.safetensors")
    loaded = GlobalGeometricMemory.load(tmp_path / "memory.safetensors")
    for one, other in ((memory.cloud, loaded.cloud), (memory.sky, loaded.sky)):
        assert torch.equal(one.points, other.points)
        assert torch.equal(one.colors, other.colors)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.safetensors"]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        GlobalGeometricMemory.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(InputError, match="cannot be read"):
        GlobalGeometricMemory.load(tmp_path / "text.safetensors")
    memory, cameras = memory_of_room(), clip(0.1, 2.0, frames=2)
    images, depth = see_room(cameras)
    with pytest.raises(InputError, match="must be equal"):
        memory.update(images, cameras, [predicted(depth[0])])
    with pytest.raises(InputError, match="different sizes"):
        memory.update(images, cameras, [predicted(one[:40]) for one in depth])


def test_a_hole_beside_a_roof_is_sky_and_not_more_roof():
    """Whatever the depth back-end makes of the hole between a near roof and the sky, no roof is added there."""
    camera = Cameras.from_fov(60.0, 96, 64)
    depth, sky = torch.full((64, 96), 3.0), torch.zeros(64, 96, dtype=torch.bool)
    sky[:18], depth[:30] = True, 0.0
    image = torch.where(depth == 0, 0.9, 0.2).expand(3, -1, -1)
    lifted = lift_picture(image, DepthPrediction(depth, sky, None, False, "truth"), camera)
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    holes = memory.render_sharp(camera).hole_mask[0]
    assert bool(holes[20:28].all())
    wrong = DepthPrediction(torch.full((64, 96), 3.0), torch.zeros_like(sky), None, False, "wrong")
    memory.update(image[None], camera, [wrong])
    added = memory.cloud.points[len(lifted.cloud) :]
    rows = camera.project(added)[0][0, :, 1] if len(added) else torch.zeros(0)
    assert not bool((rows < 26).any())
    assert len(memory.sky) > len(lifted.sky)
