"""`run.py`: the environment is set up again after a stop, and what hinders it is one sentence."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

RUN = Path(__file__).parent.parent / "run.py"


@pytest.fixture
def script(tmp_path: Path) -> SimpleNamespace:
    """The functions of a copy in a folder of its own, which fetches nothing."""
    (tmp_path / "run.py").write_bytes(RUN.read_bytes())
    (tmp_path / "pyproject.toml").write_text("")
    names = runpy.run_path(str(tmp_path / "run.py"))["main"].__globals__
    names |= {"install_torch": lambda: None, "torch_version": lambda: "0", "pip": lambda *arguments, check=True: 0}
    return SimpleNamespace(names=names, python=names["PYTHON"], stamp=tmp_path / ".venv" / "set-up-mesh")


def test_an_environment_whose_making_was_stopped_is_completed(script):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", script.python.parent.parent], check=True)
    script.names["set_up"]("mesh")
    assert subprocess.run([script.python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    assert script.stamp.exists()


def test_what_hinders_the_set_up_is_one_sentence(script, monkeypatch, capfd):
    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command)

    script.names["subprocess"] = SimpleNamespace(**vars(subprocess) | {"run": fail})
    monkeypatch.setattr(sys, "executable", "python3")
    monkeypatch.setattr(sys, "argv", ["run.py", "info"])
    assert script.names["main"]() == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("run.py: 'python3 -m venv ")
    assert said.endswith("' failed; mend what it says above and run the same command again")
    assert not script.stamp.exists()
