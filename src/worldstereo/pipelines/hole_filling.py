"""Filling the holes of a guidance render: from what surrounds them, or from what a reference shows of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.geometry.inpainting import background_importance, pull_push
from worldstereo.geometry.rendering import PointRender


def fill_from_surroundings(guidance: PointRender, frame: int) -> Float[Tensor, "3 h w"]:
    """A frame of the guidance whose holes continue their surroundings, far ones first.

    Holes left by a nearer object belong to what is behind it: far pixels count more than near ones.
    """
    known = ~guidance.hole_mask[frame]
    return _spread(guidance.rgb[frame], known, background_importance(guidance.depth[frame]))


def fill_from_reference(guidance: PointRender, reference: PointRender, frame: int) -> Float[Tensor, "3 h w"]:
    """The same with a reference's pixels in those holes of which it shows something, and surroundings in the rest.

    The reference takes the guidance's exposure: their difference, where both know the frame, is spread into the
    holes (a membrane, after Farbman et al., Coordinates for Instant Image Cloning, SIGGRAPH 2009, by pull–push), so
    that it also meets the guidance without a seam.

    Args:
        reference: what the frame's reference shows of the frame (`References.seen_by`).
    """
    known, shown = ~guidance.hole_mask[frame], ~reference.hole_mask[frame]
    importance = background_importance(guidance.depth[frame])
    both = known & shown
    correction = _spread(guidance.rgb[frame] - reference.rgb[frame], both, importance)
    pasted = torch.where(known, guidance.rgb[frame], reference.rgb[frame] + correction)
    return _spread(pasted, known | shown, torch.where(known, importance, importance.median()))


def _spread(values: Float[Tensor, "3 h w"], known: Tensor, importance: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    return pull_push(values[None], known[None, None], importance[None, None])[0]
