"""The stages of the video model's training: the one place that says what each of them trains, on what.

Source: WorldStereo (arXiv 2603.02049): a control branch on guidance renders, then with the global-geometric memory,
then the stereo branch from scratch, all over a frozen backbone; distillation trains the student's backbone under
frozen branches, on the camera task alone. The backbone's own stage is nano's: larger models start from a published one.
"""

from dataclasses import dataclass
from typing import Literal

from worldstereo.errors import InputError
from worldstereo.training.clip_recipe import CAMERA_RECIPE, GLOBAL_RECIPE, STEREO_RECIPE, ClipRecipe

Part = Literal["backbone", "control", "stereo"]
Condition = Literal["text", "render", "rays", "pointmaps"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of the stage.
        parts: of the network that take part.
        trains: those of them whose weights change; the others stay as they are, bit for bit.
        needs: those that the model it starts from must have; the rest is made new where it has none.
        drops: conditions that are left out of a share of the samples.
        recipe: how its clips are made of posed frames: further views' points, faults of depth, references.
    """

    name: str
    parts: tuple[Part, ...]
    trains: tuple[Part, ...]
    needs: tuple[Part, ...]
    drops: tuple[Condition, ...]
    recipe: ClipRecipe


STAGES = {
    stage.name: stage
    for stage in (
        Stage("backbone", ("backbone",), ("backbone",), (), ("text", "render"), CAMERA_RECIPE),
        Stage(
            "camera", ("backbone", "control"), ("control",), ("backbone",), ("text", "render", "rays"), CAMERA_RECIPE
        ),
        Stage(
            "ggm",
            ("backbone", "control"),
            ("control",),
            ("backbone", "control"),
            ("text", "render", "rays"),
            GLOBAL_RECIPE,
        ),
        Stage(
            "stereo",
            ("backbone", "control", "stereo"),
            ("stereo",),
            ("backbone", "control"),
            ("text", "render", "rays", "pointmaps"),
            STEREO_RECIPE,
        ),
        Stage("distill", ("backbone", "control"), ("backbone",), ("backbone", "control"), (), CAMERA_RECIPE),
    )
}
"""By name, in order."""

DENOISING_STAGES = ("backbone", "camera", "ggm", "stereo")
"""Those that `train_video` runs: flow matching on clips. Distillation has a trainer of its own."""


def stage_named(name: str) -> Stage:
    """The stage of flow matching with that name.

    Raises:
        InputError: there is none.
    """
    if name not in DENOISING_STAGES:
        raise InputError(f"stage is {name!r} but must be one of {', '.join(DENOISING_STAGES)}")
    return STAGES[name]
