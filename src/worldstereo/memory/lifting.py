"""From pixels with depth to coloured points: no blur of rims, no unknown pixels, far points drawn near, sky apart."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError
from worldstereo.geometry.panorama import equirect_directions
from worldstereo.geometry.point_cloud import PointCloud

FAR_MEDIANS = 8.0
SKY_MEDIANS = 100.0
_SKY_MARGIN = 0.01
_STEEP = 0.06
_BREAK = 0.04
_STEP_WIDTH = 3
_MARGIN = 3 * _STEP_WIDTH


@dataclass(frozen=True)
class Lifted:
    """A picture in space.

    Attributes:
        cloud: the surfaces.
        sky: points so far away that they render behind everything and hardly move.
    """

    cloud: PointCloud
    sky: PointCloud


def lift_picture(image: Float[Tensor, "3 h w"], prediction: DepthPrediction, camera: Cameras) -> Lifted:
    """Points of a picture's pixels, in the world.

    Pixels of unknown depth and on depth edges are left out, depth beyond 8 medians is compressed (`compress_far`),
    sky pixels go on a sphere of 100 medians around the camera, but not those beside a surface (`near_surface`).

    Args:
        image: RGB in [0, 1].
        prediction: z-depth and sky of the picture.
        camera: one camera of the picture's size; its pose gives the world.

    Raises:
        InputError: sizes differ, or no pixel has a depth or is sky.
    """
    if len(camera) != 1:
        raise InputError(f"a picture has one camera, but {len(camera)} were given")
    _require_size("depth", prediction.depth, image)
    if (camera.height, camera.width) != tuple(image.shape[1:]):
        raise InputError(
            f"the camera is of a {camera.width}×{camera.height} picture, but the picture is "
            f"{image.shape[2]}×{image.shape[1]}; give the camera of this picture or resize it"
        )
    depth, sky = prediction.depth, prediction.sky
    keep = (depth > 0) & ~depth_edges(depth, sky)
    world = camera.unproject(compress_far(depth)[None])[0]
    rays = camera.pixel_rays()[0] @ camera.cam_from_world[0, :3, :3]
    far = camera.centers + sky_radius(depth) * functional.normalize(rays, dim=-1)
    return _lifted(image, world, keep, far, sky & ~near_surface(depth))


def lift_panorama(image: Float[Tensor, "3 h w"], distance: Float[Tensor, "h w"], sky: Bool[Tensor, "h w"]) -> Lifted:
    """Points of an equirectangular panorama around the world's origin.

    As `lift_picture`, with `distance` along the ray (0 = unknown) in place of z-depth; what is beside a pixel goes on
    across the seam between the last column and the first.

    Raises:
        InputError: sizes differ, a distance is negative or not finite, or no pixel has a distance or is sky.
    """
    _require_size("distance", distance, image)
    _require_size("sky", sky, image)
    if not bool(torch.isfinite(distance).all()) or bool((distance < 0).any()):
        raise InputError("distance must be finite and not negative (0 = unknown)")
    distance = torch.where(sky, 0.0, distance)
    directions = equirect_directions(image.shape[2], image.shape[1]).to(image.device)
    keep = (distance > 0) & ~depth_edges(distance, sky, wraps=True)
    world = compress_far(distance)[..., None] * directions
    return _lifted(image, world, keep, sky_radius(distance) * directions, sky & ~near_surface(distance, wraps=True))


def depth_edges(
    depth: Float[Tensor, "h w"], sky: Bool[Tensor, "h w"], *, wraps: bool = False, grow: int = 0
) -> Bool[Tensor, "h w"]:
    """Where a pixel lies behind the rim of a surface or in its blur, so that its depth or colour may be a mixture.

    Disparity is linear in the image on every plane, however slanted, and at a crease one slope takes over from
    another. At a rim it makes a step that continues neither what comes before nor what comes after. An edge is thus
    a pixel where disparity changes within 3×3 pixels by more than 6 %, and which lies in a step, along a row or a
    column and 1 to 3 pixels wide (depth networks blur rims), that is not between the steps on its two sides, by more
    than 4 % of the disparity. Of the step, pixels within 4 % of its near end are the surface itself and stay, so that
    surfaces keep their outlines and thin ones do not vanish. Unknown pixels (depth 0, not sky) take no part, so they
    neither hide an edge nor are one; sky is infinitely far and is one side of an edge. Scale-free, unlike the
    published filter, which normalises by the range of the whole picture and drops both sides.

    Args:
        depth: z-depth or distance, 0 = unknown.
        sky: where there is sky.
        wraps: the last column is beside the first.
        grow: more pixels around each edge, at most 9.

    Compiled loops on the CPU (other tensors travel there and back). O(pixels).
    """
    from worldstereo.memory import edge_kernels as kernels

    disparity = torch.where(depth > 0, 1 / depth.clamp(min=1e-12), 0.0)
    values = _padded(disparity, wraps).cpu().contiguous().numpy()
    known = _padded(((depth > 0) | sky).to(depth.dtype), wraps).cpu().numpy() > 0.5
    in_step, steep = np.zeros_like(known), np.zeros_like(known)
    for width in range(1, _STEP_WIDTH + 1):
        for axis in (0, 1):
            kernels.mark_steps(values, known, axis, width, np.float32(_BREAK), in_step)
    kernels.steep_pixels(values, known, np.float32(_STEEP), steep)
    edges = torch.from_numpy(known & steep & in_step).to(depth.device)
    if grow:
        edges = _largest(edges.to(depth.dtype), grow) > 0.5
    return edges[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def near_surface(depth: Float[Tensor, "h w"], *, wraps: bool = False) -> Bool[Tensor, "h w"]:
    """Within 1 % of the shorter side of a known depth: there a sky pixel's colour is mixed with the surface's,
    and drawn behind everything it would stay as the surface's ghost when the camera moves.

    Args:
        depth: z-depth or distance, 0 = unknown or sky.
        wraps: the last column is beside the first.
    """
    reach = ceil(_SKY_MARGIN * min(depth.shape))
    known = (depth > 0).to(depth.dtype)
    if wraps:
        known = functional.pad(known[None], (reach, reach, 0, 0), mode="circular")[0]
    near = _largest(known, reach) > 0.5
    return near[:, reach:-reach] if wraps else near


def compress_far(depth: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """Depth z beyond m = 8 × the median of the known ones becomes 2m − m²/z, which is below 2m.

    Continuous with a continuous slope; order is kept; unknown (0) stays 0. As the published release does.
    """
    limit = FAR_MEDIANS * _median_known(depth)
    return torch.where(depth > limit, 2 * limit - limit**2 / depth.clamp(min=1e-12), depth)


def sky_radius(depth: Float[Tensor, "*size"]) -> float:
    """100 × the median of the known depths (100 if there are none)."""
    return SKY_MEDIANS * float(_median_known(depth))


def _median_known(depth: Tensor) -> Tensor:
    known = depth[depth > 0]
    return known.median() if len(known) else depth.new_tensor(1.0)


def _padded(values: Float[Tensor, "h w"], wraps: bool) -> Float[Tensor, "h2 w2"]:
    """A margin on each side: zeros, or the columns of the other side."""
    if wraps:
        values = functional.pad(values[None], (_MARGIN, _MARGIN, 0, 0), mode="circular")[0]
        return functional.pad(values, (0, 0, _MARGIN, _MARGIN))
    return functional.pad(values, (_MARGIN, _MARGIN, _MARGIN, _MARGIN))


def _largest(values: Float[Tensor, "h w"], reach: int) -> Float[Tensor, "h w"]:
    """The maximum within `reach` pixels."""
    return functional.max_pool2d(values[None], 2 * reach + 1, 1, padding=reach)[0]


def _lifted(image: Tensor, world: Tensor, keep: Tensor, far: Tensor, sky: Tensor) -> Lifted:
    if not bool((keep | sky).any()):
        raise InputError("depth: no pixel has a known depth (or is sky), so there is nothing to build a scene from")
    colors = image.permute(1, 2, 0)
    return Lifted(PointCloud(world[keep], colors[keep]), PointCloud(far[sky], colors[sky]))


def _require_size(name: str, values: Tensor, image: Tensor) -> None:
    if values.shape != image.shape[1:]:
        raise InputError(
            f"{name} is {values.shape[-1]}×{values.shape[-2]}, but the picture is {image.shape[2]}×{image.shape[1]}; "
            f"resize one to the other"
        )
