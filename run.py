#!/usr/bin/env python3
"""Set everything up and run worldstereo, or its tests, with nothing but Python 3.10 to 3.13.

    python run.py generate examples/temple.jpg      any verb of the command line
    python run.py test                              lint, types, tests

The first call makes the virtual environment .venv beside this file and installs the CPU build of torch and the
package into it (a few minutes); later calls start at once. A GPU build of torch that you install into .venv
yourself is left alone.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
TORCH = "2.13.0"


def main() -> int:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        print(f"worldstereo needs Python 3.10 to 3.13; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    arguments = sys.argv[1:]
    testing = arguments[:1] == ["test"]
    try:
        set_up("test" if testing else "mesh,viewer")
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd)
        print(f"run.py: '{command}' failed; mend what it says above and run the same command again", file=sys.stderr)
        return 2
    if testing:
        return run_tests(arguments[1:])
    return subprocess.call([str(PYTHON), "-m", "worldstereo.cli", *arguments])


def set_up(extras: str) -> None:
    """Make the environment, unless it was made from the same pyproject.toml before."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = VENV / f"set-up-{extras}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print("setting up .venv (a few minutes, once) ...", file=sys.stderr, flush=True)
    if not has_pip():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    if subprocess.call([str(PYTHON), "-c", "import torch"], stderr=subprocess.DEVNULL) != 0:
        install_torch()
    # Whatever else asks for torch must not exchange the one that is there.
    constraint = VENV / "constraints.txt"
    constraint.write_text(f"torch=={torch_version()}\n")
    pip("install", "--constraint", str(constraint), "--editable", f"{ROOT}[{extras}]")
    stamp.write_text(wanted)


def has_pip() -> bool:
    """Whether the environment is whole; one whose making was stopped has a Python but no pip."""
    return PYTHON.exists() and subprocess.call([str(PYTHON), "-c", "import pip"], stderr=subprocess.DEVNULL) == 0


def install_torch() -> None:
    """The CPU build: on Linux the default index has a CUDA build of gigabytes, elsewhere the default is right."""
    if not sys.platform.startswith("linux"):
        pip("install", f"torch=={TORCH}")
    elif pip("install", f"torch=={TORCH}+cpu", check=False) != 0:
        # uv knows where the CPU builds are.
        pip("install", "uv")
        command = ["-m", "uv", "pip", "install", "--python", str(PYTHON), "--torch-backend", "cpu", f"torch=={TORCH}"]
        subprocess.run([str(PYTHON), *command], check=True)


def torch_version() -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    return subprocess.run([str(PYTHON), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def pip(*arguments: str, check: bool = True) -> int:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", arguments[0], "--quiet", *arguments[1:]]
    silent = None if check else subprocess.DEVNULL
    return subprocess.run(command, check=check, stderr=silent).returncode


def run_tests(arguments: "list[str]") -> int:
    """Lint, types and tests; all three run, the first failure decides."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    checks = [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["pytest", "-n", "2", *arguments],
    ]
    results = [subprocess.call([str(PYTHON), "-m", *check], cwd=ROOT, env=environment) for check in checks]
    return next((code for code in results if code != 0), 0)


if __name__ == "__main__":
    sys.exit(main())
