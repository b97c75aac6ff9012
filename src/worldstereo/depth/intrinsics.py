"""The intrinsics of a photograph, from the best source there is."""

from math import atan, degrees, hypot, radians, tan

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.images import Fit

_FULL_FRAME_DIAGONAL_MM = hypot(36, 24)
_PLAUSIBLE_FOV = (5.0, 160.0)


def photo_intrinsics(
    given: Cameras | None,
    exif_focal_35mm: float | None,
    predicted: Float[Tensor, "3 3"] | None,
    width: int,
    height: int,
    default_fov: float = 60.0,
    fit: Fit | None = None,
) -> tuple[Float[Tensor, "3 3"], str]:
    """The intrinsics of a `width` × `height` photo: given, else EXIF's, else the back-end's, else a default.

    Args:
        given: the photo's camera, of this size.
        exif_focal_35mm: `Picture.exif_focal_35mm`.
        predicted: what the depth back-end found, in pixels of this size; taken if its field of view is plausible.
        default_fov: degrees along the longer side of the whole photo.
        fit: how the photo was cropped and resized to this size; none if it was not cropped.

    Returns:
        intrinsics: in pixels of the photo; square pixels and a central principal point unless given or predicted.
        source: one phrase for people that says where they come from.
    """
    if given is not None:
        return given.intrinsics[0], f"the given camera, {_wide(given.intrinsics[0], width)}"
    original_width, original_height = (fit.original_width, fit.original_height) if fit else (width, height)
    if exif_focal_35mm is not None:
        focal = exif_focal_35mm / _FULL_FRAME_DIAGONAL_MM * hypot(original_width, original_height)
        k = _follow(_central(focal, original_width, original_height), fit, original_width, original_height)
        return k, f"EXIF ({exif_focal_35mm:.3g} mm in 35 mm terms), {_wide(k, width)}"
    if predicted is not None and _is_plausible(predicted, width, height):
        return predicted, f"the depth back-end, {_wide(predicted, width)}"
    focal = max(original_width, original_height) / 2 / tan(radians(default_fov) / 2)
    k = _follow(_central(focal, original_width, original_height), fit, original_width, original_height)
    return k, f"a default of {default_fov:g}° along the longer side"


def _central(focal: float, width: int, height: int) -> Float[Tensor, "3 3"]:
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def _follow(k: Float[Tensor, "3 3"], fit: Fit | None, width: int, height: int) -> Float[Tensor, "3 3"]:
    return k if fit is None else fit.follow(Cameras(torch.eye(4)[None], k[None], width, height)).intrinsics[0]


def _fov(focal: float, size: int) -> float:
    return degrees(2 * atan(size / 2 / focal))


def _wide(k: Float[Tensor, "3 3"], width: int) -> str:
    return f"{_fov(float(k[0, 0]), width):.1f}° wide"


def _is_plausible(k: Float[Tensor, "3 3"], width: int, height: int) -> bool:
    if not bool(torch.isfinite(k).all()) or float(k[0, 0]) <= 0 or float(k[1, 1]) <= 0:
        return False
    low, high = _PLAUSIBLE_FOV
    return all(low <= fov <= high for fov in (_fov(float(k[0, 0]), width), _fov(float(k[1, 1]), height)))
