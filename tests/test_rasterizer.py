"""The published point render: parity, closed forms, both implementations; the sharp render."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.geometry.rasterizer import render_points
from worldstereo.geometry.rasterizer_reference import render_points_reference
from worldstereo.geometry.sharp_rendering import render_points_sharp

SHARED = Path(__file__).parents[2] / "shared" / "parity" / "render.safetensors"
SHIPPED = Path(__file__).parent / "data" / "render_tall.safetensors"
RENDERERS = pytest.mark.parametrize("render", [render_points, render_points_reference])


def random_scene(points: int = 3000, width: int = 60, height: int = 44) -> tuple[PointCloud, Cameras]:
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(points, 3, generator=generator) * torch.tensor([4.0, 3.0, 4.0]) - torch.tensor([2.0, 1.5, 1.0])
    cameras = Cameras.from_fov(70.0, width, height)
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 0.3, -0.2])
    return PointCloud(places, torch.rand(points, 3, generator=generator)), cameras.with_poses(poses)


def check_parity(file: Path, case: str, render) -> None:
    official = {k.removeprefix(f"{case}."): v for k, v in load_file(file).items() if k.startswith(f"{case}.")}
    height, width = official["nearest_depth"].shape[1:]
    cameras = Cameras(official["cam_from_world"], official["intrinsics"], width, height)
    cloud = PointCloud(official["points"], (official["colors"] + 1) / 2)
    result = render(
        cloud,
        cameras,
        radius_ndc=float(official["radius_ndc"]),
        points_per_pixel=int(official["points_per_pixel"]),
    )
    holes = official["hole_mask"][:, 0] > 0.5
    same = holes == result.hole_mask
    assert (~same).float().mean() <= 1e-3
    off = (2 * result.rgb - 1 - official["rgb"]).abs().amax(dim=1)[same]
    assert (off > 1e-3).float().mean() <= 5e-3
    both = ~holes & ~result.hole_mask
    truth = official["nearest_depth"][both]
    assert ((result.depth[both] - truth).abs() > 1e-4 * truth).float().mean() <= 1e-3
    assert bool((result.depth[result.hole_mask] == 0).all())


@RENDERERS
def test_equals_the_official_renderer(render):
    check_parity(SHIPPED, "tall", render)


@pytest.mark.skipif(not SHARED.exists(), reason="the parity figures lie beside the repository only where it was made")
@pytest.mark.parametrize("case", ["a", "b"])
def test_equals_the_official_renderer_on_larger_cases(case):
    check_parity(SHARED, case, render_points)


@RENDERERS
def test_one_point_has_the_closed_form(render):
    camera = Cameras.from_fov(90.0, 20, 10)  # focal 10, centre (10, 5); radius 0.4 NDC = 2 pixels
    cloud = PointCloud(torch.tensor([[0.06, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, 0.25]]))
    result = render(cloud, camera, radius_ndc=0.4, background=0.5)
    rows, columns = torch.meshgrid(torch.arange(10) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    squared = (columns - 10.3) ** 2 + (rows - 5.0) ** 2
    alpha = (1 - squared / 4).clamp(min=0)
    expected = alpha * torch.tensor([1.0, 0.0, 0.25])[:, None, None] + (1 - alpha) * 0.5
    torch.testing.assert_close(result.rgb[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(result.hole_mask[0], squared >= 4)
    torch.testing.assert_close(result.depth[0], torch.where(squared < 4, 2.0, 0.0))


@RENDERERS
def test_only_the_nearest_points_count_front_to_back(render):
    camera = Cameras.from_fov(90.0, 4, 4)
    depths = torch.tensor([3.0, 1.0, 2.0])
    cloud = PointCloud(torch.stack([0.1 * depths, 0.1 * depths, depths], dim=1), torch.eye(3))
    alpha = 1 - 2 * 0.3**2 / 4  # the points project to (2.2, 2.2), the pixel's centre is (2.5, 2.5), radius 2 px
    for limit, weights in {
        1: [0.0, alpha, 0.0],
        2: [0.0, alpha, alpha * (1 - alpha)],
        3: [alpha * (1 - alpha) ** 2, alpha, alpha * (1 - alpha)],
    }.items():
        result = render(cloud, camera, radius_ndc=1.0, points_per_pixel=limit, background=0.0)
        torch.testing.assert_close(result.rgb[0, :, 2, 2], torch.tensor(weights), atol=1e-5, rtol=0)
        assert result.depth[0, 2, 2] == 1.0


def test_fast_path_equals_the_reference():
    cloud, cameras = random_scene()
    fast, plain = (
        render(cloud, cameras, radius_ndc=0.07, points_per_pixel=5)
        for render in (render_points, render_points_reference)
    )
    assert (fast.hole_mask != plain.hole_mask).float().mean() < 1e-3
    assert ((fast.rgb - plain.rgb).abs().amax(dim=1) > 1e-4).float().mean() < 2e-3
    assert ((fast.depth - plain.depth).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize("render", [render_points, render_points_sharp])
def test_same_bytes_whatever_the_number_of_threads(render):
    cloud, cameras = random_scene()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(render(cloud, cameras))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0].rgb, other.rgb)
        assert torch.equal(results[0].depth, other.depth)
        assert torch.equal(results[0].hole_mask, other.hole_mask)


@RENDERERS
def test_equal_depths_are_taken_in_the_order_of_the_cloud(render):
    camera = Cameras.from_fov(90.0, 4, 4)
    cloud = PointCloud(torch.tensor([[0.1, 0.1, 1.0]]).repeat(2, 1), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    result = render(cloud, camera, radius_ndc=1.0, points_per_pixel=1, background=0.0)
    assert result.rgb[0, 0].max() > 0.9
    assert result.rgb[0, 1].max() == 0


@pytest.mark.parametrize("render", [render_points, render_points_reference, render_points_sharp])
def test_backdrop_covers_holes_without_depth(render):
    camera = Cameras.from_fov(90.0, 16, 16)
    cloud = PointCloud(camera.unproject(torch.full((1, 16, 16), 2.0))[0, :, :8].reshape(-1, 3), torch.zeros(128, 3))
    sky = PointCloud(camera.unproject(torch.full((1, 16, 16), 200.0))[0, :, 8:].reshape(-1, 3), torch.ones(128, 3))
    alone, both = render(cloud, camera), render(cloud, camera, backdrop=sky)
    assert bool(alone.hole_mask[0, :, 10:].all())
    assert not bool(both.hole_mask.any())
    assert bool((both.depth[0, :, 10:] == 0).all())
    torch.testing.assert_close(both.depth[0, :, :7], torch.full((16, 7), 2.0))
    assert both.rgb[0, :, :, 10:].min() > 0.9


@pytest.mark.parametrize("render", [render_points, render_points_reference, render_points_sharp])
def test_nothing_in_view_is_a_hole(render):
    camera = Cameras.from_fov(60.0, 8, 6)
    behind = PointCloud(torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.ones(2, 3))
    for cloud in (PointCloud.empty(), behind):
        result = render(cloud, camera, background=0.25)
        assert bool(result.hole_mask.all())
        assert bool((result.rgb == 0.25).all())
        assert bool((result.depth == 0).all())


def test_options_without_sense_are_refused():
    cloud, cameras = random_scene(10)
    with pytest.raises(InputError, match="radius_ndc"):
        render_points(cloud, cameras, radius_ndc=0.0)
    with pytest.raises(InputError, match="points_per_pixel"):
        render_points(cloud, cameras, points_per_pixel=0)
    with pytest.raises(InputError, match="closing"):
        render_points_sharp(cloud, cameras, closing_ndc=-1.0)


# The sharp render


def texture(place: Tensor) -> Tensor:
    """Colours of a plane's points, with detail of about five pixels at focal 170 and depth 2."""
    return torch.stack(
        [
            0.5 + 0.5 * torch.sin(90 * place[:, 0]),
            0.5 + 0.5 * torch.sin(70 * place[:, 1] + 1),
            0.5 + 0.25 * torch.sin(60 * place[:, 0]) + 0.25 * torch.sin(40 * place[:, 1]),
        ],
        dim=1,
    )


def plane_before_a_wall(closer: float) -> tuple[PointCloud, Cameras, Tensor]:
    """A textured plane at depth 2 seen by one camera, a red wall behind it, a camera `closer`, and what that sees."""
    camera = Cameras.from_fov(73.0, 256, 160)
    near = camera.unproject(torch.full((1, 160, 256), 2.0))[0].reshape(-1, 3)
    wall = camera.unproject(torch.full((1, 160, 256), 6.0))[0].reshape(-1, 3)
    red = torch.tensor([1.0, 0.0, 0.0]).expand(len(wall), 3)
    cloud = PointCloud(torch.cat([near, wall]), torch.cat([texture(near), red]))
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.013, -0.009, -closer])
    moved = camera.with_poses(pose[None])
    truth = texture(moved.unproject(torch.full((1, 160, 256), 2.0 - closer))[0].reshape(-1, 3))
    return cloud, moved, truth.T.reshape(3, 160, 256)


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * ((one - other) ** 2).mean().log10())


TWO_PIXELS = 1.92 / 80  # what 0.008 is at 480 rows, for these pictures of 160


@pytest.mark.parametrize("closer", [0.0, 2 / 3])
def test_sharp_render_is_sharper_than_the_published_one(closer):
    cloud, camera, truth = plane_before_a_wall(closer)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    published = psnr(render_points(cloud, camera, radius_ndc=TWO_PIXELS).rgb[0][inner], truth[inner])
    sharp = psnr(render_points_sharp(cloud, camera, closing_ndc=TWO_PIXELS).rgb[0][inner], truth[inner])
    assert sharp > published + 3
    assert sharp > 29


def test_no_background_shows_through_a_dense_plane_at_one_and_a_half_magnification():
    cloud, camera, _ = plane_before_a_wall(2 / 3)
    inner = (0, slice(8, -8), slice(8, -8))
    small_discs = render_points(cloud, camera, radius_ndc=0.004, points_per_pixel=8)
    assert (small_discs.depth[inner] > 3).any(), "the scene does have cracks"
    sharp = render_points_sharp(cloud, camera)
    torch.testing.assert_close(sharp.depth[inner], torch.full_like(sharp.depth[inner], 4 / 3), rtol=1e-4, atol=0)


def test_sharp_holes_do_not_shrink_nor_outlines_grow():
    camera = Cameras.from_fov(90.0, 64, 64)
    places = camera.unproject(torch.full((1, 64, 64), 2.0))[0]
    known = torch.ones(64, 64, dtype=torch.bool)
    known[20:40, 24:50] = False
    render = render_points_sharp(PointCloud(places[known], torch.ones(int(known.sum()), 3)), camera, closing_ndc=0.0625)
    assert torch.equal(render.hole_mask[0], ~known)
