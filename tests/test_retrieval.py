"""Facts about the two retrieval rules and the choice of few references."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.memory.coverage import coverage_scores
from worldstereo.memory.retrieval import choose, frustum_overlap, published_scores, view_features

PARITY = load_file(Path(__file__).parent / "data" / "retrieval.safetensors")


def parity_cameras(name: str) -> Cameras:
    return Cameras(PARITY[f"{name}_w2c"], PARITY[f"{name}_K"], 320, 192)


def looking(eye: list[float], at: list[float], fov: float = 60.0) -> Cameras:
    """A camera at `eye` that looks at `at`, world y down."""
    position = torch.tensor(eye, dtype=torch.float32)
    z = torch.nn.functional.normalize(torch.tensor(at) - position, dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1, 0]), z), dim=0)
    rotation = torch.stack([x, torch.linalg.cross(z, x), z])
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
    return Cameras.from_fov(fov, 160, 96).with_poses(pose[None])


def rectangle(corner: list[float], edge_a: list[float], edge_b: list[float], spacing: float = 0.05) -> Tensor:
    """Points of a grid over a parallelogram."""
    a, b = torch.tensor(edge_a).float(), torch.tensor(edge_b).float()
    s = torch.linspace(0, 1, max(2, int(a.norm() / spacing)))
    t = torch.linspace(0, 1, max(2, int(b.norm() / spacing)))
    grid = torch.cartesian_prod(s, t)
    return torch.tensor(corner).float() + grid[:, :1] * a + grid[:, 1:] * b


def as_cloud(*parts: Tensor) -> PointCloud:
    points = torch.cat(parts)
    points = points + 1e-3 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    return PointCloud(points, torch.full_like(points, 0.5))


def wall(z: float = 4.0) -> Tensor:
    return rectangle([-6, -4, z], [12, 0, 0], [0, 8, 0])


def box_room() -> PointCloud:
    """8 × 3 × 6, around the origin, with two sides of a pillar."""
    x, y, z = 4.0, 1.5, 3.0
    return as_cloud(
        rectangle([-x, -y, -z], [2 * x, 0, 0], [0, 2 * y, 0], 0.08),
        rectangle([-x, -y, z], [2 * x, 0, 0], [0, 2 * y, 0], 0.08),
        rectangle([-x, -y, -z], [0, 0, 2 * z], [0, 2 * y, 0], 0.08),
        rectangle([x, -y, -z], [0, 0, 2 * z], [0, 2 * y, 0], 0.08),
        rectangle([-x, y, -z], [2 * x, 0, 0], [0, 0, 2 * z], 0.08),
        rectangle([-x, -y, -z], [2 * x, 0, 0], [0, 0, 2 * z], 0.08),
        rectangle([0.3, -y, 0.3], [0.5, 0, 0], [0, 2 * y, 0], 0.08),
        rectangle([0.3, -y, 0.3], [0, 0, 0.5], [0, 2 * y, 0], 0.08),
    )


def random_views(count: int, seed: int) -> Cameras:
    """Anywhere inside `box_room`, looking anywhere but straight up or down."""
    rng = np.random.default_rng(seed)
    eyes = rng.uniform([-3, -0.7, -2.3], [3, 0.7, 2.3], (count, 3))
    ways = np.stack([rng.normal(size=count), rng.uniform(-0.3, 0.3, count), rng.normal(size=count)], axis=1)
    return Cameras.cat([looking(eye.tolist(), (eye + way).tolist()) for eye, way in zip(eyes, ways, strict=True)])


class TestPublished:
    def test_equals_the_official_figures(self) -> None:
        targets, bank = parity_cameras("target")[list(range(1, 21))], parity_cameras("bank")
        overlap, angle = frustum_overlap(targets, bank, near=0.1, far=10.0)
        torch.testing.assert_close(overlap, PARITY["overlap_and_angle"][:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(angle, PARITY["overlap_and_angle"][:, 1], atol=2e-4, rtol=0)
        best = published_scores(targets, bank).argmax(dim=1)
        assert best.tolist() == PARITY["best_index_for_targets_1_to_20"].tolist()

    def test_angle_costs_nothing_up_to_90_degrees_and_then_as_published(self) -> None:
        target = looking([0, 0, 0], [0, 0, 1])
        for degrees, factor in [(60, 1.0), (90, 1.0), (120, 0.4346), (150, 0.1889)]:
            turn = np.radians(degrees)
            way = np.array([np.sin(turn), 0, np.cos(turn)])
            other = looking(([0, 0, 5] - 5 * way).tolist(), [0, 0, 5])
            overlap, angle = frustum_overlap(target, other)
            assert float(angle) == pytest.approx(degrees, abs=1e-3)
            assert float(overlap) > 0
            assert float(published_scores(target, other) / overlap) == pytest.approx(factor, abs=1e-3)

    def test_frusta_that_do_not_meet_score_0(self) -> None:
        assert float(published_scores(looking([0, 0, 0], [0, 0, 1]), looking([50, 0, 0], [50, 0, 1]))) == 0

    def test_depends_on_the_orientation_of_the_world(self) -> None:
        """Its known weakness: the reason for our own rule."""
        targets, bank = parity_cameras("target"), parity_cameras("bank")
        turn = (rotation([0, np.pi / 4, 0]), torch.zeros(3))
        before = published_scores(targets, bank)
        after = published_scores(targets.transformed(*turn), bank.transformed(*turn))
        assert float((before - after).abs().max()) > 0.1

    @pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
    def test_bad_range(self, near: float, far: float) -> None:
        with pytest.raises(InputError, match="near"):
            frustum_overlap(looking([0, 0, 0], [0, 0, 1]), looking([0, 0, 0], [0, 0, 1]), near=near, far=far)


def rotation(vector: "list[float] | np.ndarray") -> Tensor:
    return torch.from_numpy(Rotation.from_rotvec(vector).as_matrix()).float()


class TestCoverage:
    def test_a_view_covers_itself(self) -> None:
        views = random_views(6, seed=1)
        scores = coverage_scores(views, views, box_room())
        torch.testing.assert_close(scores.diag(), torch.ones(6), atol=1e-5, rtol=0)
        assert bool((scores <= 1 + 1e-6).all())

    def test_equals_the_closed_form_with_an_occluder(self) -> None:
        """A wall seen frontally; the reference sees it past a board that the target does not see."""
        target, reference = looking([0, 0, 0], [0, 0, 4]), looking([2.5, 0, 0], [0.5, 0, 4])
        board = rectangle([1.9, -3, 1.0], [1.5, 0, 0], [0, 6, 0], 0.03)
        eye = reference.centers[0]
        points = target.unproject(torch.full((1, 96, 160), 4.0)).reshape(-1, 3)
        pixels, _ = reference.project(points)
        inside = ((pixels[0] >= 0) & (pixels[0] < torch.tensor([160.0, 96.0]))).all(dim=1)
        across = eye + (points - eye) * (1.0 / points[:, 2:])  # where the ray from the reference crosses z = 1
        clear = across[:, 0] < 1.9
        d_target, d_reference = points.norm(dim=1), (points - eye).norm(dim=1)
        cosine = (points * (points - eye)).sum(dim=1) / (d_target * d_reference)
        ratio = d_target / d_reference
        worth = (1 + cosine) / 2 * torch.minimum(ratio, 1 / ratio).sqrt()
        without = float((worth * inside).mean())
        expected = float((worth * inside * clear).mean())
        assert without - expected > 0.3, "the board must matter"
        assert float(coverage_scores(target, reference, as_cloud(wall()))) == pytest.approx(without, abs=0.03)
        assert float(coverage_scores(target, reference, as_cloud(wall(), board))) == pytest.approx(expected, abs=0.06)

    def test_a_wall_hides_what_is_behind_it(self) -> None:
        """Two rooms: the reference stands behind a partition and looks the same way as the target."""
        cloud = as_cloud(wall(8.0), rectangle([-1.5, -4, 4], [12, 0, 0], [0, 8, 0]))
        target, hidden, clear = (looking([x, 0, z], [-3.0, 0, 8]) for x, z in [(-3, 5), (2, 3), (-4.5, 4.5)])
        scores = coverage_scores(target, Cameras.cat([hidden, clear]), cloud)[0]
        assert float(scores[0]) < 0.02
        assert float(scores[1]) > 0.5

    def test_the_back_of_a_surface_is_worth_nothing(self) -> None:
        target = looking([0, 0, 0], [0, 0, 4])
        behind, steep_behind = looking([0, 0, 8], [0, 0, 4]), looking([4, 0, 5], [0, 0, 4], fov=90.0)
        scores = coverage_scores(target, Cameras.cat([behind, steep_behind]), as_cloud(wall()))
        assert scores.tolist() == [[0.0, 0.0]]

    def test_a_view_of_other_scale_or_angle_is_worth_less(self) -> None:
        target = looking([0, 0, 0], [0, 0, 4])
        near, side, far_side = (
            looking([0, 0, 2], [0, 0, 4]),
            looking([1.5, 0, 0], [0, 0, 4]),
            looking([5, 0, 1], [0, 0, 4]),
        )
        wide_near = looking([0, 0, 2], [0, 0, 4], fov=100.0)  # sees all that the target sees
        scores = coverage_scores(target, Cameras.cat([near, side, far_side, wide_near]), as_cloud(wall()))[0]
        assert max(scores[0], scores[2]) < scores[1]
        assert scores[0] < scores[3] < 0.9

    def test_what_the_cloud_has_not_counts_three_times(self) -> None:
        """The left half of a wall is known; one camera sees it alone, the other what is to the right of it."""
        half = as_cloud(rectangle([-6, -4, 4], [6, 0, 0], [0, 8, 0]))
        target = looking([0, 0, 0], [0, 0, 4])
        sides = Cameras.cat([looking([x, 0, 0], [x, 0, 4]) for x in (-2.31, 2.31)])  # half a picture aside
        points = target.unproject(torch.full((1, 96, 160), 4.0)).reshape(-1, 3)
        worth = []
        for x, side in ((-2.31, points[:, 0] < 0), (2.31, points[:, 0] > 0)):
            away = points - torch.tensor([x, 0.0, 0.0])
            distances = points.norm(dim=1), away.norm(dim=1)
            cosine = (points * away).sum(dim=1) / (distances[0] * distances[1])
            ratio = distances[0] / distances[1]
            worth.append(float((side * (1 + cosine) / 2 * torch.minimum(ratio, 1 / ratio).sqrt()).mean()))
        known, hole = coverage_scores(target, sides, half)[0].tolist()
        assert known == pytest.approx(worth[0] * 1 / 2, rel=0.1)
        assert hole == pytest.approx(worth[1] * 3 / 2, rel=0.1)

    def test_a_target_that_sees_nothing_is_covered_at_the_depth_of_the_others(self) -> None:
        cloud = as_cloud(wall())
        targets = Cameras.cat([looking([0, 0, 0], [0, 0, 4]), looking([0, 0, 0], [0, 0, -4])])
        scores = coverage_scores(targets, targets, cloud)
        torch.testing.assert_close(scores, torch.eye(2), atol=1e-5, rtol=0)

    def test_looking_away_is_worth_nothing(self) -> None:
        scores = coverage_scores(looking([0, 0, 0], [0, 0, 4]), looking([0, 0, 0], [0, 0, -4]), as_cloud(wall()))
        assert float(scores) == 0

    @pytest.mark.parametrize(("count", "score"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 1), (30, 1)])
    def test_few_points(self, count: int, score: int) -> None:
        """In the middle of the image, where a sample is taken."""
        points = torch.tensor([[0.0, 0, 3]]).repeat(count, 1) + 0.01 * torch.arange(count)[:, None]
        view = looking([0, 0, 0], [0, 0, 3]).cropped(-1, -1, 160, 96)
        assert float(coverage_scores(view, view, as_cloud(points))) == pytest.approx(score, abs=1e-5)

    def test_no_cameras(self) -> None:
        view = looking([0, 0, 0], [0, 0, 4])
        assert coverage_scores(view, view[:0], as_cloud(wall())).shape == (1, 0)
        assert coverage_scores(view[:0], view, as_cloud(wall())).shape == (0, 1)

    def test_other_image_size(self) -> None:
        view = looking([0, 0, 0], [0, 0, 4])
        with pytest.raises(InputError, match="160×96"):
            coverage_scores(view, view.resized(80, 48), as_cloud(wall()))

    @settings(max_examples=12, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        turn=st.tuples(*[st.floats(-3, 3)] * 3),
        shift=st.tuples(*[st.floats(-20, 20)] * 3),
        scale=st.floats(0.02, 50),
    )
    def test_independent_of_orientation_origin_and_unit(
        self, seed: int, turn: tuple[float, ...], shift: tuple[float, ...], scale: float
    ) -> None:
        room, targets, bank = box_room(), random_views(4, seed), random_views(12, seed + 1)
        before = coverage_scores(targets, bank, room)
        assume(bool((before > 0.1).any()))  # a few draws look past each other, and say nothing
        r, t = rotation(list(turn)), scale * torch.tensor(shift)
        moved = PointCloud(scale * room.points @ r.T + t, room.colors)
        after = coverage_scores(targets.transformed(r, t, scale), bank.transformed(r, t, scale), moved)
        torch.testing.assert_close(before, after, atol=0.02, rtol=0)

    def test_same_bytes(self) -> None:
        targets, bank, room = random_views(5, 3), random_views(9, 4), box_room()
        first, second = (coverage_scores(targets, bank, room).numpy().tobytes() for _ in range(2))
        assert first == second

    def test_thinning_keeps_the_scores(self) -> None:
        """The same room with 40 times the points (thinned inside) is worth much the same."""
        room = box_room()
        dense = room[torch.randperm(40 * len(room), generator=torch.Generator().manual_seed(0)) % len(room)]
        targets, bank = random_views(5, 3), random_views(9, 4)
        difference = coverage_scores(targets, bank, dense) - coverage_scores(targets, bank, room)
        assert float(difference.abs().max()) < 0.1


def pick(scores: list[list[float]], most: int, least: float = 0.1) -> tuple[list[int], list[int]]:
    table = np.array(scores)
    features = np.arange(table.shape[1], dtype=np.float64)[:, None]
    references, position = choose(table, features, max_references=most, least=least)
    return references.tolist(), position.tolist()


class TestChoose:
    def test_each_target_gets_its_best_in_order_of_first_use(self) -> None:
        assert pick([[0.2, 0.9, 0.1], [0.5, 0.2, 0.3], [0.1, 0.8, 0.2]], 8) == ([1, 0], [0, 1, 0])

    def test_nothing_useful(self) -> None:
        assert pick([[0.1, 0.05], [0.0, 0.3]], 8) == ([1], [-1, 0])
        assert pick([[0.1, 0.05]], 8) == ([], [-1])

    def test_equal_scores_go_to_the_earlier_frame(self) -> None:
        assert pick([[0.2, 0.7, 0.7]], 8) == ([1], [0])

    def test_too_many_candidates(self) -> None:
        """The best loved frame is first; then the farthest; the target left over takes the second best."""
        scores = [[0.9, 0.6, 0.2], [0.8, 0.9, 0.2], [0.2, 0.2, 0.9]]
        assert pick(scores, 2) == ([0, 2], [0, 0, 1])

    def test_quality_counts_beside_distance(self) -> None:
        """Frame 3 is a little farther than frame 2 but hardly anyone can use it."""
        scores = [[0.9, 0.3, 0.3, 0], [0.9, 0.3, 0.3, 0], [0.8, 0.2, 0.85, 0], [0, 0, 0, 0.12]]
        assert pick(scores, 2)[0] == [0, 2]

    def test_empty_bank(self) -> None:
        references, position = choose(np.zeros((3, 0)), np.zeros((0, 6)), max_references=8, least=0.1)
        assert references.tolist() == []
        assert position.tolist() == [-1, -1, -1]

    def test_bad_count(self) -> None:
        with pytest.raises(InputError, match="max_references"):
            pick([[0.5]], 0)

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10_000), targets=st.integers(1, 25), bank=st.integers(1, 60), most=st.integers(1, 9))
    def test_invariants(self, seed: int, targets: int, bank: int, most: int) -> None:
        rng = np.random.default_rng(seed)
        scores = rng.uniform(0, 1, (targets, bank)) ** 2
        references, position = choose(scores, rng.normal(size=(bank, 6)), max_references=most, least=0.1)
        assert len(references) == len(set(references.tolist())) <= most
        assert set(position[position >= 0].tolist()) == set(range(len(references)))
        for t in range(targets):
            among = scores[t, references]
            if position[t] < 0:
                assert len(among) == 0 or among.max() <= 0.1
            else:
                assert among[position[t]] == among.max() > 0.1


def test_features_do_not_depend_on_the_world_frame() -> None:
    views, r = random_views(8, 5), rotation([0.3, -1.2, 0.7])
    moved = views.transformed(r, torch.tensor([3.0, -1, 2]), 7.0)
    before, after = view_features(views, 2.5), view_features(moved, 2.5 * 7)
    distances = [np.linalg.norm(f[:, None] - f[None], axis=-1) for f in (before, after)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)
