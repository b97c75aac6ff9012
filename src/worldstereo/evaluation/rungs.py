"""The rows of the ladder: what each is given of the memories, and what makes its clips."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.evaluation.baselines import ConstantDepth, NearestFrame, WarpedReferences
from worldstereo.evaluation.methods import once
from worldstereo.files import read_json
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.references import References
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.pipelines.generator import VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.loading import Fields, read_clip_format
from worldstereo.pipelines.warp import WarpGenerator
from worldstereo.pipelines.world import create_generator

_GREY = 0.5
_ASPECT = (16, 9)
_TEACHER = "undistilled"

Maker = Literal["pull-push", "warped references", "nearest frame", "constant depth", "teacher", "student"]


@dataclass(frozen=True)
class Rung:
    """One row.

    Attributes:
        name: in tables.
        maker: what makes its clips.
        grown: whether its cloud has the points of earlier clips, or the first frame's alone.
        references: whether it is given references.
        pointmaps: whether it is told where references lie.
        rival: the row that it is compared with: pull-push filling of the same cloud.
    """

    name: str
    maker: Maker
    grown: bool
    references: bool = False
    pointmaps: bool = False
    rival: str | None = None

    @property
    def learned(self) -> bool:
        """Whether a network makes its clips."""
        return self.maker in ("teacher", "student")

    def given(self, references: References) -> References:
        """Of a clip's references, what this row is given."""
        if not self.references:
            return without_references(references)
        return references if self.pointmaps else UnlocatedReferences.of(references)


RUNGS = (
    Rung("constant depth", "constant depth", grown=False),
    Rung("nearest frame", "nearest frame", grown=True, references=True, pointmaps=True),
    Rung("pull-push, first frame", "pull-push", grown=False),
    Rung("pull-push", "pull-push", grown=True),
    Rung("warped references", "warped references", grown=True, references=True, pointmaps=True, rival="pull-push"),
    Rung("camera only", "teacher", grown=False, rival="pull-push, first frame"),
    Rung("+ GGM", "teacher", grown=True, rival="pull-push"),
    Rung("+ GGM + SSM without pointmaps", "teacher", grown=True, references=True, rival="pull-push"),
    Rung("full", "teacher", grown=True, references=True, pointmaps=True, rival="pull-push"),
    Rung("4 steps", "student", grown=True, references=True, pointmaps=True, rival="pull-push"),
)
"""In the order of the tables: baselines, then the paper's ablation."""

WITHOUT_STEREO = "+ GGM"
WITHOUT_MEMORY = "camera only"
TRUTH = "truth"
"""The row of what no generator can pass; it has revisit figures alone."""


def without_references(references: References) -> References:
    """None for any frame."""
    nobody = torch.full_like(references.for_target, -1)
    nothing = torch.zeros_like(references.coverage)
    depth = None if references.depth is None else references.depth[:0]
    return References(references.frames[:0], references.cameras[:0], (), nobody, nothing, references.cloud, depth)


class UnlocatedReferences(References):
    """References of which nothing says where they lie, as in training when pointmaps are left out."""

    @classmethod
    def of(cls, references: References) -> "UnlocatedReferences":
        """The same frames."""
        return cls(**{field.name: getattr(references, field.name) for field in fields(References)})

    def pointmaps(self, targets: Cameras) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "r 3 h w"]]:
        """Mid-grey, as where the cloud is empty."""
        size = (3, targets.height, targets.width)
        return torch.full((len(targets), *size), _GREY), torch.full((len(self.frames), *size), _GREY)

    def seen_by(self, targets: Cameras) -> PointRender:
        """Nothing: without knowing where a reference lies, nobody can say what it shows of a target."""
        shape = (len(targets), targets.height, targets.width)
        grey = torch.full((shape[0], 3, *shape[1:]), _GREY)
        return PointRender(grey, torch.ones(shape, dtype=torch.bool), torch.zeros(shape))


@dataclass(frozen=True)
class Makers:
    """What makes the clips.

    Attributes:
        create: by maker; a network is loaded when it is asked for.
        width, height, frames: of the clips: the network's own size nearest to 16:9.
        skipped: reasons why rows are left out, by their names.
    """

    create: dict[str, Callable[[], VideoGenerator]]
    width: int
    height: int
    frames: int
    skipped: dict[str, str]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Those that can be made."""
        return tuple(rung for rung in RUNGS if rung.name not in self.skipped)


def find_makers(model: str, steps: int | None = None, device: str = "cpu") -> Makers:
    """The generators of all rows for a model in the paper's layout.

    A distilled model (with `dmd_steps` in its configuration) is the student, and its subfolder `undistilled`, where
    there is one, the teacher. Any other model is the teacher. Rows of what there is not, and those with references of
    a model without stereo branch, are skipped.

    Args:
        model: as `--model` takes it.
        steps: of the teacher's sampler; the model's if none.

    Raises:
        InputError: the model cannot be read.
    """
    files = ModelFiles(ModelSource.parse(model))
    path = files.file("config.json")
    config = Fields(read_json(path), str(path))
    distilled = "dmd_steps" in config.values
    inside = f"{model}/{_TEACHER}" if files.source.subfolder else f"{model}:{_TEACHER}"
    has_teacher = not distilled or _exists(inside)
    teacher = inside if distilled else model
    placement = Placement(device)
    makers: dict[str, Callable[[], VideoGenerator]] = {
        "pull-push": WarpGenerator,
        "warped references": WarpedReferences,
        "nearest frame": NearestFrame,
        "constant depth": ConstantDepth,
    }
    if has_teacher:
        makers["teacher"] = once(lambda: create_generator(teacher, GeneratorOptions(steps=steps), placement))
    if distilled:
        makers["student"] = once(lambda: create_generator(model, GeneratorOptions(), placement))
    reasons = {"teacher": f"{model} has no subfolder {_TEACHER}", "student": f"{model} is not distilled"}
    skipped = {rung.name: reasons[rung.maker] for rung in RUNGS if rung.maker not in makers}
    if not files.has("stereo"):
        blind = [rung for rung in RUNGS if rung.learned and rung.references]
        skipped |= {rung.name: f"{model} has no stereo branch" for rung in blind}
    clip_format = read_clip_format(config)
    height, width = clip_format.size_for(*_ASPECT)
    return Makers(makers, width, height, clip_format.frames, skipped)


def _exists(model: str) -> bool:
    source = ModelSource.parse(model)
    return ModelFiles(source).has("backbone")
