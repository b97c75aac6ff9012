"""A small version of benchmarks/fault_injection.py, which kills 50 runs: what a fault leaves behind is old or new."""

import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
fault_injection = pytest.importorskip("fault_injection", reason="needs Unix limits of resources", exc_type=ImportError)

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs kill -9 and kill -STOP")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory):
    return fault_injection.Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_killed_anywhere_is_finished_with_the_same_bytes(faults, seed):
    draw = random.Random(seed)
    faults.kill([draw.random() for _ in range(1 + seed % 2)])


def test_a_full_disk_is_one_sentence_and_costs_nothing(faults):
    assert "limit of file sizes" in faults.full_disk(mount=False)


@pytest.mark.parametrize(("name", "said"), fault_injection.damages())
def test_a_damaged_file_is_named_with_a_mend_that_works(faults, name, said):
    faults.damage(name, said)


def test_a_second_process_is_refused(faults):
    faults.two_processes()
