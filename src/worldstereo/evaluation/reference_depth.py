"""Depth back-ends that tables need: the true depth of the picture, and none at all."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.errors import InputError

EXACT = "exact"


class ExactDepth:
    """The truth for the picture that a world starts from; generated frames, which have none, go to another back-end."""

    name = EXACT

    def __init__(self, depth: Float[Tensor, "h w"], sky: Bool[Tensor, "h w"], others: DepthEstimator) -> None:
        """
        Args:
            depth: z-depth of the picture at the size of the clips, 0 = unknown.
            sky: where there is sky.
            others: for pictures that come with a hint.
        """
        self._depth, self._sky, self._others = depth, sky, others

    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """The truth, or what the other back-end says of a picture with a hint.

        Raises:
            InputError: the picture has another size.
        """
        if hint is not None:
            return self._others.estimate(image, intrinsics, hint)
        if image.shape[1:] != self._depth.shape:
            raise InputError(
                f"exact depth is of {tuple(self._depth.shape)} pixels, the picture {tuple(image.shape[1:])}"
            )
        return DepthPrediction(self._depth, self._sky, None, metric=True, source=EXACT)


class FlatDepth:
    """Takes every picture for a plane: at the median of its hint, or of what another back-end says."""

    def __init__(self, base: DepthEstimator) -> None:
        self._base = base
        self.name = f"constant ({base.name})"

    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """One depth everywhere."""
        if hint is not None and bool((hint > 0).any()):
            distance, metric, own = hint[hint > 0].median(), True, None
        else:
            said = self._base.estimate(image, intrinsics)
            known = said.depth[said.valid]
            distance = known.median() if len(known) else torch.tensor(1.0)
            metric, own = said.metric, said.intrinsics
        depth = distance.expand(image.shape[1:]).clone()
        return DepthPrediction(depth, torch.zeros_like(depth, dtype=torch.bool), own, metric, self.name)
