"""The global-geometric memory: the cloud of points that guides every clip and grows with each."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.files import write_tensors
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.rasterizer import render_points
from worldstereo.geometry.rendering import PointRender
from worldstereo.geometry.sharp_rendering import render_points_sharp
from worldstereo.memory.surface_growth import UpdateReport, grow_surface

_FORMAT = "worldstereo-global-geometric-memory-1"
_NAMES = ("points", "colors", "sky_points", "sky_colors")


class GlobalGeometricMemory:
    """All surface known so far, and the sky behind it.

    In renders the sky covers holes, but its depth is 0: a pixel of depth 0 that is no hole shows only sky.
    """

    def __init__(self, cloud: PointCloud, sky: PointCloud) -> None:
        self._cloud = cloud
        self._sky = sky

    @property
    def cloud(self) -> PointCloud:
        """The surfaces: first the points of the first picture, then those of each clip in turn."""
        return self._cloud

    @property
    def sky(self) -> PointCloud:
        """Points far behind everything."""
        return self._sky

    def render(self, cameras: Cameras, point_radius: float) -> PointRender:
        """The published conditioning render (`render_points`) with discs of `point_radius` in NDC."""
        return render_points(self._cloud, cameras, radius_ndc=point_radius, backdrop=self._sky)

    def render_sharp(self, cameras: Cameras) -> PointRender:
        """The visible surface, sharp and without cracks (`render_points_sharp`)."""
        return render_points_sharp(self._cloud, cameras, backdrop=self._sky)

    def update(
        self, frames: Float[Tensor, "f 3 h w"], cameras: Cameras, predictions: Sequence[DepthPrediction]
    ) -> UpdateReport:
        """Add the surface that frames of a clip show and the cloud does not have (`grow_surface`).

        Points are only ever added, after those there are; if every frame is rejected nothing changes.

        Args:
            frames: RGB in [0, 1].
            cameras: their cameras, exact.
            predictions: their depth, in any scale and shift of disparity.

        Raises:
            InputError: numbers or sizes differ.
        """
        growth = grow_surface(self._cloud, self._sky, frames, cameras, predictions)
        if len(growth.cloud):
            self._cloud = PointCloud.cat([self._cloud, growth.cloud])
        if len(growth.sky):
            self._sky = PointCloud.cat([self._sky, growth.sky])
        return growth.report

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, lossless and atomic.

        Raises:
            InputError: the path cannot be written.
        """
        values = (self._cloud.points, self._cloud.colors, self._sky.points, self._sky.colors)
        write_tensors(path, dict(zip(_NAMES, values, strict=True)), {"format": _FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> "GlobalGeometricMemory":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or holds something else.
        """
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("format") != _FORMAT:
                    raise InputError(f"is not a memory that this version wrote (format {_FORMAT})")
                points, colors, sky_points, sky_colors = (file.get_tensor(name) for name in _NAMES)
            return cls(PointCloud(points, colors), PointCloud(sky_points, sky_colors))
        except InputError as error:
            raise InputError(f"{path}: {error}; make the world again") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as a memory ({error})") from error
