"""The generators that a table compares: the baselines, then the models under test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.evaluation.baselines import ConstantDepth, NearestFrame
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.generator import ClipConditions, VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import create_generator

CONSTANT_DEPTH = "constant depth"
NEAREST_FRAME = "nearest frame"
PULL_PUSH = "pull-push"


@dataclass(frozen=True)
class Method:
    """A row that a generator makes.

    Attributes:
        name: of the row.
        create: gives its generator; a network is loaded when it is first asked for.
        learned: whether it is under test; all others are baselines.
        rival: the row that it is compared with.
    """

    name: str
    create: Callable[[], VideoGenerator]
    learned: bool = False
    rival: str | None = None


class LikeModel:
    """A baseline that makes clips of the size and number of frames of a model, for one table."""

    is_baseline = True
    uses_reference_depth = False
    licence = ""

    def __init__(self, baseline: VideoGenerator, model: VideoGenerator) -> None:
        self._baseline, self._model = baseline, model
        self.name = baseline.name
        self.options: dict[str, Any] = baseline.options

    @property
    def frames(self) -> int | None:
        """The model's."""
        return self._model.frames

    def clip_size(self, width: int, height: int, short_side: int | None) -> tuple[int, int]:
        """The model's."""
        return self._model.clip_size(width, height, short_side)

    def render_guidance(self, memory: GlobalGeometricMemory, cameras: Cameras) -> PointRender:
        """The baseline's."""
        return self._baseline.render_guidance(memory, cameras)

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """The baseline's frames."""
        return self._baseline.generate(conditions, on_progress)


def find_methods(models: Sequence[str], steps: int | None = None, device: str = "cpu") -> tuple[Method, ...]:
    """Baselines (first frame on a plane, nearest frame, pull–push filling of the cloud), then the models.

    Baselines make clips of the first model's size and number of frames; without a model, of their own.

    Args:
        models: as `--model` takes them; "warp" is the pull–push baseline, which every table has.
        steps: of the models' samplers; their own if none.

    Raises:
        InputError: a model cannot be read.
    """
    options = GeneratorOptions(steps=steps)
    learned = [
        Method(name, once(partial(create_generator, name, options, Placement(device))), True, PULL_PUSH)
        for name in dict.fromkeys(models)
        if name != WarpGenerator.name
    ]
    for method in learned:
        method.create()  # what cannot be read is said before hours of work
    baselines = {CONSTANT_DEPTH: ConstantDepth(), NEAREST_FRAME: NearestFrame(), PULL_PUSH: WarpGenerator()}
    if learned:
        model = learned[0].create()
        framed = {name: LikeModel(baseline, model) for name, baseline in baselines.items()}
        return (*(Method(name, partial(_same, baseline)) for name, baseline in framed.items()), *learned)
    return tuple(Method(name, partial(_same, baseline)) for name, baseline in baselines.items())


def _same(generator: VideoGenerator) -> VideoGenerator:
    return generator


def once(create: Callable[[], Any]) -> Callable[[], Any]:
    """The same, made when it is first asked for and kept."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(create())
        return made[0]

    return get
