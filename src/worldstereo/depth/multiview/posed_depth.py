"""Depth of pictures with cameras: a back-end's shapes, the cameras' scale, corrected where the pictures tell."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthEstimator
from worldstereo.depth.multiview.neighbours import choose_neighbours
from worldstereo.depth.multiview.refinement import refine_depth
from worldstereo.depth.multiview.scale import triangulated_scale

_NEIGHBOURS = 4
_STILL = 0.02


def estimate_posed_depth(
    images: Float[Tensor, "n 3 h w"], cameras: Cameras, estimator: DepthEstimator
) -> tuple[Float[Tensor, "n h w"], Bool[Tensor, "n h w"]]:
    """z-depth in the cameras' unit (0 = unknown), and which pixels are sky.

    Each frame is estimated alone; one factor for all brings them to the unit of the cameras (`triangulated_scale`),
    then each is corrected by its four best neighbours (`refine_depth`). Where nothing can be triangulated (one frame,
    cameras that only turn, no texture) the estimates stay as they are, and their scale is such that the cameras move
    by 2 % of the median depth.

    Raises:
        InputError: the back-end fails.
    """
    estimates = [
        estimator.estimate(image, intrinsics) for image, intrinsics in zip(images, cameras.intrinsics, strict=True)
    ]
    depth, sky = torch.stack([e.depth for e in estimates]), torch.stack([e.sky for e in estimates])
    scale = triangulated_scale(images, cameras, depth)
    if scale is None:
        return depth * _scale_of_still_cameras(cameras, depth), sky
    depth = depth * scale
    neighbours = choose_neighbours(cameras, depth.__getitem__, _NEIGHBOURS)
    refined = [
        refine_depth(images[index], depth[index], cameras[index], images[list(others)], cameras[list(others)])
        if others
        else depth[index]
        for index, others in enumerate(neighbours)
    ]
    return torch.stack(refined), sky


def _scale_of_still_cameras(cameras: Cameras, depth: Float[Tensor, "n h w"]) -> float:
    moved = float((cameras.centers - cameras.centers[0]).norm(dim=1).max())
    known = depth[depth > 0]
    return moved / (_STILL * float(known.median())) if moved > 0 and len(known) else 1.0
