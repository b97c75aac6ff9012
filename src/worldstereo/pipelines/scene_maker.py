"""What a worker does with a scene: the same as `worldstereo generate`, with models that stay loaded."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from worldstereo.depth import DepthEstimator
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import BusyError, FullDiskError, InputError
from worldstereo.models.low_memory import Offload
from worldstereo.pipelines.batch import Ending, Models, Outcome, Scene
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.generators import Generators
from worldstereo.pipelines.world import WorldPipeline
from worldstereo.pipelines.world_folder import World


class SceneMaker:
    """Makes scenes on one device; of networks and depth back-ends it holds the last ones used."""

    def __init__(
        self,
        out: Path,
        finish: Callable[[World], object],
        offload: Offload,
        offline: bool,
        expected: Sequence[tuple[str, GeneratorOptions]],
        device: str,
    ) -> None:
        """
        Args:
            out: the folder of the worlds.
            finish: called with every world whose clips are there, also with those found finished.
            offload, offline, device: see `Placement`.
            expected: see `Generators`.

        Raises:
            InputError: this computer has no such device.
        """
        self._out = out
        self._finish = finish
        self._device = device
        self._generators = Generators(Placement(device, offload, offline), expected)
        self._depth: tuple[tuple[str, float | None], DepthEstimator] | None = None

    def __call__(self, scene: Scene) -> Outcome:
        """Make a scene, or go on with it; whatever goes wrong is in the outcome."""
        try:
            return self._make(scene)
        except BusyError:
            return Outcome(scene, Ending.BUSY)
        except FullDiskError as error:
            return Outcome(scene, Ending.STOPPED, str(error))
        except InputError as error:
            return Outcome(scene, Ending.FAILED, str(error))
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[0]
            sentence = f"{scene.picture}: an unforeseen error ended the work ({type(error).__name__}: {reason})"
            return Outcome(scene, Ending.CRASHED, sentence, traceback.format_exc())

    def _make(self, scene: Scene) -> Outcome:
        folder = self._out / scene.name
        was_done = World.exists(folder) and World(folder).is_done
        generator = self._generators(scene.models.model, scene.models.options)
        pipeline = WorldPipeline(generator, self._load_depth(scene.models))
        self._finish(pipeline(scene.picture, folder, scene.settings))
        return Outcome(scene, Ending.FOUND if was_done else Ending.MADE, notice=pipeline.generator.licence)

    def _load_depth(self, models: Models) -> DepthEstimator:
        key = (models.depth, models.depth_scale)
        if self._depth is None or self._depth[0] != key:
            self._depth = None
            estimator = create_depth_estimator(models.depth, depth_scale=models.depth_scale, device=self._device)
            self._depth = key, estimator
        return self._depth[1]
