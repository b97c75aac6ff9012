"""No damaged file makes a reader fail with anything but one clear sentence; `benchmarks/fuzz_readers.py` tries more."""

import pytest

from fuzzing import TARGETS, fuzz

COUNT = 200


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    outcome = fuzz(name, COUNT, 0, tmp_path)
    assert outcome.read + outcome.refused == COUNT
    assert outcome.refused > COUNT // 20  # the damage is real
    assert outcome.slowest < 5
