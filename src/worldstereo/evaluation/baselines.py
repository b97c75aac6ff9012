"""Generators that a learned one must beat: a frame as it is, the first frame on a plane, references warped by depth.

Pull–push filling of the rendered cloud is the fourth: `pipelines.warp.WarpGenerator`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.evaluation.reprojection import sample
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.warp import WarpGenerator

_PARALLEL = 1e-6


class NearestFrame(WarpGenerator):
    """Shows for each frame the reference that covers most of it, unwarped; the first frame where there is none."""

    name = "nearest frame"

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Copies of the references; the first frame is the given image."""
        chosen = conditions.references.for_target.tolist()
        frames = [conditions.image if k < 0 else conditions.references.frames[k] for k in chosen]
        on_progress(1, 1)
        return torch.stack([conditions.image, *frames[1:]])


class ConstantDepth(WarpGenerator):
    """Shows the first frame as if it were a plane: parallel to its picture, at the median depth of its render."""

    name = "constant depth"

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """The first frame through the plane's homographies; beyond its border, the border's colours.

        Rays that do not meet the plane show the mean colour.
        """
        depth = conditions.guidance.depth[0]
        distance = float(depth[depth > 0].median()) if bool((depth > 0).any()) else 1.0
        first, cameras = conditions.cameras[0], conditions.cameras
        rotation = first.cam_from_world[0, :3, :3]
        centers = (cameras.centers - first.centers) @ rotation.T
        turns = rotation @ cameras.cam_from_world[:, :3, :3].transpose(1, 2)
        mean = conditions.image.mean(dim=(1, 2))[:, None, None]
        frames = [conditions.image]
        for index in range(1, len(cameras)):
            rays = cameras[index].pixel_rays()[0] @ turns[index].T
            along = (distance - centers[index, 2]) / torch.where(
                rays[..., 2].abs() < _PARALLEL, _PARALLEL, rays[..., 2]
            )
            place = (centers[index] + along[..., None] * rays) @ first.intrinsics[0].T
            frames.append(torch.where(along > 0, sample(conditions.image, place[..., :2] / distance), mean))
        on_progress(1, 1)
        return torch.stack(frames)


class WarpedReferences(WarpGenerator):
    """Shows the cloud, in its holes what references show of them by their depth, and pull–push in the rest."""

    name = "warped references"

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """What a network with a stereo branch starts from."""
        frames = conditions.remembered_render()
        on_progress(1, 1)
        return frames
