"""Filling the holes of a guidance render: with what references show of them, and from what surrounds them."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.geometry.inpainting import background_importance, pull_push
from worldstereo.geometry.rendering import PointRender


def fill_from_surroundings(render: PointRender) -> Float[Tensor, "f 3 h w"]:
    """The frames with holes that continue their surroundings, far ones first, in [0, 1].

    Holes left by a nearer object belong to what is behind it: far pixels count more than near ones.
    """
    frames = []
    for rgb, holes, depth in zip(render.rgb, render.hole_mask, render.depth, strict=True):
        importance = background_importance(depth)[None, None]
        frames.append(pull_push(rgb[None], ~holes[None, None], importance)[0].clamp(0, 1))
    return torch.stack(frames)


def add_references(guidance: PointRender, shown: PointRender) -> PointRender:
    """The guidance with the references' pixels in its holes.

    The difference between the two, where both know the frame, is spread into the holes (the membrane of Pérez et al.,
    Poisson Image Editing, SIGGRAPH 2003, by `pull_push`), so the references take the guidance's exposure and meet it
    without a seam. A slowly varying exposure alone (`agree_exposure`) leaves them 0.9 dB farther from the truth.

    Args:
        shown: what each frame's reference shows of the frame (`References.seen_by`).
    """
    frames = []
    for index, known in enumerate(~guidance.hole_mask):
        both = known & ~shown.hole_mask[index]
        importance = background_importance(guidance.depth[index])[None, None]
        difference = (guidance.rgb[index] - shown.rgb[index])[None]
        pasted = shown.rgb[index] + pull_push(difference, both[None, None], importance)[0]
        pasted = torch.where(shown.hole_mask[index], guidance.rgb[index], pasted.clamp(0, 1))
        frames.append(torch.where(known, guidance.rgb[index], pasted))
    holes = guidance.hole_mask & shown.hole_mask
    return PointRender(torch.stack(frames), holes, torch.where(guidance.hole_mask, shown.depth, guidance.depth))
