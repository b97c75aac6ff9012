"""The direction of the data: every folder imports only from those before it."""

import ast
from pathlib import Path

import worldstereo

ORDER = (
    *("cameras", "geometry", "data", "models", "schedulers", "depth", "memory", "pipelines"),
    *("training", "reconstruction", "viewer", "exporters", "evaluation", "cli"),
)


def imported_folders(path: Path) -> set[str]:
    """Folders of the package that a module imports from, at its top or when called."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("worldstereo.")}
    return found & set(ORDER)


def test_no_folder_imports_upwards() -> None:
    root = Path(worldstereo.__file__).parent
    folders = {path.name for path in root.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ORDER)
    upwards = [
        f"{path.relative_to(root)} -> {name}"
        for folder in ORDER
        for path in (root / folder).rglob("*.py")
        for name in imported_folders(path)
        if ORDER.index(name) > ORDER.index(folder)
    ]
    assert upwards == []
    beside = set().union(*(imported_folders(path) for path in root.glob("*.py") if path.name != "__main__.py"))
    assert beside <= {ORDER[0]}  # images.py crops cameras along with their pictures
