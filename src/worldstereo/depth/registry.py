"""The depth back-ends by name."""

from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from worldstereo.depth.base import DepthEstimator
from worldstereo.depth.file import DEPTH_FILE_SUFFIXES, FileDepth
from worldstereo.depth.moge import DEFAULT_MODEL, INSTALL, MoGeDepth
from worldstereo.depth.transformers_hub import Reading, TransformersDepth
from worldstereo.devices import find_device
from worldstereo.errors import InputError

_SUGGESTED_MODEL = "transformers:depth-anything/Depth-Anything-V2-Small-hf"


@dataclass(frozen=True)
class BackEnd:
    """A row of `worldstereo info`.

    Attributes:
        name: what `--depth` takes.
        installed: whether its packages are there.
        licence: of its weights.
        how: how to get and use it.
    """

    name: str
    installed: bool
    licence: str
    how: str


def create_depth_estimator(spec: str, *, depth_scale: float | None = None, device: str = "cpu") -> DepthEstimator:
    """The depth back-end of a name.

    Args:
        spec: "nano"; "moge" or "moge:MODEL"; "transformers:MODEL" with a hub id or a folder, and "@depth" or
            "@disparity" behind it for models of unknown kind; a folder with config.json; or the path of a depth file.
        depth_scale: metres per unit of a depth file.
        device: where networks run.

    Raises:
        InputError: an unknown name or device, a missing package or model, or an unusable depth file.
    """
    find_device(device)
    if Path(spec).suffix.lower() in DEPTH_FILE_SUFFIXES:
        return FileDepth(spec, depth_scale, others=cache(partial(create_depth_estimator, "nano", device=device)))
    if depth_scale is not None:
        raise InputError(f"--depth-scale is the unit of a depth file, but --depth {spec} is not one; leave it out")
    if spec == "nano":
        from worldstereo.depth.nano import NanoDepth

        return NanoDepth.load(device=device)
    kind, colon, model = spec.partition(":")
    if kind == "moge" and (model or not colon):
        return MoGeDepth(model or DEFAULT_MODEL, device)
    if kind == "transformers" and model:
        return _transformers(model, device)
    if (Path(spec) / "config.json").is_file():
        return _transformers(spec, device)
    raise InputError(
        f"--depth {spec}: is not known; use nano, moge, transformers:MODEL (a hub id such as "
        f"depth-anything/Depth-Anything-V2-Small-hf, or a folder), or a depth file ({', '.join(DEPTH_FILE_SUFFIXES)})"
    )


def _transformers(model: str, device: str) -> TransformersDepth:
    for reading in get_args(Reading):
        if model.endswith(f"@{reading}"):
            return TransformersDepth(model.removesuffix(f"@{reading}"), reading, device)
    return TransformersDepth(model, None, device)


def back_ends() -> list[BackEnd]:
    """All back-ends, and whether their packages are installed (without importing them)."""
    return [
        BackEnd("nano", True, "see its model card", "shipped with this package; the default"),
        BackEnd("FILE.npy|.npz|.png", True, "yours", "--depth FILE, with --depth-scale METRES_PER_UNIT for PNG"),
        BackEnd("FILE.exr", _installed("OpenEXR"), "yours", "pip install 'worldstereo[exr]'; --depth FILE.exr"),
        BackEnd(
            _SUGGESTED_MODEL,
            True,
            "Apache-2.0 (other models: theirs)",
            "any depth model of the hub, by this pattern (downloaded once), or a local folder",
        ),
        BackEnd("moge", _installed("moge"), "MIT", INSTALL),
    ]


def better_options(used: str = "nano") -> str:
    """One line that names the better back-ends within reach after a run with the depth back-end `used`."""
    if used != "nano":
        return "Depth came from the back-end you chose; 'worldstereo info' lists the others."
    moge = " or --depth moge" if _installed("moge") else ""
    return (
        f"For better geometry use a larger depth model: --depth {_SUGGESTED_MODEL}{moge}; "
        f"'worldstereo info' lists all back-ends."
    )


def _installed(package: str) -> bool:
    return find_spec(package) is not None
