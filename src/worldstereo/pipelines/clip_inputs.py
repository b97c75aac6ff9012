"""From what the memories give to what a network takes."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from worldstereo.cameras import Cameras
from worldstereo.cameras.embeddings import (
    normalize_by_extent,
    normalize_jointly,
    plucker_rays,
    pose_vectors,
    published_plucker_rays,
)
from worldstereo.geometry.rendering import PointRender
from worldstereo.images import resize_picture
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.keyframe_video import KeyframeInputs

_GREY = 0.5
_KNOWN_SHARE = 0.95  # of what a shrunk pixel is made of, to be known
_TINY = 1e-6
_PUBLISHED_RADIUS = 0.008  # of points, in NDC: 2 pixels at 480p, what the published weights were trained on


@dataclass(frozen=True)
class CameraConvention:
    """How a network was shown cameras, and the cloud along their path.

    Attributes:
        ray_grid: "published": one pixel to the left of the pixel's centre; "centred": at its centre.
        normalization: "published" (unstable near the middle of a path) or by "extent" of the path.
        guidance: "published": discs of 0.008 NDC, 2 pixels at 480p but smaller than a pixel at 144p, where they leave
            the surfaces full of pinholes and grey; "sharp": the crack-free render, at any size.
    """

    ray_grid: Literal["published", "centred"]
    normalization: Literal["published", "extent"]
    guidance: Literal["published", "sharp"]


PUBLISHED_CAMERAS = CameraConvention("published", "published", "published")
OWN_CAMERAS = CameraConvention("centred", "extent", "sharp")


def render_guidance(memory: GlobalGeometricMemory, cameras: Cameras, convention: CameraConvention) -> PointRender:
    """The memory along a path, as the network was shown it."""
    if convention.guidance == "published":
        return memory.render(cameras, _PUBLISHED_RADIUS)
    return memory.render_sharp(cameras)


def shrink_conditions(conditions: ClipConditions, width: int, height: int) -> ClipConditions:
    """The conditions of the same clip at a smaller size, stretched if its shape is another.

    The render is shrunk, not made anew: see `shrink_render`.
    """
    return replace(
        conditions,
        cameras=conditions.cameras.resized(width, height),
        image=resize_picture(conditions.image, width, height),
        guidance=shrink_render(conditions.guidance, width, height),
        references=conditions.references.resized(width, height),
    )


def shrink_render(render: PointRender, width: int, height: int) -> PointRender:
    """A render at a smaller size: colours and depths are means of those known, by an antialiasing triangle filter.

    A pixel is known where 95 % of what it is made of is known. Networks of a small size are trained on clouds of small
    pictures, whose renders have wider holes and no aliasing: filled, renders shrunk in this way are nearer to those
    (26.6 dB, mean of 12 procedural frames) than what the dense cloud gives when rendered at the small size (24.3 dB).
    """

    def shrunk(values: Float[Tensor, "f c h w"]) -> Float[Tensor, "f c y x"]:
        return F.interpolate(values, (height, width), mode="bilinear", antialias=True, align_corners=False)

    known, surface = (~render.hole_mask)[:, None].float(), (render.depth > 0)[:, None].float()
    known_share, surface_share = shrunk(known), shrunk(surface)
    colors = shrunk(render.rgb * known) / known_share.clamp_min(_TINY)
    depths = shrunk(render.depth[:, None] * surface) / surface_share.clamp_min(_TINY)
    holes = known_share < _KNOWN_SHARE
    shows_sky = surface_share < 0.5 * known_share
    return PointRender(
        rgb=torch.where(holes, _GREY, colors),
        hole_mask=holes[:, 0],
        depth=torch.where(holes | shows_sky, 0.0, depths)[:, 0],
    )


def camera_inputs(conditions: ClipConditions, convention: CameraConvention) -> KeyframeInputs:
    """What every network takes: image, render with the image as its first frame, hole mask, rays."""
    holes = conditions.guidance.hole_mask.clone()
    render = torch.where(holes[:, None], _GREY, conditions.guidance.rgb)
    render[0], holes[0] = conditions.image, False
    rays = camera_rays(conditions.cameras, convention)
    return KeyframeInputs(image=conditions.image, render=render, hole_mask=holes, rays=rays)


def camera_rays(cameras: Cameras, convention: CameraConvention) -> Float[Tensor, "f 6 h w"]:
    """Plücker rays of a clip's cameras after their normalisation."""
    normalize = normalize_jointly if convention.normalization == "published" else normalize_by_extent
    poses = cameras.cam_from_world
    rays = published_plucker_rays if convention.ray_grid == "published" else plucker_rays
    return rays(cameras.with_poses(normalize(poses, poses[:0])[0]))


def memory_inputs(conditions: ClipConditions, convention: CameraConvention) -> KeyframeInputs:
    """`camera_inputs`, and references as the published memory models take them.

    Each comes with the number, minus one, of the target that first asked for it; frame 0 asks for nothing. If no
    frame asks, the first frame itself is the reference, as in the official single-image script.
    """
    inputs = camera_inputs(conditions, convention)
    asked = conditions.references.for_target[1:].tolist()
    chosen = list(dict.fromkeys(index for index in asked if index >= 0))
    if chosen:
        frames = conditions.references.frames[chosen]
        poses = conditions.references.cameras.cam_from_world[chosen]
        first = [asked.index(index) for index in chosen]
    else:
        frames, poses, first = conditions.image[None], conditions.cameras.cam_from_world[:1], [0]
    normalize = normalize_jointly if convention.normalization == "published" else normalize_by_extent
    target_poses, reference_poses = normalize(conditions.cameras.cam_from_world, poses)
    return replace(
        inputs,
        references=frames,
        reference_index=torch.tensor(first, device=frames.device),
        target_poses=pose_vectors(target_poses),
        reference_poses=pose_vectors(reference_poses),
    )


def stereo_inputs(conditions: ClipConditions, convention: CameraConvention, pointmaps: bool) -> KeyframeInputs:
    """`camera_inputs`, and references as the paper's stereo branch takes them: one or none for each target."""
    inputs = camera_inputs(conditions, convention)
    target_maps, reference_maps = conditions.references.pointmaps(conditions.cameras) if pointmaps else (None, None)
    return replace(
        inputs,
        references=conditions.references.frames,
        reference_of_target=conditions.references.for_target,
        target_pointmaps=target_maps,
        reference_pointmaps=reference_maps,
    )
