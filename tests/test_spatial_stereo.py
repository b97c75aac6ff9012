"""Facts about the spatial-stereo memory: bank, update rule, retrieval as a whole, pointmaps."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.images import load_png, save_png
from worldstereo.memory.pointmaps import SceneBox, render_pointmaps
from worldstereo.memory.references import References
from worldstereo.memory.spatial_stereo import SpatialStereoMemory, update_indices

WIDTH, HEIGHT = 96, 64


def camera(x: float, z: float, yaw_degrees: float = 0.0, fov: float = 60.0) -> Cameras:
    """At (x, 0, z), turned to the right by the yaw from +z."""
    turn = torch.from_numpy(Rotation.from_euler("y", -yaw_degrees, degrees=True).as_matrix()).float()
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, -turn @ torch.tensor([x, 0.0, z])
    return Cameras.from_fov(fov, WIDTH, HEIGHT).with_poses(pose[None])


def board(left: float, right: float, z: float, spacing: float = 0.03) -> Tensor:
    """Points of an upright rectangle, 5 high, with the normal along z."""
    x = torch.linspace(left, right, int((right - left) / spacing))
    y = torch.linspace(-2.5, 2.5, int(5 / spacing))
    return torch.cat([torch.cartesian_prod(x, y), torch.full((len(x) * len(y), 1), z)], dim=1)


def as_cloud(*parts: Tensor) -> PointCloud:
    points = torch.cat(parts)
    points = points + 1e-3 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    return PointCloud(points, torch.zeros_like(points))


WALL = board(-5, 5, 4.0)


def noise(count: int, seed: int = 0) -> Tensor:
    """Pictures as an 8-bit file gives them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), generator=generator).float() / 255


def bank_of(*cameras: Cameras) -> SpatialStereoMemory:
    return SpatialStereoMemory(noise(len(cameras)), Cameras.cat(cameras), [f"view-{k}" for k in range(len(cameras))])


def chosen(bank: SpatialStereoMemory, references: References) -> list[int]:
    """Bank indices of the references, found by their pictures."""
    stored = noise(len(bank))
    return [next(k for k in range(len(bank)) if torch.equal(stored[k], frame)) for frame in references.frames]


class TestUpdateRule:
    def test_published(self) -> None:
        assert update_indices(21) == (3, 6, 9, 12, 14, 16, 18, 20)

    @given(frames=st.integers(2, 300), kept=st.integers(1, 20))
    def test_never_the_first_always_the_last_larger_gaps_first(self, frames: int, kept: int) -> None:
        indices = update_indices(frames, kept)
        gaps = [b - a for a, b in zip((0, *indices), indices, strict=False)]
        assert len(indices) == min(kept, frames - 1)
        assert indices[-1] == frames - 1
        assert indices[0] > 0
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] - gaps[-1] <= 1

    def test_a_single_frame_brings_nothing(self) -> None:
        assert update_indices(1) == ()

    @pytest.mark.parametrize(("frames", "kept"), [(0, 8), (21, 0)])
    def test_bad_numbers(self, frames: int, kept: int) -> None:
        with pytest.raises(InputError, match="at least 1"):
            update_indices(frames, kept)


class TestBank:
    def test_grows_by_the_rule(self) -> None:
        bank = bank_of(camera(0, 0))
        clip = Cameras.cat([camera(0.1 * k, 0) for k in range(21)])
        assert bank.add_clip(noise(21, seed=1), clip, "right") == (3, 6, 9, 12, 14, 16, 18, 20)
        assert len(bank) == len(bank.cameras) == 9
        assert bank.names[:2] == ("view-0", "right/0003")
        torch.testing.assert_close(bank.cameras.centers[:, 0], 0.1 * torch.tensor([0, 3, 6, 9, 12, 14, 16, 18, 20.0]))

    def test_frames_leave_as_their_files_were(self, tmp_path: Path) -> None:
        frame = noise(1, seed=2)[0]
        save_png(tmp_path / "frame.png", frame)
        read = load_png(tmp_path / "frame.png")
        bank = SpatialStereoMemory(read[None], camera(0, 0), ["photo"])
        assert torch.equal(bank.retrieve(camera(0, 0), as_cloud(WALL)).frames[0], read)

    def test_refuses_what_does_not_fit(self) -> None:
        bank, clip = bank_of(camera(0, 0)), Cameras.cat([camera(0, 0)] * 3)
        with pytest.raises(InputError, match="96×64"):
            bank.add_clip(torch.zeros(3, 3, 8, 8), clip, "small")
        with pytest.raises(InputError, match="96×64"):
            bank.add_clip(noise(3), clip.resized(8, 8), "small")
        with pytest.raises(InputError, match="3 frames but 2 cameras"):
            bank.add_clip(noise(3), clip[:2], "short")
        bank.add_clip(noise(3), clip, "once")
        with pytest.raises(InputError, match="'once/0001'"):
            bank.add_clip(noise(3), clip, "once")
        with pytest.raises(InputError, match="2 names"):
            SpatialStereoMemory(noise(3), clip, ["a", "b"])
        assert len(bank) == 3, "a refused clip must leave the bank as it was"


class TestRetrieve:
    def test_the_clear_view_and_not_the_nearer_one_behind_the_occluder(self) -> None:
        """A partition at z = 2 from x = 0.3 on; the target stands left of it, one bank camera close by behind it."""
        cloud = as_cloud(WALL, board(0.3, 5, 2.0))
        target, hidden, clear = camera(0.0, 2.2, -20), camera(0.6, 1.8, -20), camera(-3, 0, 15)
        bank = bank_of(hidden, clear)
        references = bank.retrieve(target, cloud)
        assert chosen(bank, references) == [1]
        assert float(references.coverage) > 0.3
        published = bank.retrieve(target, cloud, rule="published")
        assert chosen(bank, published) == [0], "the published rule is blind to the partition"

    @settings(max_examples=15, deadline=None)
    @given(x=st.floats(-0.8, 0.8), z=st.floats(4.3, 7.0), yaw=st.floats(-30, 30), shift=st.floats(-1, 1))
    def test_never_the_back_of_a_wall_when_a_clear_view_exists(
        self, x: float, z: float, yaw: float, shift: float
    ) -> None:
        """Bank cameras behind the wall that look back at it, or through it onwards to a second wall."""
        cloud = as_cloud(WALL, board(-5, 5, 8.0))
        target, clear = camera(0, 0.5), camera(shift, 0)
        bank = bank_of(camera(x, z, 180 + yaw), camera(x, z, yaw), clear)
        references = bank.retrieve(target, cloud)
        assert chosen(bank, references) == [2]
        assert references.for_target.tolist() == [0]

    def test_nothing_useful(self) -> None:
        references = bank_of(camera(0, 0, 180)).retrieve(Cameras.cat([camera(0, 0), camera(0, 1)]), as_cloud(WALL))
        assert references.for_target.tolist() == [-1, -1]
        assert references.coverage.tolist() == [0, 0]
        assert references.frames.shape == (0, 3, HEIGHT, WIDTH)
        assert references.names == ()
        assert len(references.cameras) == 0

    def test_empty_bank(self) -> None:
        bank = SpatialStereoMemory(noise(0), camera(0, 0)[:0], [])
        assert bank.retrieve(camera(0, 0), as_cloud(WALL)).for_target.tolist() == [-1]
        assert bank.retrieve(camera(0, 0), as_cloud(WALL), rule="published").for_target.tolist() == [-1]

    def test_empty_cloud(self) -> None:
        references = bank_of(camera(0, 0)).retrieve(camera(0, 0), PointCloud.empty())
        assert references.for_target.tolist() == [-1]
        of_target, of_references = references.pointmaps(camera(0, 0))
        assert bool((of_target == 0.5).all())
        assert of_references.shape == (0, 3, HEIGHT, WIDTH)

    @settings(max_examples=6, deadline=None)
    @given(
        turn=st.tuples(*[st.floats(-3, 3)] * 3),
        shift=st.tuples(*[st.floats(-10, 10)] * 3),
        scale=st.floats(0.05, 20),
    )
    def test_the_choice_is_independent_of_the_world_frame(
        self, turn: tuple[float, ...], shift: tuple[float, ...], scale: float
    ) -> None:
        """More candidates than allowed, so that the selection has to act."""
        cloud = as_cloud(WALL, board(0.3, 5, 2.0))
        targets = Cameras.cat([camera(0, 2.2, yaw) for yaw in (-80, -40, 0, 40, 80)])
        views = Cameras.cat([camera(0.1, 2.1, yaw + 5) for yaw in (-80, -40, 0, 40, 80)])
        rotation = torch.from_numpy(Rotation.from_rotvec(turn).as_matrix()).float()
        move = (rotation, scale * torch.tensor(shift), scale)
        moved = PointCloud(scale * cloud.points @ rotation.T + move[1], cloud.colors)
        names = list("abcde")
        before = SpatialStereoMemory(noise(5), views, names).retrieve(targets, cloud, max_references=2)
        after = SpatialStereoMemory(noise(5), views.transformed(*move), names).retrieve(
            targets.transformed(*move), moved, max_references=2
        )
        assert len(before.frames) == 2
        assert torch.equal(before.frames, after.frames)
        assert torch.equal(before.for_target, after.for_target)
        torch.testing.assert_close(before.coverage, after.coverage, atol=0.02, rtol=0)

    def test_at_most_8_each_target_with_its_camera_and_coverage(self) -> None:
        """A look around a room of four walls in 21 steps of 17°, each step with its twin in the bank."""
        x_walls = torch.cat([board(-4, 4, z) for z in (-4.0, 4.0)])
        cloud = as_cloud(x_walls, x_walls[:, [2, 1, 0]])
        targets = Cameras.cat([camera(0, 0, 17.0 * k) for k in range(21)])
        bank = bank_of(*[camera(0.05, 0, 17.0 * k) for k in range(21)])
        references = bank.retrieve(targets, cloud)
        assert len(references.frames) == 8
        assert bool((references.for_target >= 0).all())
        off_axis = (targets.forward * references.cameras.forward[references.for_target]).sum(dim=1)
        assert float(off_axis.min()) > 0.7
        turns = bank.cameras.forward[chosen(bank, references)]
        torch.testing.assert_close(turns, references.cameras.forward)
        assert float(references.coverage.max()) > 0.9
        assert float(references.coverage.min()) > 0.4

    def test_published_rule_equals_the_official_choice(self) -> None:
        parity = load_file(Path(__file__).parent / "data" / "retrieval.safetensors")
        targets = Cameras(parity["target_w2c"][1:], parity["target_K"][1:], 320, 192)
        cameras = Cameras(parity["bank_w2c"], parity["bank_K"], 320, 192)
        frames = torch.arange(24.0)[:, None, None, None].expand(24, 3, 192, 320) / 255
        bank = SpatialStereoMemory(frames, cameras, [str(k) for k in range(24)])
        references = bank.retrieve(targets, PointCloud.empty(), rule="published", max_references=24)
        index = (references.frames[:, 0, 0, 0] * 255).round().long()
        assert index[references.for_target].tolist() == parity["best_index_for_targets_1_to_20"].tolist()

    def test_same_bytes(self) -> None:
        bank, targets = bank_of(camera(0, 0), camera(1, 0)), Cameras.cat([camera(0, 1), camera(1.5, 1)])
        first, second = (bank.retrieve(targets, as_cloud(WALL)) for _ in range(2))
        for name in ("frames", "for_target", "coverage"):
            assert torch.equal(getattr(first, name), getattr(second, name))

    @pytest.mark.parametrize(("width", "height"), [(192, 128), (48, 48), (60, 20), (20, 60), (97, 41)])
    def test_frames_and_cameras_follow_the_size_of_the_targets(self, width: int, height: int) -> None:
        """A picture that shows the direction of each pixel's ray still does after resize and crop."""
        view = camera(0, 0)
        frames = view.pixel_rays().permute(0, 3, 1, 2) / 2 + 0.5
        bank = SpatialStereoMemory(frames.clamp(0, 1), view, ["rays"])
        target = Cameras.from_fov(40.0 * min(1.0, width / height), width, height)
        references = bank.retrieve(target, as_cloud(WALL))
        assert references.frames.shape == (1, 3, height, width)
        assert (references.cameras.width, references.cameras.height) == (width, height)
        shown, real = (references.frames[0, :2] - 0.5) * 2, references.cameras.pixel_rays()[0].permute(2, 0, 1)[:2]
        inner = (slice(None), slice(3, -3), slice(3, -3))
        assert float((shown - real)[inner].abs().max()) < 0.01

    def test_bad_options(self) -> None:
        with pytest.raises(InputError, match="max_references"):
            bank_of(camera(0, 0)).retrieve(camera(0, 0), as_cloud(WALL), max_references=0)


class TestPointmaps:
    def test_equal_colour_is_the_same_point(self) -> None:
        cloud = as_cloud(board(-2, 2, 4.0, 0.008))
        views = Cameras.cat([camera(-0.8, 0, 10), camera(0.8, 0.5, -10)])
        maps = render_pointmaps(cloud, views, SceneBox.of(cloud))
        points = torch.cat(
            [
                torch.cartesian_prod(torch.linspace(-0.8, 0.8, 9), torch.linspace(-0.6, 0.6, 9)),
                torch.full((81, 1), 4.0),
            ],
            1,
        )
        pixels, _ = views.project(points)
        column, row = pixels.floor().long().unbind(dim=-1)
        seen = [maps[k][:, row[k], column[k]].T for k in range(2)]
        pixel = 4.5 / views.intrinsics[0, 0, 0] / SceneBox.of(cloud).side  # what one pixel spans on the wall
        assert float((seen[0] - seen[1]).abs().max()) < 1.5 * pixel
        assert float((seen[0] - SceneBox.of(cloud).normalize(points)).abs().max()) < 1.5 * pixel
        assert float(seen[0].std(dim=0)[:2].min()) > 0.04, "the colours must differ from point to point"

    def test_one_scale_for_all_axes_and_the_faces_for_outliers(self) -> None:
        points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 2, 4])
        far = torch.tensor([[1e6, 0.0, 0.0]])
        box = SceneBox.of(as_cloud(points, far))
        assert box.side == pytest.approx(9.8, abs=0.1)
        torch.testing.assert_close(box.center, torch.tensor([5.0, 1, 2]), atol=0.1, rtol=0)
        a, b = box.normalize(torch.tensor([[5.0, 1, 2], [6.0, 2, 3]]))
        torch.testing.assert_close(b - a, torch.full((3,), 1 / box.side))
        assert float(box.normalize(far)[0, 0]) == 1

    def test_unknown_is_grey(self) -> None:
        cloud = as_cloud(board(-5, 0, 4.0))
        maps = render_pointmaps(cloud, camera(0, 0), SceneBox.of(cloud))[0]
        assert bool((maps[:, :, WIDTH // 2 + 4 :] == 0.5).all())
        assert bool((maps[0, :, : WIDTH // 2 - 4] != 0.5).any())

    def test_many_views_are_the_single_ones(self) -> None:
        cloud = as_cloud(WALL)
        views, box = Cameras.cat([camera(0.1 * k, 0) for k in range(6)]), SceneBox.of(cloud)
        together = render_pointmaps(cloud, views, box)
        assert torch.equal(together, torch.cat([render_pointmaps(cloud, views[k], box) for k in range(6)]))

    @pytest.mark.parametrize("points", [torch.zeros(0, 3), torch.ones(1, 3)])
    def test_box_of_nearly_nothing(self, points: Tensor) -> None:
        box = SceneBox.of(PointCloud(points, points))
        assert box.side == 1
        assert bool((box.normalize(points) == 0.5).all())
