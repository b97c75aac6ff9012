"""The reconstructors by name."""

from collections.abc import Callable
from dataclasses import dataclass

from worldstereo.devices import find_device
from worldstereo.errors import InputError
from worldstereo.reconstruction.external.depth_anything import DepthAnything3Views
from worldstereo.reconstruction.external.map_anything import MapAnythingViews
from worldstereo.reconstruction.external.protocol import SceneReconstructor
from worldstereo.reconstruction.external.vggt import VGGTViews
from worldstereo.reconstruction.external.world_mirror import WorldMirror2Views, WorldMirrorViews


@dataclass(frozen=True)
class External:
    """A row of the list of reconstructors.

    Attributes:
        default: the model without a name.
        build: makes it from (model, device).
    """

    default: str
    build: Callable[[str, str], SceneReconstructor]


EXTERNALS = {
    "da3": External("depth-anything/DA3-BASE", DepthAnything3Views),
    "map-anything": External("facebook/map-anything-apache", MapAnythingViews),
    "vggt": External("facebook/VGGT-1B", VGGTViews),
    "world-mirror": External("tencent/HunyuanWorld-Mirror", WorldMirrorViews),
    "world-mirror-2": External("tencent/HY-World-2.0", WorldMirror2Views),
}


def is_external(spec: str) -> bool:
    """Whether `--depth` names a reconstructor of this list."""
    return spec.partition(":")[0] in EXTERNALS


def create_reconstructor(spec: str, device: str = "cpu") -> SceneReconstructor:
    """The reconstructor of a name such as "vggt" or "vggt:MODEL".

    Raises:
        InputError: an unknown name or device, a missing package, or a model that cannot be loaded.
    """
    kind, _, model = spec.partition(":")
    if kind not in EXTERNALS:
        raise InputError(f"--depth {spec}: no such reconstructor; known: {', '.join(EXTERNALS)}")
    find_device(device)
    return EXTERNALS[kind].build(model or EXTERNALS[kind].default, device)
