"""Feed-forward reconstructors from elsewhere behind one protocol: many frames at once, brought back to our frame.

None of them is a dependency; they are imported when used. The adapters were tested with stand-ins for the packages,
not with the packages and their weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry.alignment import umeyama

_LEAST_BASELINE = 1e-6


@dataclass(frozen=True)
class ExternalViews:
    """What a reconstructor says about some frames, in its own frame and unit.

    Attributes:
        depth: z-depth at any size of the frames' shape; 0 or not finite = unknown.
        cam_from_world: its poses, OpenCV axes.
    """

    depth: Float[Tensor, "n h w"]
    cam_from_world: Float[Tensor, "n 4 4"]


@runtime_checkable
class SceneReconstructor(Protocol):
    """A network that looks at many frames at once.

    Attributes:
        name: what `--depth` takes and what reports show.
        licence: of its weights.
    """

    name: str
    licence: str

    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """Depth and poses of the frames; the exact cameras are given to networks that take them."""
        ...


def predict_jointly(
    reconstructor: SceneReconstructor, images: Float[Tensor, "n 3 h w"], cameras: Cameras
) -> list[DepthPrediction]:
    """Depth of frames in our unit: Umeyama's similarity brings the network's camera centres to ours.

    With fewer than three centres, or centres on a line, where a similarity is not determined, the ratio of the spreads
    of the centres is taken; where the cameras do not move apart, the unit stays the network's.

    Raises:
        InputError: the network gives another number of frames.
    """
    views = reconstructor.views(images, cameras)
    if len(views.depth) != len(images) or len(views.cam_from_world) != len(images):
        raise InputError(f"{reconstructor.name}: gave {len(views.depth)} depths for {len(images)} frames")
    scale = _scale(_centers(views.cam_from_world), cameras.centers)
    size = (cameras.height, cameras.width)
    depth = torch.where(torch.isfinite(views.depth) & (views.depth > 0), views.depth, 0.0).float()
    depth = interpolate(depth[:, None], size, mode="nearest-exact")[:, 0] * (scale or 1.0)
    nowhere = torch.zeros(size, dtype=torch.bool)
    return [DepthPrediction(one, nowhere, None, False, reconstructor.name) for one in depth]


def _centers(cam_from_world: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 3"]:
    return -(cam_from_world[:, :3, :3].transpose(1, 2) @ cam_from_world[:, :3, 3:])[..., 0].float()


def _scale(theirs: Float[Tensor, "n 3"], ours: Float[Tensor, "n 3"]) -> float | None:
    """Our unit in theirs; None where nothing tells."""
    spreads = [float((centers - centers.mean(dim=0)).norm(dim=1).mean()) for centers in (theirs, ours)]
    if min(spreads) < _LEAST_BASELINE:
        return None
    try:
        return umeyama(theirs, ours).scale
    except InputError:
        return spreads[1] / spreads[0]


class DepthAnything3Views:
    """Depth Anything 3 (Lin et al., arXiv 2511.10647) by its own package, with our cameras as input."""

    licence = "Apache-2.0 (small, base, metric) or CC BY-NC 4.0 (large, giant, nested); see the model's card"

    def __init__(self, model: str, device: str) -> None:
        self.name = f"da3:{model}"
        try:
            from depth_anything_3.api import DepthAnything3
        except ImportError:
            raise InputError(
                f"--depth {self.name}: needs the package 'depth_anything_3', which is not installed; install it from "
                f"its authors' repository"
            ) from None
        self._network = DepthAnything3.from_pretrained(model).to(device)

    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass."""
        pictures = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        found = self._network.inference(
            list(pictures),
            extrinsics=cameras.cam_from_world.cpu().numpy(),
            intrinsics=cameras.intrinsics.cpu().numpy(),
        )
        poses = torch.eye(4).repeat(len(images), 1, 1)
        poses[:, :3] = _tensor(found.extrinsics)[:, :3]
        return ExternalViews(_tensor(found.depth), poses)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values)).float()


@dataclass(frozen=True)
class External:
    """A row of the list of reconstructors.

    Attributes:
        default: the model without a name.
        build: makes it from (model, device).
    """

    default: str
    build: Callable[[str, str], SceneReconstructor]


EXTERNALS = {"da3": External("depth-anything/DA3-BASE", DepthAnything3Views)}


def is_external(spec: str) -> bool:
    """Whether `--depth` names a reconstructor of this list."""
    return spec.partition(":")[0] in EXTERNALS


def create_reconstructor(spec: str, device: str = "cpu") -> SceneReconstructor:
    """The reconstructor of a name such as "da3" or "da3:MODEL".

    Raises:
        InputError: an unknown name, or its package is missing.
    """
    kind, _, model = spec.partition(":")
    if kind not in EXTERNALS:
        raise InputError(f"--depth {spec}: no such reconstructor; known: {', '.join(EXTERNALS)}")
    return EXTERNALS[kind].build(model or EXTERNALS[kind].default, device)
