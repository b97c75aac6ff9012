"""Closed loops and crossing paths: is what was seen before shown again as it was?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worldstereo.data.procedural import ProceduralScene
from worldstereo.errors import BusyError, FullDiskError, InputError
from worldstereo.evaluation.comparison import PathsConfig, compare
from worldstereo.evaluation.ladder_clips import FIRST_SEED, procedural_clip
from worldstereo.evaluation.methods import PULL_PUSH, Method
from worldstereo.evaluation.novel_views import FRAMES, clip_shape
from worldstereo.evaluation.protocol import (
    PROCEDURAL_SOURCE,
    Comparison,
    Figure,
    Item,
    OnProgress,
    Protocol,
    Reference,
    Result,
    part_of,
    seed_of,
    silent,
    steps_of,
)
from worldstereo.evaluation.revisits import Crossing, fly, revisit_figures
from worldstereo.evaluation.rungs import TRUTH, Rung
from worldstereo.evaluation.subjects import Subject
from worldstereo.evaluation.world_revisits import WorldFrames, world_revisit_figures
from worldstereo.evaluation.worlds import WorldMaker

PATHS = ("orbit-right:12+orbit-left:12", "orbit-up:8+orbit-right:12", "orbit-right:12")
"""A closed loop; a path to another height that crosses it; the loop's first half once more, by half steps."""

_SHAPE = (832, 480)
_EVERYTHING = Rung("both memories", "student", grown=True, references=True, pointmaps=True)

_NOTES = """\
PSNR in dB of what is shown again against what was shown first, means over scenes ± standard error (95 % intervals in
the JSON). "Invented" counts only what the input did not show: the rest any method with a cloud repeats. Worlds are made
by the real loop: a closed loop, a path that crosses it, and a part of the loop once more. "Revisit" compares each frame
with the frame of an earlier clip that shows most of it, and "loop" the second half of a clip with its first half, both
moved through the world's own cloud, where both show the same surface of it (its share of the pixels is "shared");
"closure" compares frames of equal cameras pixel by pixel and needs no geometry. Consistency is not truth: a plane moved
by a homography (constant depth) agrees with itself perfectly and is wrong, so read this beside novel views. In the set
with exact depth, which is the ladder's, two clips from one view end in the same view, frames enter the memories with
the scene's true depth, and the second is compared with the first through the truth; its row "truth" is what no
generator can pass, as moving a picture resamples it. What failed has no figures and is counted."""

_FIGURES = (
    Figure("revisit", "revisit PSNR", 2, "higher", compared=True),
    Figure("revisit_invented", "revisit PSNR, invented", 2, "higher", compared=True),
    Figure("loop", "loop PSNR", 2, "higher"),
    Figure("loop_invented", "loop PSNR, invented", 2, "higher"),
    Figure("closure", "closure PSNR", 2, "higher", compared=True),
    Figure("closure_invented", "closure PSNR, invented", 2, "higher", compared=True),
    Figure("shared", "shared %", 1, "higher"),
    Figure("failed", "failed %", 0, "lower"),
)


@dataclass(frozen=True, kw_only=True)
class RevisitsConfig(PathsConfig):
    """What to evaluate.

    Attributes:
        data: captures, whose first frames are taken, or a folder of photographs.
        trajectories: clips of one world, in order.
    """

    trajectories: tuple[str, ...] = PATHS


def evaluate_revisits(config: RevisitsConfig, on_progress: OnProgress = silent) -> Path:
    """Make and measure the worlds that are not there yet, then write the tables; gives `revisits.md`.

    `out` gets `scenes/` with one result file each (two for a procedural scene: its world, and the crossing with exact
    depth), `worlds/`, `revisits.json`, `revisits.md` and bars.

    Raises:
        InputError: a model or picture cannot be read, or `out` holds results of other settings.
    """
    methods, maker = config.methods(), config.maker()
    items = [
        Item(f"world-{subject.name}", subject.source, partial(_measure_world, config, methods, maker, subject))
        for subject in config.subjects(photos=True)
    ]
    for number in range(config.scenes):
        name = f"crossing-procedural-{FIRST_SEED + number}"
        items.append(Item(name, PROCEDURAL_SOURCE, partial(_measure_crossing, config, methods, name, number)))
    protocol = Protocol(
        name="revisits",
        title="Revisits",
        item="scene",
        figures=_FIGURES,
        rows=(Reference(TRUTH), *methods),
        notes=_NOTES,
        comparisons=(Comparison(PULL_PUSH),),
        about=_about,
    )
    return compare(config, protocol, items, on_progress, facts={"paths": " ".join(config.trajectories)})


def _measure_world(
    config: RevisitsConfig, methods: Sequence[Method], maker: WorldMaker, subject: Subject, on_progress: OnProgress
) -> Result:
    folder = config.out / "worlds" / subject.name
    rows: dict[str, dict[str, float | None]] = {}
    failures: dict[str, str] = {}
    for number, method in enumerate(methods):
        report = part_of(on_progress, method.name, number / len(methods), 0.9 / len(methods))
        try:
            world = maker.make(subject, method, config.trajectories, folder, report)
            report("comparing frames", 1.0)
            rows[method.name] = world_revisit_figures(WorldFrames.of(world)) | {"failed": 0.0}
        except (FullDiskError, BusyError):
            raise
        except InputError as error:
            rows[method.name] = {"failed": 100.0}
            failures[method.name] = str(error)
    group, depth = f"{subject.group}, worlds", maker.depth_name(subject)
    return {"name": subject.name, "group": group, "depth": depth, "rows": rows, "failures": failures}


def _measure_crossing(
    config: RevisitsConfig, methods: Sequence[Method], name: str, number: int, on_progress: OnProgress
) -> Result:
    frames = methods[-1].create().frames or config.frames or FRAMES
    on_progress("making the scene", 0.0)
    clip = procedural_clip(number, *clip_shape(config, methods, *_SHAPE), frames, config.device)
    crossing = Crossing.of(ProceduralScene.sample(FIRST_SEED + number, device=config.device), clip.cameras)
    rows: dict[str, dict[str, float | None]] = {TRUTH: revisit_figures(*crossing.frames, crossing)}
    for place, method in enumerate(methods):
        report = steps_of(on_progress, method.name, place / len(methods), 1 / len(methods))
        first, second = fly(method.create(), _EVERYTHING, crossing, seed_of(config.seed, name), report)
        rows[method.name] = revisit_figures(first, second, crossing)
    group = f"{clip.group}, exact depth"
    return {"name": name, "group": group, "depth": clip.depth_source, "rows": rows, "failures": {}}


def _about(scenes: Sequence[Result]) -> str:
    depths = ", ".join(sorted({scene["depth"] for scene in scenes}))
    return f"Depth of the picture: {depths}. Scenes: {', '.join(scene['name'] for scene in scenes)}."
