"""Surfaces as triangles."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from worldstereo.errors import InputError


@dataclass(frozen=True, eq=False)
class TriangleMesh:
    """Triangles in world coordinates with coloured vertices.

    Attributes:
        vertices: in the world's unit, OpenCV axes.
        faces: indices of vertices, counter-clockwise as seen from outside (from the free side of a surface).
        colors: RGB in [0, 1], one per vertex.

    Raises:
        InputError: a face names a vertex that is not there, or the numbers of vertices and colours differ.
    """

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    colors: Float[Tensor, "v 3"]

    def __post_init__(self) -> None:
        if len(self.vertices) != len(self.colors):
            raise InputError(f"a mesh of {len(self.vertices)} vertices needs as many colours, not {len(self.colors)}")
        if len(self.faces) and not (int(self.faces.min()) >= 0 and int(self.faces.max()) < len(self.vertices)):
            raise InputError(f"a mesh of {len(self.vertices)} vertices has a face that names another one")
