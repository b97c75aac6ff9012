"""A first cloud for frames that come without one: the scale of depth from the cameras, where they tell it."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.depth.multiview.neighbours import choose_neighbours
from worldstereo.depth.multiview.refinement import refine_depth
from worldstereo.depth.multiview.scale import triangulated_scale
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import depth_edges, lift_picture
from worldstereo.reconstruction.consistency import vote
from worldstereo.reconstruction.external import SceneReconstructor, predict_jointly
from worldstereo.reconstruction.fusion import CloudFusion
from worldstereo.reconstruction.posed_frames import PosedFrames

MOST_FRAMES = 24
_NEIGHBOURS = 4
_LEAST_SUPPORT = 0.5


def with_cloud(frames: PosedFrames, estimator: DepthEstimator | SceneReconstructor) -> PosedFrames:
    """The frames, with a first cloud if they have none.

    Up to 24 frames, evenly taken, get depth without a scale. One factor brings it to the unit of the cameras
    (`triangulated_scale`); then depth is refined (`refine_depth`), and pixels that another frame confirms make the
    cloud.

    Where nothing can be triangulated (one frame, cameras that only turn, no texture), the first frame's depth is taken
    as it is, and what the other frames show beside it is added (`GlobalGeometricMemory`); a note says so.

    Raises:
        InputError: no frame has a usable depth.
    """
    if len(frames.cloud):
        return frames
    chosen = torch.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().long().tolist()
    predictions, failure = _predictions(frames, chosen, estimator)
    if not predictions:
        raise InputError(f"no frame has a depth to start from ({failure}); use another --depth")
    scaled = _triangulated(frames, predictions, share_scale=isinstance(estimator, SceneReconstructor))
    cloud = _confirmed(frames, scaled) if scaled else PointCloud.empty()
    if len(cloud):
        return frames.guided_by(cloud, f"the scale of depth was triangulated from {len(scaled)} frames")
    first = frames.names[min(predictions)]
    return frames.guided_by(
        _grown(frames, predictions),
        f"nothing can be triangulated ({_why_not(frames)}): the scale is that of the depth of frame {first}",
    )


def _predictions(
    frames: PosedFrames, chosen: list[int], estimator: DepthEstimator | SceneReconstructor
) -> tuple[dict[int, DepthPrediction], str]:
    """Depth of the frames that have any, and why the last other one has none."""
    if isinstance(estimator, SceneReconstructor):
        joint = predict_jointly(estimator, frames.frames(chosen), frames.cameras[chosen])
        return {n: one for n, one in zip(chosen, joint, strict=True) if bool(one.valid.any())}, "no frame has depth"
    predictions: dict[int, DepthPrediction] = {}
    failure = "every frame shows only sky"
    for index in chosen:
        try:
            found = estimator.estimate(frames.frame(index), frames.cameras.intrinsics[index])
        except InputError as error:
            failure = str(error)
            continue
        if bool(found.valid.any()):
            predictions[index] = found
    return predictions, failure


def _why_not(frames: PosedFrames) -> str:
    if len(frames) == 1:
        return "there is one frame only"
    centers = frames.cameras.centers
    spread = float((centers - centers[0]).norm(dim=1).max())
    if spread <= 1e-6 * max(float(centers.norm(dim=1).max()), 1.0):
        return "the cameras only turn and do not move"
    return "no two frames show the same texture from different places"


def _triangulated(
    frames: PosedFrames, predictions: dict[int, DepthPrediction], *, share_scale: bool
) -> dict[int, DepthPrediction]:
    """The predictions in the unit of the cameras; none where nothing tells it."""
    indices = list(predictions)
    depth = torch.stack(
        [p.depth if share_scale or p.metric else p.depth / p.depth[p.valid].median() for p in predictions.values()]
    )
    scale = triangulated_scale(frames.frames(indices), frames.cameras[indices], depth)
    if scale is None:
        return {}
    return {n: replace(predictions[n], depth=scale * one) for n, one in zip(indices, depth, strict=True)}


def _confirmed(frames: PosedFrames, predictions: dict[int, DepthPrediction]) -> PointCloud:
    """Points of refined depth that another frame sees where they are."""
    indices = list(predictions)
    cameras = frames.cameras[indices]
    depths = [torch.where(depth_edges(p.depth, p.sky), 0.0, p.depth) for p in predictions.values()]
    neighbours = choose_neighbours(cameras, lambda index: depths[index], _NEIGHBOURS)
    refined = list(depths)
    for n, others in enumerate(neighbours):
        if others:
            seen_by = (_pictures(frames, indices, others), cameras[list(others)])
            refined[n] = refine_depth(frames.frame(indices[n]), depths[n], cameras[n], *seen_by)
    fusion = CloudFusion()
    for n, others in enumerate(neighbours):
        if not others:
            continue
        image = frames.frame(indices[n])
        seen = torch.stack([refined[other] for other in others])
        votes = vote(refined[n], image, cameras[n], seen, _pictures(frames, indices, others), cameras[list(others)])
        sure = torch.where(votes.support > _LEAST_SUPPORT, votes.confidence, 0.0)
        fusion.add(image, votes.consensus, sure, predictions[indices[n]].sky, cameras[n])
    return fusion.surface().cloud


def _pictures(frames: PosedFrames, indices: Sequence[int], others: Sequence[int]) -> torch.Tensor:
    return frames.frames([indices[other] for other in others])


def _grown(frames: PosedFrames, predictions: dict[int, DepthPrediction]) -> PointCloud:
    """The first frame's points, and what the others add beside them."""
    first = min(predictions)
    lifted = lift_picture(frames.frame(first), predictions[first], frames.cameras[first])
    memory = GlobalGeometricMemory(lifted.cloud, lifted.sky)
    for index in sorted(predictions)[1:]:
        memory.update(frames.frames([index]), frames.cameras[[index]], [predictions[index]])
    return memory.cloud
