"""Splats from a cloud and frames: how they start, that they improve, that they go on, what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from box_room import look, see_room
from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.geometry.splat_rasterizer import composite_splats, render_splats
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.image_metrics import ssim
from worldstereo.reconstruction import splat_optimization
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.splat_initialization import splats_from_cloud, splats_from_sky, thin_cloud
from worldstereo.reconstruction.splat_losses import depth_loss, normal_loss, picture_loss, shape_loss, ssim_map
from worldstereo.reconstruction.splat_optimization import SplatSettings, Stage, make_splats
from worldstereo.reconstruction.splat_state import SplatState
from worldstereo.reconstruction.splat_views import SplatViews

CAMERAS = Cameras.cat([look(x, 12 * x, 40, 30) for x in torch.linspace(-0.8, 0.8, 9).tolist()])
SETTINGS = SplatSettings(budget=1500, stages=(Stage(2, 40), Stage(1, 60)), held_out_every=4)


def wall(step: float = 0.1, z: float = 3.0) -> FusedCloud:
    """Points of a grid in a plane that faces the camera."""
    x, y = torch.meshgrid(torch.arange(-10, 11) * step, torch.arange(-10, 11) * step, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.full((441,), z)], dim=1)
    normals = torch.tensor([0.0, 0.0, -1.0]).expand(441, 3)
    return FusedCloud(points, torch.full((441, 3), 0.5), normals.clone(), torch.ones(441))


def room() -> tuple[SplatViews, FusedCloud]:
    """Frames of a box in a room, and a noisy, sparse cloud of it without normals."""
    frames, depth = see_room(CAMERAS)
    generator = torch.Generator().manual_seed(0)
    places = CAMERAS.unproject(depth)[::4, ::3, ::3].reshape(-1, 3)
    colors = frames.permute(0, 2, 3, 1)[::4, ::3, ::3].reshape(-1, 3)
    noisy = places + 0.02 * torch.randn(places.shape, generator=generator)
    cloud = FusedCloud(noisy, colors, torch.zeros_like(places), torch.full((len(places),), 0.7))
    return SplatViews(frames, CAMERAS, depth), cloud


def equal(one: GaussianSplats, other: GaussianSplats) -> bool:
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_splats_start_flat_on_their_points_as_wide_as_their_neighbours_are_far():
    splats = splats_from_cloud(wall(), CAMERAS, 1000)
    assert torch.equal(splats.means, wall().points)
    inner = (splats.means[:, :2].abs() < 0.95).all(dim=1)
    torch.testing.assert_close(splats.scales[inner], torch.tensor([0.06, 0.06, 0.015]).expand(int(inner.sum()), 3))
    normals = matrix_from_quaternion(splats.rotations)[:, :, 2]
    torch.testing.assert_close(normals, wall().normals, atol=1e-6, rtol=0)
    torch.testing.assert_close(splats.opacities, torch.full((441,), 0.8))


def test_splats_without_normals_are_round_and_unsure_ones_are_faint():
    cloud = wall()
    unsure = FusedCloud(cloud.points, cloud.colors, torch.zeros(441, 3), torch.zeros(441))
    splats = splats_from_cloud(unsure, CAMERAS, 1000)
    assert torch.equal(splats.scales[:, 0], splats.scales[:, 2])
    torch.testing.assert_close(splats.opacities, torch.full((441,), 0.3))


def test_a_wall_of_splats_has_no_gaps():
    render = render_splats(splats_from_cloud(wall(), CAMERAS, 1000), look(0.0, 0.0, 60, 60, fov=30.0))
    assert float(render.coverage.min()) > 0.8
    torch.testing.assert_close(render.depth, torch.full((1, 60, 60), 3.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("budget", [1, 30, 200, 440])
def test_thinning_keeps_the_budget_and_the_mean(budget):
    cloud = wall()
    thin = thin_cloud(cloud, CAMERAS, budget)
    assert 0 < len(thin) <= budget
    torch.testing.assert_close(thin.points[:, 2], torch.full((len(thin),), 3.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(thin.normals, cloud.normals[: len(thin)], atol=1e-6, rtol=0)
    assert thin_cloud(cloud, CAMERAS, 441) is cloud


def test_thinning_keeps_more_near_the_cameras():
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(4000, 3, generator=generator) + torch.tensor([0.0, 0.0, 1.0])
    points = torch.cat([points, points + torch.tensor([0.0, 0.0, 15.0])])
    ones = torch.ones(8000, 3)
    thin = thin_cloud(FusedCloud(points, ones, ones, ones[:, 0]), CAMERAS, 1000)
    near = int((thin.points[:, 2] < 5).sum())
    assert near > 5 * (len(thin) - near) > 0


def test_the_sky_lies_behind_and_faces_the_cameras():
    directions = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    sky = splats_from_sky(PointCloud(300 * directions, torch.ones(300, 3)), CAMERAS, 1000)
    normals = matrix_from_quaternion(sky.rotations)[:, :, 2]
    assert float((normals * directions).sum(dim=1).max()) < -0.99
    assert len(splats_from_sky(PointCloud.empty(), CAMERAS, 10)) == 0


def test_the_similarity_map_is_that_of_the_metric():
    generator = torch.Generator().manual_seed(3)
    one, other = torch.rand(2, 3, 25, 31, generator=generator)
    assert float(ssim_map(one, other).mean()) == pytest.approx(ssim(one[None], other[None]), abs=1e-5)
    assert float(ssim_map(one, one).min()) == pytest.approx(1, abs=1e-4)


def test_losses_have_their_closed_forms():
    generator = torch.Generator().manual_seed(4)
    truth = torch.rand(3, 20, 20, generator=generator) / 2
    weight = torch.ones(20, 20)
    assert float(picture_loss(truth + 0.25, truth, weight, 0.0)) == pytest.approx(0.25, abs=1e-6)
    assert float(picture_loss(truth + 0.25, truth, 0 * weight, 0.2)) == 0
    depth = torch.full((20, 20), 2.0)
    depth[:10] = 0  # unknown
    assert float(depth_loss(0.8 * 2.1 * weight, 0.8 * weight, depth, weight)) == pytest.approx(0.05 / 2, rel=1e-4)
    assert float(depth_loss(0.8 * 9 * weight, 0.8 * weight, depth, weight)) == pytest.approx(0.1 / 2, rel=1e-4)
    facing = torch.tensor([0.0, 0.6, -0.8])
    normals = facing[:, None, None].expand(3, 20, 20)
    assert float(normal_loss(0.5 * normals, facing.expand(20, 20, 3), weight)) == pytest.approx(0.5, rel=1e-5)
    scales = torch.tensor([[1.0, 1.0, 0.2], [5.0, 1.0, 0.5]]).log()
    assert float(shape_loss(scales, 5.0)) == pytest.approx(torch.tensor(2.0).log().item() / 2, rel=1e-5)


def test_optimising_improves_frames_that_it_never_saw_and_keeps_the_budget():
    views, cloud = room()
    splats, report = make_splats(views, cloud, settings=SETTINGS)
    assert report.held_out == (2, 6)
    assert report.psnr_after > report.psnr_before + 3
    assert report.count == len(splats) <= SETTINGS.budget
    assert bool((splats.scales > 0).all())
    assert bool(((splats.opacities > 0) & (splats.opacities < 1)).all())
    torch.testing.assert_close(splats.rotations.norm(dim=1), torch.ones(len(splats)))
    assert float(splats.colors.min()) >= 0
    assert float(splats.colors.max()) <= 1


def test_frames_that_do_not_count_change_nothing():
    views, cloud = room()
    weight = torch.ones(9, 30, 40)
    weight[3] = 0
    spoiled = views.frames.clone()
    spoiled[3] = 0
    short = replace(SETTINGS, stages=(Stage(1, 10),), depth=0.0, shape=0.0)
    results = []
    for frames in (views.frames, spoiled):
        splats, _ = make_splats(SplatViews(frames, CAMERAS, None, weight), cloud, settings=short)
        results.append(splats)
    assert equal(*results)


def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splat_optimization, "_EVERY", 20)
    views, cloud = room()
    settings = replace(SETTINGS, stages=(Stage(2, 30), Stage(1, 30)))
    whole, _ = make_splats(views, cloud, settings=settings)

    class Killed(Exception):
        pass

    def killer(what: str, share: float) -> None:
        if share > 0.8:
            raise Killed

    file = tmp_path / "splats.safetensors"
    with pytest.raises(Killed):
        make_splats(views, cloud, None, settings, killer, checkpoint=file)
    calls: list[str] = []
    resumed, _ = make_splats(views, cloud, None, settings, lambda what, _: calls.append(what), checkpoint=file)
    assert len(calls) == 2  # steps 50 and 60
    assert equal(whole, resumed)
    other, _ = make_splats(
        views, cloud, None, replace(settings, seed=1), lambda what, _: calls.append(what), checkpoint=file
    )
    assert len(calls) == 2 + 6
    assert not equal(whole, other)
    file.write_bytes(b"something else")
    with pytest.raises(InputError, match="delete it to start anew"):
        make_splats(views, cloud, None, settings, checkpoint=file)


def sky_scene() -> tuple[SplatViews, FusedCloud, PointCloud]:
    """A wall whose upper half is cut off, and a bright sky above it; the cloud reaches a little into the sky."""
    cameras = Cameras.cat([look(x, 0.0, 40, 30) for x in (-0.4, -0.2, 0.0, 0.2, 0.4)])
    rays = cameras.pixel_rays()
    on_wall = rays[..., 1] > 0.05
    depth = torch.where(on_wall, 3.0, 0.0)
    place = cameras.unproject(depth)
    brown = 0.3 + 0.2 * torch.sin(6 * place.sum(dim=3))
    frames = torch.where(on_wall[:, None], brown[:, None].expand(-1, 3, -1, -1), 0.9)
    x, y = torch.meshgrid(torch.linspace(-3, 3, 61), torch.linspace(-0.3, 2.2, 26), indexing="ij")
    points = torch.stack([x.flatten(), y.flatten(), torch.full((61 * 26,), 3.0)], dim=1)
    normals = torch.tensor([0.0, 0.0, -1.0]).repeat(len(points), 1)
    cloud = FusedCloud(points, torch.full_like(points, 0.3), normals, torch.ones(len(points)))
    above = rays[2][~on_wall[2]]
    sky = PointCloud(300 * torch.nn.functional.normalize(above, dim=1), torch.full_like(above, 0.9))
    return SplatViews(frames, cameras, depth, None, ~on_wall), cloud, sky


def test_the_sky_stays_where_it_is_and_the_surface_leaves_it():
    views, cloud, sky = sky_scene()
    settings = SplatSettings(budget=2000, stages=(Stage(1, 150),), held_out_every=0, sky=1.0)
    splats, report = make_splats(views, cloud, sky, settings)
    far = splats.means.norm(dim=1) > 100
    start = splats_from_sky(sky, views.cameras, 200)
    torch.testing.assert_close(splats.means[far], start.means)
    torch.testing.assert_close(splats.scales[far], start.scales, rtol=1e-4, atol=0)
    surface = splats[~far]
    before = render_splats(splats_from_cloud(cloud, views.cameras, 1400), views.cameras).coverage
    after = render_splats(surface, views.cameras).coverage
    clear = views.sky & views.sky.roll(-2, dims=1)  # a splat's edge may reach two pixels into the sky
    assert float(after[clear].mean()) < 0.5 * float(before[clear].mean())
    assert report.psnr_after > report.psnr_before


def test_splits_and_doubles_where_the_picture_pulls():
    splats = splats_from_cloud(wall(), CAMERAS, 1000)
    state = SplatState.of(splats, splats[:5])
    pull, wide = torch.zeros(446), state.table.clone()
    pull[7], pull[8], pull[444] = 3.0, 2.0, 9.0  # the last is of the sky
    wide[7, 3:6] += 0.5
    state = replace(state, table=wide).noted(pull, torch.ones(446, dtype=torch.bool))
    grown = state.densified(1.0, 10, torch.Generator().manual_seed(0))
    assert len(grown) == 448
    new = grown.table[446:]
    assert torch.equal(new[1], grown.table[8])
    assert torch.equal(new[0, 3:], grown.table[7, 3:])
    assert not torch.equal(new[0, :3], grown.table[7, :3])
    torch.testing.assert_close(new[0, 3:6], wide[7, 3:6] - torch.tensor(1.6).log())
    assert float(grown.pull.sum()) == 0
    assert len(state.densified(1.0, 1, torch.Generator())) == 447
    assert len(state.densified(4.0, 10, torch.Generator())) == 446


def test_only_what_is_drawn_moves_and_in_its_own_unit():
    state = SplatState.of(splats_from_cloud(wall(), CAMERAS, 1000), splats_from_cloud(wall(z=9.0), CAMERAS, 3))
    state = replace(state, unit=torch.linspace(1, 2, len(state)))
    drawn = torch.arange(len(state)) % 2 == 0
    moved = state.step(torch.ones(len(state), 14), drawn, torch.full((14,), 0.1)).table - state.table
    assert float(moved[~drawn].abs().max()) == 0
    surface = drawn & ~state.sky
    torch.testing.assert_close(
        moved[surface][:, :3], -0.1 * state.unit[surface][:, None].expand(-1, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(moved[surface][:, 3:], torch.full((int(surface.sum()), 11), -0.1), atol=1e-5, rtol=0)
    far = drawn & state.sky
    assert float(moved[far][:, :10].abs().max()) == 0
    assert float(moved[far][:, 10:].abs().min()) > 0


def test_reducing_keeps_only_depth_and_sky_that_agree():
    frames, cameras = torch.rand(1, 3, 4, 6), look(0.0, 0.0, 6, 4)
    depth = torch.full((1, 4, 6), 2.0)
    depth[0, 0, 0], depth[0, 2, 3] = 0, 4
    sky = torch.zeros(1, 4, 6, dtype=torch.bool)
    sky[0, :2, 4:], sky[0, 3, 0] = True, True
    small = SplatViews(frames, cameras, depth, depth, sky).reduced(2)
    assert small.depth[0].tolist() == [[0, 2, 2], [2, 0, 2]]
    assert small.weight[0].tolist() == [[1.5, 2, 2], [2, 2.5, 2]]
    assert small.sky[0].tolist() == [[False, False, True], [False, False, False]]
    torch.testing.assert_close(small.frames[0, :, 0, 0], frames[0, :, :2, :2].mean(dim=(1, 2)))
    torch.testing.assert_close(small.cameras.intrinsics[0, :2], cameras.intrinsics[0, :2] / 2)


def empty_cloud() -> FusedCloud:
    return FusedCloud(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0))


def test_bad_input_is_named():
    views, _ = room()
    with pytest.raises(InputError, match="the cloud is empty"):
        make_splats(views, empty_cloud())
    with pytest.raises(InputError, match=r"9 frames of 40×30 but 8 cameras"):
        SplatViews(views.frames, CAMERAS[:8])
    with pytest.raises(InputError, match="at least one frame"):
        SplatViews(views.frames[:0], CAMERAS[[]])
    with pytest.raises(InputError, match="depth has values that are negative or not finite"):
        SplatViews(views.frames, CAMERAS, torch.full((9, 30, 40), torch.nan))
    with pytest.raises(InputError, match="frames have values that are not finite"):
        SplatViews(torch.full((9, 3, 30, 40), torch.inf), CAMERAS)
    with pytest.raises(InputError, match="budget of 0"):
        SplatSettings(budget=0)
    with pytest.raises(InputError, match="held_out_every is 1"):
        SplatSettings(held_out_every=1)
    with pytest.raises(InputError, match="divisors"):
        SplatSettings(stages=(Stage(0, 10),))
    with pytest.raises(InputError, match="seed"):
        SplatSettings(seed=-1)


def test_one_point_and_one_frame_are_enough():
    frames: Float[Tensor, "1 3 30 40"] = torch.full((1, 3, 30, 40), 0.5)
    point = FusedCloud(torch.tensor([[0.0, 0.0, 2.0]]), torch.rand(1, 3), torch.zeros(1, 3), torch.ones(1))
    splats, report = make_splats(
        SplatViews(frames, look(0.0, 0.0, 40, 30)), point, settings=replace(SETTINGS, stages=(Stage(1, 3),))
    )
    assert len(splats) == 1
    assert report.held_out == ()
    shape = (splats.means, splats.scales, splats.rotations, splats.opacities, splats.colors)
    assert bool(composite_splats(*shape, look(0.0, 0.0, 40, 30)).drawn.all())
