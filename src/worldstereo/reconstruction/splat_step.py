"""The step of a reconstruction that makes splats and the fly-through: from its finished depth and cloud to files."""

from itertools import groupby
from typing import Any

import torch

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.reconstruction.fly_through import fly_through_cameras, write_fly_through
from worldstereo.reconstruction.folder import CHECKPOINT, FILM, ReconstructionFolder
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.splat_optimization import OnProgress, SplatSettings, make_splats
from worldstereo.reconstruction.splat_views import SplatViews

_UNSURE = 0.3
_FILM_SHARE = 0.1


def reconstruct_splats(
    frames: PosedFrames,
    folder: ReconstructionFolder,
    least_confidence: float,
    settings: SplatSettings,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Write `splats.safetensors` (the fields of `GaussianSplats`) and `fly_through.mp4`; return figures.

    A killed run goes on from its last checkpoint. Where no clip moves there is no film.

    Raises:
        InputError: a file is missing, damaged, or cannot be written.
    """
    checkpoint = folder.folder / CHECKPOINT
    cloud = folder.cloud
    if not len(cloud):
        return {"splats": 0, "reason": "there is no surface, only sky"}

    def report(what: str, share: float) -> None:
        on_progress(what, (1 - _FILM_SHARE) * share)

    views = splat_views(frames, folder, least_confidence)
    splats, found = make_splats(views, cloud, folder.sky, settings, report, checkpoint=checkpoint)
    folder.write_splats(splats)
    figures = {
        "splats": found.count,
        "optimised_for_seconds": round(found.seconds, 1),
        "held_out_frames": len(found.held_out),
        "psnr_before": round(found.psnr_before, 2),
        "psnr_after": round(found.psnr_after, 2),
    }
    checkpoint.unlink(missing_ok=True)
    on_progress("filming the fly-through", 1 - _FILM_SHARE)
    try:
        path = fly_through_cameras(_clips(frames))
    except InputError as error:
        return {**figures, "fly_through": str(error)}
    write_fly_through(folder.folder / FILM, splats, path)
    return figures


def splat_views(frames: PosedFrames, folder: ReconstructionFolder, least_confidence: float) -> SplatViews:
    """The frames with the depth that is confident enough, all at once in memory.

    Pixels of the input and of the sky count fully, others from 0.3 to 1 with their confidence: what was generated, and
    what other frames contradict, is less sure.
    """
    depths, weights, skies = [], [], []
    for name, clip in zip(frames.names, frames.clips, strict=True):
        depth, confidence, sky = folder.depth(name)
        depths.append(torch.where(confidence >= least_confidence, depth, 0.0))
        sure = torch.ones_like(confidence) if clip is None else _UNSURE + (1 - _UNSURE) * confidence
        weights.append(torch.where(sky, 1.0, sure))
        skies.append(sky)
    pictures = frames.frames(range(len(frames)))
    return SplatViews(pictures, frames.cameras, torch.stack(depths), torch.stack(weights), torch.stack(skies))


def _clips(frames: PosedFrames) -> list[Cameras]:
    """The cameras of each clip, in order."""
    groups = groupby(range(len(frames)), key=lambda index: frames.clips[index])
    return [frames.cameras[list(indices)] for clip, indices in groups if clip is not None]
