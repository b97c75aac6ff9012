"""The whole command on a photo: python benchmarks/bench_generate.py [PICTURE] [--short-side N] [--model MODEL].

Runs `worldstereo generate` in its own process, in a fresh folder, and prints wall and CPU seconds, peak memory, and
their ratios to the limits that the project sets itself for the default run on 2 CPU cores (180 s, 4 GB). A second,
already finished run of the same command is the baseline: what start-up and the report alone cost.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, BYTES = 180.0, 4e9


def run(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, and peak memory in bytes of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, nargs="?", default=Path(__file__).parent.parent / "examples/temple.jpg")
    parser.add_argument("--short-side", type=int, default=480)
    parser.add_argument("--model", default="warp")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "world"
        options = ["--out", str(out), "--short-side", str(args.short_side), "--model", args.model, "--quiet"]
        command = [sys.executable, "-m", "worldstereo.cli", "generate", str(args.picture), *options]
        wall, cpu, peak = run(command)
        again, _, _ = run(command)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{args.picture.name}, {args.model}, short side {args.short_side}, {os.cpu_count()} cores")
    print(f"wall  {wall:7.1f} s ({wall / SECONDS:.2f} of the limit), {wall / again:.1f}× a run with nothing left to do")
    print(f"CPU   {cpu:7.1f} s")
    print(f"peak  {peak / 1e9:7.2f} GB ({peak / BYTES:.2f} of the limit)")
    print(f"disk  {size / 1e6:7.0f} MB")


if __name__ == "__main__":
    main()
