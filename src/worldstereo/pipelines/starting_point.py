"""From a photograph or a panorama to the cameras, points and reference frames that a world starts from."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale
from worldstereo.depth import DepthEstimator
from worldstereo.depth.file import FileDepth
from worldstereo.depth.intrinsics import photo_intrinsics
from worldstereo.depth.panorama import estimate_panorama
from worldstereo.errors import InputError
from worldstereo.geometry.panorama import rig_cameras
from worldstereo.images import Picture, fit_picture, is_panorama, resize_picture
from worldstereo.memory.lifting import Lifted, lift_panorama, lift_picture

Projection = Literal["perspective", "equirectangular"]

_PANORAMA_FOV = 90.0
PANORAMA_ASPECT = (16, 9)
"""Of clips from a panorama, where the generator can make any."""

_PANORAMA_HEIGHT = 1.5  # in short sides: points then lie some 2.4 pixels apart in a 90° view, near enough to close


@dataclass(frozen=True)
class StartingPoint:
    """What is known before the first clip.

    Attributes:
        picture: the input as used (a photo cropped and resized to the working size, or the panorama).
        camera: the perspective camera that paths start from; its image size is that of the clips.
        input_cameras: whose pictures make up the input: the photo's, or those of a panorama's 27 published crops.
        depth: z-depth of a photo, distance along the ray of a panorama, 0 = unknown.
        sky: where the input shows sky.
        lifted: the input's points.
        scale: the scene's unit of length and its up direction.
        depth_source, intrinsics_source: where they come from, for people.
    """

    picture: Float[Tensor, "3 h w"]
    projection: Projection
    camera: Cameras
    input_cameras: Cameras
    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]
    lifted: Lifted
    scale: SceneScale
    depth_source: str
    intrinsics_source: str


def resolve_projection(picture: Picture, projection: Literal["auto", "perspective", "equirectangular"]) -> Projection:
    """A picture of exactly 2:1 is a panorama unless said otherwise.

    Raises:
        InputError: equirectangular was said of a picture that is not 2:1.
    """
    height, width = picture.rgb.shape[1:]
    if projection == "auto":
        return "equirectangular" if is_panorama(width, height) else "perspective"
    if projection == "equirectangular" and not is_panorama(width, height):
        raise InputError(
            f"{picture.path}: is {width}×{height}, but an equirectangular panorama is twice as wide as high; "
            f"crop or pad it, or use --projection perspective"
        )
    return projection


def start_from_photo(
    picture: Picture,
    estimator: DepthEstimator,
    given: Cameras | None,
    size: tuple[int, int],
    default_fov: float,
    squeeze: bool = False,
) -> StartingPoint:
    """A photo of one camera: given, or at the world's origin.

    Args:
        size: (width, height) of the clips, to which the photo is cropped (with `squeeze`: stretched).
    """
    width, height = size
    fitted = fit_picture(picture.rgb, width, height, squeeze)
    if isinstance(estimator, FileDepth):
        estimator = estimator.following(fitted.fit)
    if given is not None:
        given = fitted.follow(given[0])

    def intrinsics_with(predicted: Float[Tensor, "3 3"] | None) -> tuple[Float[Tensor, "3 3"], str]:
        return photo_intrinsics(given, picture.exif_focal_35mm, predicted, width, height, default_fov, fitted.fit)

    is_known = given is not None or picture.exif_focal_35mm is not None
    prediction = estimator.estimate(fitted.rgb, intrinsics_with(None)[0] if is_known else None)
    intrinsics, source = intrinsics_with(prediction.intrinsics)
    pose = torch.eye(4)[None] if given is None else given.cam_from_world
    camera = Cameras(pose, intrinsics[None], width, height)
    if not bool(prediction.valid.any()):
        raise InputError(f"{picture.path}: the depth back-end {prediction.source} found no surface at all; try another")
    lifted = lift_picture(fitted.rgb, prediction, camera)
    return StartingPoint(
        picture=fitted.rgb,
        projection="perspective",
        camera=camera,
        input_cameras=camera,
        depth=prediction.depth,
        sky=prediction.sky,
        lifted=lifted,
        scale=SceneScale(_median_depth(prediction.depth), prediction.metric, _world_up(camera)),
        depth_source=prediction.source,
        intrinsics_source=source,
    )


def start_from_panorama(picture: Picture, estimator: DepthEstimator, size: tuple[int, int]) -> StartingPoint:
    """A 360° panorama at the world's origin, its centre column ahead.

    Args:
        size: (width, height) of the clips.
    """
    width, short_side = size
    height = round(_PANORAMA_HEIGHT * short_side)
    panorama = resize_picture(picture.rgb, 2 * height, height)
    estimate = estimate_panorama(panorama, estimator)
    if not bool((estimate.distance > 0).any()):
        raise InputError(f"{picture.path}: the depth back-end {estimate.source} found no surface at all; try another")
    camera = Cameras.from_fov(_PANORAMA_FOV, width, short_side)
    return StartingPoint(
        picture=panorama,
        projection="equirectangular",
        camera=camera,
        input_cameras=rig_cameras(width, short_side),
        depth=estimate.distance,
        sky=estimate.sky,
        lifted=lift_panorama(panorama, estimate.distance, estimate.sky),
        scale=SceneScale(_median_depth(estimate.distance), estimate.metric, _world_up(camera)),
        depth_source=estimate.source,
        intrinsics_source=f"a chosen {_PANORAMA_FOV:.0f}° view of the panorama",
    )


def _median_depth(depth: Float[Tensor, "h w"]) -> float:
    return float(depth[depth > 0].median())


def _world_up(camera: Cameras) -> Float[Tensor, "3"]:
    """The world's −y axis if the camera stands roughly upright in it (OpenCV worlds), else the camera's own up."""
    own_up = -camera.cam_from_world[0, 1, :3]
    world_up = own_up.new_tensor([0.0, -1.0, 0.0])
    return world_up if float(own_up @ world_up) > 0.5 else own_up
