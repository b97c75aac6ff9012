"""A small network's content in the holes of a sharp render, against what it promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstereo.cameras import Cameras
from worldstereo.geometry.inpainting import background_importance, continued_depth, pull_push
from worldstereo.geometry.rendering import PointRender
from worldstereo.pipelines.clip_inputs import shrink_render
from worldstereo.pipelines.compositing import (
    agree_exposure,
    complete_clip,
    continued_sky,
    fill_holes,
    in_front,
    shows_sky,
    uncovered,
    wide_holes,
)

HEIGHT, WIDTH = 60, 96


def smooth(seed: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """A soft picture in [0.25, 0.75]."""
    coarse = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return 0.25 + 0.5 * picture.clamp(0, 1)


def render_of(picture: torch.Tensor, holes: torch.Tensor, depth: float = 2.0) -> PointRender:
    rgb = torch.where(holes, 0.5, picture)[None]
    return PointRender(rgb, holes[None], torch.where(holes, 0.0, torch.full(holes.shape, depth))[None])


def square_hole(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    holes = torch.zeros(height, width, dtype=torch.bool)
    holes[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return holes


def compose_clip(render: PointRender, small: PointRender, content: torch.Tensor) -> torch.Tensor:
    """Frames whose holes have the content and no texture."""
    frames = []
    for index, own in enumerate(content):
        importance = background_importance(small.depth[index])
        agreed = agree_exposure(own, small.rgb[index], ~small.hole_mask[index], importance)
        holes, importance = render.hole_mask[index], background_importance(render.depth[index])
        frames.append(fill_holes(render.rgb[index], holes, torch.zeros_like(holes), importance, agreed))
    return torch.stack(frames)


def ones(holes: torch.Tensor) -> torch.Tensor:
    return torch.ones(holes.shape)


def filled_by_pull_push(picture: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    return pull_push(picture[None], ~holes[None, None], ones(holes)[None, None])[0]


@given(st.integers(0, 99), st.floats(0.02, 0.9), st.booleans())
@settings(max_examples=20, deadline=None)
def test_content_that_is_the_pull_push_fill_gives_the_pull_push_fill(seed, share, square):
    holes = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) < share
    holes = holes | square_hole() if square else holes
    picture = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed + 1))
    fill = filled_by_pull_push(picture, holes)
    agreed = agree_exposure(fill, picture, ~holes, ones(holes))
    torch.testing.assert_close(
        fill_holes(picture, holes, torch.zeros_like(holes), ones(holes), agreed), fill, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("offset", [-0.2, 0.15])
def test_a_constant_difference_of_exposure_vanishes(offset):
    truth, holes = smooth(0), square_hole()
    render = render_of(truth, holes)
    small = shrink_render(render, 32, 20)
    content = torch.nn.functional.interpolate(truth[None], (20, 32), mode="area")
    same, brighter = compose_clip(render, small, content), compose_clip(render, small, content + offset)
    torch.testing.assert_close(same, brighter, atol=1e-5, rtol=0)
    assert (same[0] - truth)[:, holes].abs().mean() < 0.01


def test_known_pixels_are_the_renders_bit_for_bit_and_all_values_are_colours():
    holes = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3)) < 0.3
    holes |= square_hole()
    render = render_of(torch.rand(3, HEIGHT, WIDTH), holes)
    small = shrink_render(render, 48, 30)
    composed = compose_clip(render, small, 3 * torch.rand(1, 3, 30, 48) - 1)
    assert torch.equal(composed[0][:, ~holes], render.rgb[0][:, ~holes])
    assert composed.min() >= 0
    assert composed.max() <= 1


@pytest.mark.parametrize(("width", "is_thin"), [(1, True), (5, True), (9, True), (13, False)])
def test_holes_narrower_than_five_pixels_of_the_content_show_nothing_of_it(width, is_thin):
    picture, holes = smooth(1), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    holes[:, 40 : 40 + width] = True
    holes[20 : 20 + width, :] = True
    stripes = torch.rand(3, 30, 48, generator=torch.Generator().manual_seed(0))
    filled = fill_holes(picture, holes, torch.zeros_like(holes), ones(holes), stripes)
    equals = torch.allclose(filled, filled_by_pull_push(picture, holes), atol=1e-6)
    assert equals == is_thin


def test_in_front_is_what_is_nearer_than_the_hole_beside_it():
    depth, holes = torch.full((HEIGHT, WIDTH), 5.0), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    depth[:, :40] = 2.0
    holes[20:40, 40:60] = True
    depth[holes] = 0.0
    front = in_front(depth, holes, 5.0 * holes)
    assert front[20:40, 37:40].all(), "a twentieth of the height"
    assert not front[:, :37].any()
    assert not front[:, 40:].any()
    assert not front[:17].any()
    depth[:, :40] = 4.5
    assert not in_front(depth, holes, 5.0 * holes).any(), "nearer by less than a fifth"


def test_a_hole_is_uncovered_where_the_first_frame_has_it_in_view_and_its_depth_goes_on():
    """A wall at depth 4, seen from 1 farther right: 4 · 1 / focal length of it come into view at the right."""
    first = Cameras.from_fov(60.0, WIDTH, HEIGHT)
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = -1.0
    moved = first.with_poses(pose)
    depth, holes = torch.full((HEIGHT, WIDTH), 4.0), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    holes[30:40] = True
    depth[holes] = 0.0
    behind = uncovered(depth, holes, moved[0], first[0])
    new = round(float(first.intrinsics[0, 0, 0]) / 4)
    torch.testing.assert_close(behind[30:40, :-new], torch.full((10, WIDTH - new), 4.0))
    assert new > 10
    assert (behind[30:40, 1 - new :] == 0).all()
    assert (behind[~holes] == 0).all()


def test_a_near_wall_goes_on_in_what_comes_into_view_and_not_in_what_it_hid():
    """Beside a wall before the sky, at the picture's rim: turned towards it, the camera sees more of the wall."""
    blue, turn = torch.tensor([0.5, 0.7, 0.9])[:, None, None], torch.deg2rad(torch.tensor(20.0))
    first = Cameras.from_fov(60.0, WIDTH, HEIGHT)
    pose = torch.eye(4)[None]
    pose[0, 0, [0, 2]] = torch.stack([turn.cos(), -turn.sin()])
    pose[0, 2, [0, 2]] = torch.stack([turn.sin(), turn.cos()])
    truth = blue.repeat(1, HEIGHT, WIDTH)
    truth[:, 20:, 30:] = 0.2
    depth, holes = torch.zeros(HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    depth[20:, 30:] = 2.0
    holes[:, 70:] = True
    depth[holes] = 0.0
    render = PointRender(torch.where(holes, 0.5, truth)[None], holes[None], depth[None])
    small = PointRender(*(x[..., ::2, ::2] for x in (render.rgb, render.hole_mask, render.depth)))
    two = [PointRender(*(torch.cat([x, x]) for x in (r.rgb, r.hole_mask, r.depth))) for r in (render, small)]
    content = truth[None, :, ::2, ::2].repeat(2, 1, 1, 1)
    for cameras, goes_on in (
        (first.with_poses(torch.cat([torch.eye(4)[None], pose])), True),
        (first.with_poses(torch.eye(4).repeat(2, 1, 1)), False),
    ):
        frames = complete_clip(*two, content, truth, cameras, seed=0)
        wall = (frames[1, :, 23:28, 72:76] - 0.2).abs().mean() < 0.1
        assert bool(wall) == goes_on


def test_holes_that_the_sky_continues_show_sky_and_nothing_of_the_content():
    """A roof before the sky: what the camera uncovers beside it is sky, whatever a network makes of it."""
    blue = torch.tensor([0.5, 0.7, 0.9])[:, None, None]
    truth = blue.repeat(1, HEIGHT, WIDTH)
    truth[:, 30:, :40] = 0.2
    depth, holes = torch.zeros(HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    depth[30:, :40] = 2.0
    holes[25:30, :45] = True
    holes[30:50, 40:45] = True
    render = PointRender(torch.where(holes, 0.5, truth)[None], holes[None], depth[None])
    front = in_front(depth, holes, torch.where(holes, continued_depth(depth, ~holes), 0.0))
    assert (shows_sky(depth, holes, front, torch.zeros(3, HEIGHT, WIDTH)) == holes).all()
    small = PointRender(*(x[..., ::2, ::2] for x in (render.rgb, render.hole_mask, render.depth)))
    noise = torch.rand(2, 3, HEIGHT // 2, WIDTH // 2, generator=torch.Generator().manual_seed(0))
    ghosts = blue + 0.4 * (noise - 0.5)
    cameras = Cameras.from_fov(60.0, WIDTH, HEIGHT).with_poses(torch.eye(4).repeat(2, 1, 1))
    two = [PointRender(*(torch.cat([x, x]) for x in (r.rgb, r.hole_mask, r.depth))) for r in (render, small)]
    frames = complete_clip(*two, ghosts, truth, cameras, seed=0)
    assert (frames[1] - truth).abs().max() < 0.02


def test_where_the_content_is_unlike_the_sky_it_is_no_sky():
    depth, holes, front = torch.zeros(HEIGHT, WIDTH), square_hole(), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for difference, weight in ((0.0, 1.0), (0.19, 1.0), (-0.3, 0.5), (0.41, 0.0)):
        shown = shows_sky(depth, holes, front, torch.full((3, HEIGHT, WIDTH), difference))
        torch.testing.assert_close(shown, weight * holes.float(), atol=1e-5, rtol=0)


def test_the_sky_s_colours_are_spread_from_known_sky_alone():
    frame, depth = torch.full((3, HEIGHT, WIDTH), 0.2), torch.full((HEIGHT, WIDTH), 3.0)
    depth[:20], frame[:, :20] = 0.0, 0.8
    frame[:, 5:15, 30:50] = 0.5
    known = torch.ones_like(depth, dtype=torch.bool)
    known[5:15, 30:50] = False
    torch.testing.assert_close(continued_sky(frame, depth, known), torch.full_like(frame, 0.8))
    assert (continued_sky(frame, depth, torch.zeros_like(known)) == 0).all()


def test_a_hole_behind_an_object_takes_after_what_is_behind_it_though_the_content_is_blurred():
    """A red object, a blue wall, and content in which the red runs into the hole."""
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])
    truth = blue[:, None, None].repeat(1, HEIGHT, WIDTH)
    truth[:, :, :40] = red[:, None, None]
    depth, holes = torch.full((HEIGHT, WIDTH), 5.0), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    depth[:, :40] = 2.0
    holes[10:50, 40:70] = True
    depth[holes] = 0.0
    content = torch.nn.functional.avg_pool2d(truth[None], (2, 15), (2, 2), (0, 7), count_include_pad=False)[0]
    importance = background_importance(depth)
    render = torch.where(holes, 0.5, truth)
    kept_out = fill_holes(render, holes, depth == 2.0, importance, content)
    let_in = fill_holes(render, holes, torch.zeros_like(holes), importance, content)
    error, before = ((filled - truth)[:, 15:45, 40:46].abs().mean() for filled in (kept_out, let_in))
    assert error < 0.05
    assert before > 0.1


def test_wide_holes_hold_a_square_of_three():
    holes = torch.zeros(12, 12, dtype=torch.bool)
    holes[1:4, 1:4] = True  # a square of 3
    holes[2, 4:9] = True  # a tail
    holes[10:, 6:] = True  # 2 rows at the edge: they go on beyond it
    expected = torch.zeros_like(holes)
    expected[1:4, 1:4] = True
    expected[10:, 6:] = True
    assert torch.equal(wide_holes(holes, 3), expected)
    assert wide_holes(torch.ones(5, 4, dtype=torch.bool), 3).all()
    assert not wide_holes(holes, 5)[:9].any()


def border_gradient(picture: torch.Tensor, holes: torch.Tensor) -> float:
    """Mean step between neighbours of which one is a hole."""
    across = holes[:, 1:] != holes[:, :-1]
    down = holes[1:] != holes[:-1]
    steps = [(picture.diff(dim=2).abs())[:, across].flatten(), (picture.diff(dim=1).abs())[:, down].flatten()]
    return float(torch.cat(steps).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_seam_is_no_steeper_than_both_sides(seed):
    truth, holes = smooth(seed, 120, 192), square_hole(120, 192)
    render = render_of(truth, holes)
    small = shrink_render(render, 64, 40)
    uneven = torch.linspace(-0.1, 0.15, 64)  # an exposure error that changes over the picture
    content = 0.9 * torch.nn.functional.interpolate(truth[None], (40, 64), mode="area") + uneven
    composed = compose_clip(render, small, content)[0]
    pasted = torch.where(holes, torch.nn.functional.interpolate(content, (120, 192), mode="bicubic")[0], truth)
    both_sides = float(torch.cat([truth.diff(dim=2).abs().flatten(), truth.diff(dim=1).abs().flatten()]).mean())
    assert border_gradient(composed, holes) < 1.3 * max(both_sides, border_gradient(truth, holes))
    assert border_gradient(composed, holes) < 0.3 * border_gradient(pasted, holes)


def test_what_is_wrong_at_an_occluder_stays_out_of_the_hole():
    """A near bar whose content is far off beside a hole before a grey wall: the membrane would carry that into it."""
    truth, holes = torch.full((3, HEIGHT, WIDTH), 0.5), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    holes[:, 30:60] = True
    render = render_of(truth, holes, depth=6.0)
    render.rgb[0, :, :, 20:30] = 1.0
    render.depth[0, :, 20:30] = 2.0
    small = shrink_render(render, 48, 30)
    composed = compose_clip(render, small, torch.full((1, 3, 30, 48), 0.4))[0]
    beyond = holes.clone()
    beyond[:, 30:34] = False  # the seam itself
    background = torch.where(render.depth[0] > 5, 9.0, 1.0)[None, None]
    membrane = 0.4 + pull_push(render.rgb - 0.4, ~holes[None, None], background)[0]
    assert (composed - truth)[:, beyond].abs().max() < 0.01
    assert (membrane - truth)[:, beyond].abs().max() > 10 * (composed - truth)[:, beyond].abs().max()


def test_a_frame_without_any_known_pixel_is_the_content():
    holes = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    render = render_of(torch.zeros(3, HEIGHT, WIDTH), holes)
    content = smooth(4)[None]
    torch.testing.assert_close(compose_clip(render, shrink_render(render, WIDTH, HEIGHT), content), content)


# The render at the network's size


def test_a_shrunk_render_is_blind_to_what_lies_under_holes():
    holes = square_hole()
    picture = torch.where(holes, torch.tensor(99.0), torch.tensor(0.3)).expand(3, -1, -1)
    render = PointRender(picture[None], holes[None], torch.where(holes, 0.0, 2.5)[None])
    small = shrink_render(render, 36, 22)  # no whole factor, another shape
    known = ~small.hole_mask[0]
    assert 0.6 < known.float().mean() < 0.75
    torch.testing.assert_close(small.rgb[0][:, known], torch.full_like(small.rgb[0][:, known], 0.3))
    torch.testing.assert_close(small.depth[0][known], torch.full_like(small.depth[0][known], 2.5))
    assert (small.depth[0][~known] == 0).all()
    assert (small.rgb[0][:, ~known] == 0.5).all()


def test_a_render_of_the_same_size_stays_as_it_is_and_sky_has_no_depth():
    holes = torch.rand(HEIGHT, WIDTH) < 0.2
    render = render_of(torch.rand(3, HEIGHT, WIDTH), holes)
    render.depth[:, :20] = 0
    same = shrink_render(render, WIDTH, HEIGHT)
    for name in ("rgb", "hole_mask", "depth"):
        torch.testing.assert_close(getattr(same, name), getattr(render, name))
    small = shrink_render(render_of(torch.rand(3, HEIGHT, WIDTH), torch.zeros_like(holes)), 24, 15)
    assert not small.hole_mask.any()
    sky = render_of(torch.rand(3, HEIGHT, WIDTH), torch.zeros_like(holes))
    sky.depth[:] = 0
    assert (shrink_render(sky, 24, 15).depth == 0).all()
    assert not shrink_render(sky, 24, 15).hole_mask.any()


_STEP = 12


def wall_clip() -> tuple[PointRender, torch.Tensor, Cameras]:
    """A wall of vertical stripes, 8 pixels a period, seen by three cameras side by side, `_STEP` pixels of it apart.

    Each next camera sees as many more columns on the right that the first did not.
    """
    height, width = 150, 240
    columns = torch.arange(width + 2 * _STEP).float()
    stripes = (0.5 + 0.3 * torch.sin(2 * torch.pi * columns / 8)).expand(3, height, -1)
    truth = torch.stack([stripes[:, :, _STEP * k : _STEP * k + width] for k in range(3)])
    holes = torch.zeros(3, height, width, dtype=torch.bool)
    for k in (1, 2):
        holes[k, :, width - _STEP * k :] = True
    focal, depth = 80.0, 2.0
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = -torch.arange(3) * _STEP * depth / focal
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(3, 1, 1)
    render = PointRender(torch.where(holes[:, None], 0.5, truth), holes, torch.where(holes, 0.0, depth))
    return render, truth, Cameras(poses, intrinsics, width, height)


def completed_wall() -> tuple[PointRender, torch.Tensor, torch.Tensor]:
    render, truth, cameras = wall_clip()
    small = shrink_render(render, 48, 30)
    frames = complete_clip(render, small, torch.full((3, 3, 30, 48), 0.5), truth[0], cameras, seed=0)
    return render, truth, frames


def test_the_texture_of_the_first_frame_goes_on_into_holes_of_the_others():
    render, truth, frames = completed_wall()
    smooth_error = (0.5 - truth)[2][:, render.hole_mask[2]].square().mean()
    error = (frames - truth)[2][:, render.hole_mask[2]].square().mean()
    assert error < 0.4 * smooth_error


def test_known_pixels_of_a_completed_clip_are_the_renders_and_its_first_frame_is_the_image():
    render, truth, frames = completed_wall()
    assert torch.equal(frames[0], truth[0])
    known = (~render.hole_mask)[:, None].expand_as(frames)
    assert torch.equal(frames[1:][known[1:]], render.rgb[1:][known[1:]])


def test_what_fills_a_hole_stands_still_on_the_wall():
    _, _, frames = completed_wall()
    first, last = frames.shape[3] - _STEP + 1, frames.shape[3] - 1
    seen_twice = frames[1][:, 4:-4, first:last], frames[2][:, 4:-4, first - _STEP : last - _STEP]
    assert (seen_twice[0] - seen_twice[1]).abs().mean() < 0.02
    assert seen_twice[0].std() > 0.1
