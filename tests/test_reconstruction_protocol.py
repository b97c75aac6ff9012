"""Surfaces and clouds in closed form, and the one-image reconstruction benchmark end to end."""

import json
from pathlib import Path

import pytest
import torch

from conftest import run_command
from worldstereo.data.procedural import ProceduralScene
from worldstereo.errors import InputError
from worldstereo.evaluation.methods import CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH, Method, find_methods
from worldstereo.evaluation.protocol import Figure, Item, Protocol, Reference, run_items
from worldstereo.evaluation.protocol_report import write_report
from worldstereo.evaluation.reconstruction import (
    INPUT_ALONE,
    ReconstructionConfig,
    evaluate_reconstruction,
    measure_subject,
)
from worldstereo.evaluation.subjects import procedural_subject
from worldstereo.evaluation.surfaces import THRESHOLDS, Surface, cloud_figures, procedural_surface, true_paths

SMALL = {"short_side": 64, "frames": 3, "trajectories": ("orbit-right:5",)}


def plane(offset: float = 0.0, count: int = 120) -> torch.Tensor:
    """Points of a unit square at z = offset."""
    side = torch.linspace(0, 1, count)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, offset)], dim=-1).view(-1, 3)


def test_the_truth_is_perfect():
    figures = cloud_figures(plane(), Surface(plane(), True, "test"))
    for key in ("precision", "recall", *(f"f1_{t}" for t in THRESHOLDS)):
        assert figures[key] == 1.0
    assert figures["auc"] == pytest.approx(1 - 0.5 * THRESHOLDS[0] / THRESHOLDS[-1])  # F1 counts from 0 at 0
    assert figures["accuracy"] == figures["completeness"] == 0.0
    assert figures["outside"] == 0.0


def test_a_shift_of_three_percent_of_the_size():
    surface = Surface(plane(), True, "test")
    assert surface.size == pytest.approx(2**0.5 * 0.98, abs=0.02)
    figures = cloud_figures(plane(0.03 * surface.size), surface)
    assert [figures[f"f1_{t}"] for t in THRESHOLDS] == [0.0, 0.0, 0.0, 1.0]
    assert figures["accuracy"] == pytest.approx(3.0, rel=1e-3)
    assert figures["completeness"] == pytest.approx(3.0, rel=1e-3)
    assert figures["auc"] == pytest.approx(0.5 * (0.05 - 0.02) / 0.05)


def test_half_of_a_surface_is_precise_but_incomplete():
    half = plane()[plane()[:, 0] < 0.5]
    figures = cloud_figures(half, Surface(plane(), True, "test"))
    assert figures["precision"] == 1.0
    assert figures["recall"] == pytest.approx(0.5 + 0.02 * 2**0.5, abs=0.02)
    assert figures["f1_0.02"] == pytest.approx(2 * figures["recall"] / (1 + figures["recall"]), abs=1e-6)


def test_stray_points_are_counted_and_density_does_not_matter():
    stray = torch.full((14400, 3), 30.0)
    surface = Surface(plane(), True, "test")
    figures = cloud_figures(torch.cat([plane(), stray]), surface)
    assert figures["outside"] == pytest.approx(50.0)
    assert figures["precision"] == 1.0
    wrong = plane(0.04 * surface.size)
    once, often = (cloud_figures(torch.cat([plane(), wrong.repeat(n, 1)]), surface) for n in (1, 9))
    assert once["precision"] == often["precision"] == pytest.approx(0.5, abs=0.05)


def test_sparse_truth_says_nothing_of_precision_and_nothing_found_is_zero():
    sparse = cloud_figures(plane(), Surface(plane(count=9), False, "test"))
    assert sparse["recall"] == 1.0
    assert sparse["precision"] is sparse["auc"] is sparse["f1_0.02"] is None
    nothing = cloud_figures(plane()[:0], Surface(plane(), True, "test"))
    assert nothing["f1_0.02"] == nothing["auc"] == nothing["recall"] == 0.0
    assert nothing["accuracy"] is None


def test_the_true_surface_of_a_procedural_scene_lies_on_its_solids():
    subject = procedural_subject(0, 128, 80)
    surface = procedural_surface(subject.scene, subject.camera, ("orbit-right:8",), frames=2)
    distance = subject.scene.distance(surface.points[::50]).abs()
    assert float(distance.quantile(0.95)) < 0.02
    own = subject.camera.unproject(subject.depth[None])[0][subject.depth > 0]
    assert cloud_figures(own, surface)["precision"] > 0.95


def test_baselines_are_in_every_table():
    assert [method.name for method in find_methods(())] == [CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH]
    assert [method.name for method in find_methods(("warp",))] == [CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH]


def test_scenes_count_alike_however_many_items_they_have(tmp_path):
    values = {"a1": ("a", 1.0), "a2": ("a", 3.0), "b1": ("b", 5.0)}
    protocol = Protocol(
        "test", "Test", "clip", (Figure("v", "V", 2, "higher"),), (Reference("row"),), "Notes.", (), lambda items: ""
    )
    items = [
        Item(
            name,
            "data",
            lambda report, n=name, s=scene, v=v: {"name": n, "group": "g", "scene": s, "rows": {"row": {"v": v}}},
        )
        for name, (scene, v) in values.items()
    ]
    results = run_items(tmp_path / "out", protocol, {}, items, lambda what, share: None)
    write_report(tmp_path / "out", protocol, results, {}, {})
    (one,) = json.loads((tmp_path / "out" / "test.json").read_text())["sets"]
    mean = one["rows"]["row"]["figures"]["v"]
    assert (mean["mean"], mean["count"]) == (3.5, 2)
    assert mean["standard_error"] == pytest.approx(1.5)
    low, high = mean["confidence_interval_95"]
    assert (low, high) == pytest.approx((3.5 - 12.706 * 1.5, 3.5 + 12.706 * 1.5), rel=1e-3)  # Student's t of 1 degree


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reconstruction") / "out"
    return evaluate_reconstruction(ReconstructionConfig(out=out, scenes=1, depth="exact", **SMALL)).parent


def test_a_true_depth_gives_a_precise_cloud(table):
    (one,) = json.loads((table / "reconstruction.json").read_text())["sets"]
    rows = {name: row["figures"] for name, row in one["rows"].items()}
    assert list(rows) == [INPUT_ALONE, CONSTANT_DEPTH, NEAREST_FRAME, PULL_PUSH]
    assert rows[INPUT_ALONE]["scale"]["mean"] == pytest.approx(1, abs=1e-4)
    assert rows[INPUT_ALONE]["precision"]["mean"] > 0.9
    assert rows[CONSTANT_DEPTH]["precision"]["mean"] < 0.5 * rows[INPUT_ALONE]["precision"]["mean"]
    assert rows[PULL_PUSH]["failed"]["mean"] == 0
    text = (table / "reconstruction.md").read_text()
    for words in ("worldstereo 0", "seed: 0", "CPU cores", "scale by the median ratio", "worldstereo evaluate recon"):
        assert words in text
    assert (table / "procedural-held-out.png").is_file()


def test_a_finished_scene_is_not_made_again(table):
    result = next((table / "scenes").glob("*.json"))
    before = result.stat().st_mtime_ns
    evaluate_reconstruction(ReconstructionConfig(out=table, scenes=1, depth="exact", **SMALL))
    assert result.stat().st_mtime_ns == before


def test_the_cloud_fused_from_all_frames(tmp_path):
    paths = ("orbit-right:8",)
    config = ReconstructionConfig(
        out=tmp_path / "out", scenes=1, depth="exact", short_side=96, frames=3, trajectories=paths, cloud="fused"
    )
    text = evaluate_reconstruction(config).read_text()
    assert "fused from all frames" in text
    (one,) = json.loads((tmp_path / "out" / "reconstruction.json").read_text())["sets"]
    rows = {name: row["figures"] for name, row in one["rows"].items()}
    assert rows[PULL_PUSH]["precision"]["mean"] > 0.9
    assert rows[PULL_PUSH]["f1_0.02"]["mean"] > 2 * rows[CONSTANT_DEPTH]["f1_0.02"]["mean"]


def test_a_method_that_fails_counts_as_nothing_found(tmp_path):
    def fail():
        raise InputError("the weights are gone")

    config = ReconstructionConfig(out=tmp_path / "out", scenes=1, depth="exact", **SMALL)
    subject = procedural_subject(0, 112, 64)
    result = measure_subject(config, [Method("broken", fail)], config.maker(), subject, lambda what, share: None)
    assert result["failures"] == {"broken": "the weights are gone"}
    row = result["rows"]["broken"]
    assert (row["failed"], row["f1_0.02"], row["auc"], row["accuracy"]) == (100, 0, 0, None)


def test_the_command_says_what_is_wrong(tmp_path):
    done = run_command("evaluate", "reconstruction", "--trajectory", "orbit-sideways:5", "-o", tmp_path / "out", "-q")
    assert done.returncode == 2
    assert "orbit-sideways" in done.stderr
    assert not (tmp_path / "out").exists()


def test_true_paths_stay_clear_of_walls_that_the_picture_does_not_show():
    scene = ProceduralScene.sample(3, kind="room")
    camera = scene.sample_cameras(1, 0, 128, 80)
    paths = true_paths(scene, camera, ("dolly-out:9", "truck-left:9", "dolly-out:0.05"), frames=5)
    assert float(scene.distance(paths.centers).min()) > 0.01
    moved = (paths.centers[4::5] - paths.centers[::5]).norm(dim=1)
    seen = scene.render(camera).depth
    radius = float(seen[seen > 0].median())
    assert float(moved[0]) < 9 * radius  # it would leave the room
    assert float(moved[2]) == pytest.approx(0.05 * radius, rel=0.05)  # there was room for this
