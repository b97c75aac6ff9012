"""Camera paths as the pages name and colour them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.errors import InputError

# Apart for people with any colour vision, and readable on photographs, on black and on white.
_PALETTE = ("#f28e1c", "#2f8fe8", "#1fae7a", "#e0559f", "#c9a90c", "#14aebf", "#e5484d", "#8f6ff0")


@dataclass(frozen=True)
class PathSketch:
    """A camera path to draw, with the pictures of its cameras (RGB in [0, 1]) if there are any.

    Raises:
        InputError: there is not one picture a camera.
    """

    name: str
    cameras: Cameras
    frames: Float[Tensor, "f 3 h w"] | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and len(self.frames) != len(self.cameras):
            raise InputError(f"path '{self.name}' has {len(self.cameras)} cameras but {len(self.frames)} frames")


def path_color(index: int) -> str:
    """The colour `#rrggbb` of the path at this place in the list, in every picture and page."""
    return _PALETTE[index % len(_PALETTE)]


def frustum_frames(count: int, at_most: int = 6) -> list[int]:
    """The frames whose frusta are drawn: first, last, and evenly between, so that they do not hide the path."""
    if count <= at_most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (at_most - 1)) for i in range(at_most)})
