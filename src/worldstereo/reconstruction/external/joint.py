"""Depth of many frames by a reconstructor, in our unit and at our size."""

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry.alignment import umeyama
from worldstereo.reconstruction.external.frame_size import depth_at_size
from worldstereo.reconstruction.external.protocol import ExternalViews, SceneReconstructor

_LEAST_BASELINE = 1e-6


def predict_jointly(
    reconstructor: SceneReconstructor, images: Float[Tensor, "n 3 h w"], cameras: Cameras
) -> list[DepthPrediction]:
    """Depth of frames in our unit: Umeyama's similarity brings the network's camera centres to ours.

    With fewer than three centres, or centres on a line, where a similarity is not determined, the ratio of the spreads
    of the centres is taken; where the cameras do not move apart, the unit stays the network's.

    More frames than the network takes at once go in equal runs of consecutive frames, each brought to our unit by
    itself; where the device's memory is not enough, runs are halved.

    Raises:
        InputError: the network gives another number of frames, or poses that are not finite, or one frame alone is
            too much for the memory.
    """
    most = min(reconstructor.most_frames, len(images))
    while True:
        try:
            return _predict_in_runs(reconstructor, images, cameras, most)
        except torch.OutOfMemoryError:
            if most == 1:
                raise InputError(
                    f"{reconstructor.name}: one frame of {cameras.width}×{cameras.height} is too much for the memory "
                    f"of the device; use --device cpu or another --depth"
                ) from None
        torch.cuda.empty_cache()
        most = ceil(most / 2)


def _predict_in_runs(
    reconstructor: SceneReconstructor, images: Float[Tensor, "n 3 h w"], cameras: Cameras, most: int
) -> list[DepthPrediction]:
    predictions: list[DepthPrediction] = []
    for run in torch.arange(len(images)).tensor_split(ceil(len(images) / most)):
        depth = _in_our_unit(reconstructor, images[run], cameras[run])
        nowhere = torch.zeros(depth.shape[1:], dtype=torch.bool)
        predictions += [DepthPrediction(one, nowhere, None, False, reconstructor.name) for one in depth]
    return predictions


def _in_our_unit(
    reconstructor: SceneReconstructor, images: Float[Tensor, "n 3 h w"], cameras: Cameras
) -> Float[Tensor, "n h w"]:
    views = _checked(reconstructor.views(images, cameras), reconstructor.name, len(images))
    scale = _scale(_centers(views.cam_from_world), cameras.centers.cpu())
    depth = torch.where(torch.isfinite(views.depth) & (views.depth > 0), views.depth, 0.0).float()
    return depth_at_size(depth, cameras.height, cameras.width) * (scale or 1.0)


def _checked(views: ExternalViews, name: str, frames: int) -> ExternalViews:
    if len(views.depth) != frames or len(views.cam_from_world) != frames:
        raise InputError(
            f"{name}: gave {len(views.depth)} depths and {len(views.cam_from_world)} poses for {frames} frames"
        )
    if not bool(torch.isfinite(views.cam_from_world).all()):
        raise InputError(f"{name}: gave poses that are not finite; use another --depth")
    return views


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
