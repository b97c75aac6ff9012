"""Things that several tests need."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worldstereo.cameras import Cameras
from worldstereo.images import save_png


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run side by side: one thread each."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def room_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a procedural room, 288×192."""
    from worldstereo.data.procedural import ProceduralScene

    scene = ProceduralScene.sample(3, kind="room")
    camera = scene.sample_cameras(1, 0, 288, 192, (65, 66))
    path = tmp_path_factory.mktemp("photo") / "room.png"
    save_png(path, scene.render(camera).rgb[0])
    return path


@pytest.fixture(scope="session")
def room_panorama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A panorama of a procedural room, 512×256."""
    from worldstereo.data.procedural import ProceduralScene

    scene = ProceduralScene.sample(3, kind="room")
    camera: Cameras = scene.sample_cameras(1, 0, 64, 64, (65, 66))
    level = torch.eye(4)
    level[:3, 3] = camera.centers[0]
    path = tmp_path_factory.mktemp("panorama") / "panorama.png"
    save_png(path, scene.render_panorama(level, 256).rgb[0])
    return path


def run_command(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the real command line in its own process."""
    command = [sys.executable, "-m", "worldstereo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
