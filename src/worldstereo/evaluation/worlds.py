"""Worlds that the real loop makes of a subject, one for each row of a table."""

from dataclasses import dataclass
from pathlib import Path

from worldstereo.cameras.files import write_official
from worldstereo.depth.base import DepthEstimator
from worldstereo.evaluation.methods import CONSTANT_DEPTH, Method
from worldstereo.evaluation.protocol import OnProgress
from worldstereo.evaluation.reference_depth import EXACT, ExactDepth, FlatDepth
from worldstereo.evaluation.subjects import Subject
from worldstereo.images import save_png
from worldstereo.pipelines.world import Settings, WorldPipeline
from worldstereo.pipelines.world_folder import World


@dataclass(frozen=True)
class WorldMaker:
    """How worlds are made.

    Attributes:
        depth: the back-end; for rows of constant depth it only says how far the plane is.
        uses_truth: whether the picture's depth is the truth's, where there is one.
        short_side, frames: of the clips; the generator's choice if none.
        seed: of all noise.
    """

    depth: DepthEstimator
    uses_truth: bool = False
    short_side: int | None = None
    frames: int | None = None
    seed: int = 0

    def depth_name(self, subject: Subject) -> str:
        """Where the depth of the picture comes from, for people."""
        return EXACT if self.uses_truth and subject.has_depth else self.depth.name

    def make(
        self, subject: Subject, method: Method, trajectories: tuple[str, ...], folder: Path, on_progress: OnProgress
    ) -> World:
        """The world of a subject's picture in `folder/NAME_OF_THE_ROW`, or what an earlier run left of it, finished.

        The picture and its camera, as the row is given them, lie beside it.

        Raises:
            InputError: it cannot be made.
        """
        generator = method.create()
        height, width = subject.picture.shape[1:]
        fitted = subject.fitted(*generator.clip_size(width, height, self.short_side))
        name = method.name.replace("/", "-").replace(" ", "-").replace(":", "-")
        picture, camera = folder / f"{name}.png", None
        if not picture.exists():
            save_png(picture, fitted.picture)
        if fitted.camera is not None:
            camera = folder / f"{name}.json"
            if not camera.exists():
                write_official(camera, fitted.camera)
        estimator: DepthEstimator = self.depth
        if self.depth_name(subject) == EXACT:
            estimator = ExactDepth(fitted.depth, fitted.sky, self.depth)
        if method.name == CONSTANT_DEPTH:
            estimator = FlatDepth(estimator)
        settings = Settings(
            trajectories=trajectories,
            projection="perspective",
            camera=camera,
            short_side=self.short_side,
            frames=self.frames,
            seed=self.seed,
        )
        return WorldPipeline(generator, estimator)(picture, folder / name, settings, on_progress)
