"""Damage files and read them: python benchmarks/fuzz_readers.py [--count N] [--seed S] [--only NAME].

For every reader of the project, `count` damaged files, of which each must give a result or an `InputError` that names
it. Prints how many were read and refused, the slowest, and the peak memory of the process, which must not grow with
what damaged headers promise. Stops at the first that fails otherwise and keeps its file.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from fuzzing import TARGETS, fuzz


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS))
    options = parser.parse_args()
    print(f"{'reader':26} {'read':>7} {'refused':>7} {'slowest':>9} {'peak':>9}")
    for name in [options.only] if options.only else TARGETS:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        outcome = fuzz(name, options.count, options.seed, folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:26} {outcome.read:7} {outcome.refused:7} {outcome.slowest:7.2f} s {peak:5.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
