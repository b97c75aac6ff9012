"""What every video generator takes and gives: the seam between the memories and the models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.references import References
from worldstereo.pipelines.hole_filling import add_references, fill_from_surroundings


@dataclass(frozen=True)
class ClipConditions:
    """Everything a generator needs for one clip.

    Attributes:
        cameras: the clip's cameras; the first one sees `image`.
        image: the first frame, RGB in [0, 1].
        guidance: the global cloud (and the sky) along the path, as the generator's `render_guidance` made it.
        references: frames of the spatial-stereo memory, one or none for each frame of the clip.
        seed: depends on (the run's seed, the clip's number) alone.
    """

    cameras: Cameras
    image: Float[Tensor, "3 h w"]
    guidance: PointRender
    references: References
    seed: int

    def filled_render(self) -> Float[Tensor, "f 3 h w"]:
        """The guidance with its holes filled from their surroundings; its first frame is the image."""
        return self._from_image(fill_from_surroundings(self.guidance))

    def remembered(self) -> PointRender:
        """The guidance, and in its holes what each frame's reference shows of them (`add_references`)."""
        return add_references(self.guidance, self.references.seen_by(self.cameras))

    def remembered_render(self) -> Float[Tensor, "f 3 h w"]:
        """`remembered` with the holes that are left filled from their surroundings; its first frame is the image."""
        return self._from_image(fill_from_surroundings(self.remembered()))

    def _from_image(self, frames: Float[Tensor, "f 3 h w"]) -> Float[Tensor, "f 3 h w"]:
        return torch.cat([self.image[None], frames[1:]])


@runtime_checkable
class VideoGenerator(Protocol):
    """Makes the frames of a clip.

    Attributes:
        name: what `--model` takes and what reports show.
        is_baseline: whether no network is involved; help, report and README say so.
        options: what else decides what it makes, as plain values.
        licence: of its weights, for people; empty where there are none.
    """

    name: str
    is_baseline: bool
    options: dict[str, Any]
    licence: str

    @property
    def uses_reference_depth(self) -> bool:
        """Whether it looks at the depth of references, which costs an estimate for each."""
        ...

    @property
    def frames(self) -> int | None:
        """Per clip; none if it makes any number."""
        ...

    def clip_size(self, width: int, height: int, short_side: int | None) -> tuple[int, int]:
        """(width, height) of the clips of a picture; `short_side` is the user's wish, if there is one.

        Raises:
            InputError: the wish cannot be met.
        """
        ...

    def render_guidance(self, memory: GlobalGeometricMemory, cameras: Cameras) -> PointRender:
        """The memory along a path, rendered as this generator was built for."""
        ...

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Frames along `conditions.cameras`, RGB in [0, 1]; `on_progress(done, total)` is called after each step."""
        ...
