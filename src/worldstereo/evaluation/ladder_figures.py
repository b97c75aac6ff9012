"""What is measured of one clip."""

import math
from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.evaluation.camera_metrics import camera_errors
from worldstereo.evaluation.camera_recovery import recover_camera
from worldstereo.evaluation.protocol import Figure
from worldstereo.evaluation.texture_metrics import (
    colour_distance,
    gradient_energy_ratio,
    seam_gradient_ratio,
    texture_distance,
)
from worldstereo.image_metrics import psnr, ssim

_FEWEST_PIXELS = 100
_HIGHEST_PSNR = 100.0
_STILL = 1e-3


FIGURES = (
    Figure("psnr", "PSNR", 2, "higher", compared=True),
    Figure("ssim", "SSIM", 3, "higher"),
    Figure("psnr_known", "PSNR known", 2, "higher"),
    Figure("psnr_seen", "PSNR seen holes", 2, "higher", compared=True),
    Figure("psnr_referred", "PSNR holes that only references show", 2, "higher", compared=True),
    Figure("psnr_unseen", "PSNR unseen holes", 2, "higher", compared=True),
    Figure("gradient_unseen", "gradient energy", 2, "1"),
    Figure("texture_unseen", "texture distance", 4, "lower"),
    Figure("colour_unseen", "colour distance", 3, "lower"),
    Figure("seam_unseen", "seam", 2, "1"),
    Figure("revisit", "revisit PSNR", 2, "higher", compared=True),
    Figure("revisit_invented", "revisit PSNR, invented", 2, "higher", compared=True),
    Figure("rotation_error", "RotErr °", 2, "lower"),
    Figure("translation_error", "TransErr %", 2, "lower"),
    Figure("cameras_lost", "cameras not found", 1, "lower"),
    Figure("seconds", "s per clip", 1, "lower"),
)


def clip_figures(
    frames: Float[Tensor, "f 3 h w"], truth: Float[Tensor, "f 3 h w"], regions: Mapping[str, Bool[Tensor, "f h w"]]
) -> dict[str, float | None]:
    """Figures of a clip after its first frame, which is given; none where a region has fewer than 100 pixels.

    PSNR is of all pixels of the clip together, at most 100 dB; the last four are of the holes that nothing in memory
    shows, beside the truth there.
    """
    ours, true = frames[1:], truth[1:]
    masks = {name: region[1:] for name, region in regions.items()}
    figures: dict[str, float | None] = {"psnr": _finite(psnr(ours, true)), "ssim": ssim(ours, true)}
    for name in ("known", "seen", "referred", "unseen"):
        enough = int(masks[name].sum()) >= _FEWEST_PIXELS
        figures[f"psnr_{name}"] = _finite(psnr(ours, true, masks[name])) if enough else None
    measures = {
        "gradient": gradient_energy_ratio,
        "texture": texture_distance,
        "colour": colour_distance,
        "seam": seam_gradient_ratio,
    }
    for name, measure in measures.items():
        enough = int(masks["unseen"].sum()) >= _FEWEST_PIXELS
        figures[f"{name}_unseen"] = _finite(measure(ours, true, masks["unseen"])) if enough else None
    return figures


def path_figures(
    frames: Float[Tensor, "f 3 h w"],
    truth: Float[Tensor, "f 3 h w"],
    depth: Float[Tensor, "f h w"],
    cameras: Cameras,
    mask: Bool[Tensor, "f h w"],
) -> dict[str, float | None]:
    """How far the cameras that `recover_camera` finds are from the commanded ones.

    `rotation_error` is RotErr in degrees, `translation_error` is TransErr in percent of the path's length, none for
    a path that stands still; `cameras_lost` counts the frames whose camera is not found. The unit
    is the scene's, nothing is aligned. None where no camera is found.
    """
    found = [recover_camera(frames[k], truth[k], depth[k], cameras[k], mask[k]) for k in range(1, len(frames))]
    there = [k for k, camera in enumerate(found, 1) if camera is not None]
    figures: dict[str, float | None] = {"cameras_lost": float(len(found) - len(there))}
    if not there:
        return figures | {"rotation_error": None, "translation_error": None}
    recovered = Cameras.cat([cameras[0], *(camera for camera in found if camera is not None)])
    errors = camera_errors(recovered, cameras[[0, *there]], metric=True)
    length = float((cameras.centers[1:] - cameras.centers[:-1]).norm(dim=1).sum())
    moves = errors.translation is not None and length > _STILL * float(depth[depth > 0].median())
    share = 100 * errors.translation / length if moves and errors.translation is not None else None
    return figures | {"rotation_error": errors.rotation_degrees, "translation_error": share}


def _finite(value: float) -> float | None:
    """PSNR of equal pictures is infinite, which JSON has not; NaN is no figure."""
    return None if math.isnan(value) else min(value, _HIGHEST_PSNR)
