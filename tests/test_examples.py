"""Every example runs."""

import inspect
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(example))["main"]
    small = {"short_side": 96, "frames": 4}
    main(tmp_path, **{name: value for name, value in small.items() if name in inspect.signature(main).parameters})
    assert capsys.readouterr().out.strip()
