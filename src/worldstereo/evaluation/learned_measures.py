"""Figures of other people's networks, measured where their weights are at hand, and what is said where they are not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.evaluation.perceptual import PerceptualDistance
from worldstereo.evaluation.protocol import Figure
from worldstereo.evaluation.quality import QualityMeasure, create_quality_measure

LPIPS_FIGURES = (
    Figure("lpips", "LPIPS", 3, "lower", compared=True),
    Figure("lpips_unseen", "LPIPS unseen", 3, "lower"),
)

_FEWEST_PIXELS = 100


@dataclass(frozen=True)
class LearnedMeasures:
    """What is measured by networks that are not part of the package.

    Attributes:
        lpips: none without its weights.
        quality: of pictures without a truth; none unless asked for.
    """

    lpips: PerceptualDistance | None = None
    quality: tuple[QualityMeasure, ...] = ()

    @classmethod
    def load(cls, lpips_weights: Path | None, quality: Sequence[str], device: str = "cpu") -> "LearnedMeasures":
        """As options name them.

        Raises:
            InputError: weights are missing, damaged or others, or a kind of quality is asked for twice.
        """
        kinds = [text.partition("=")[0] for text in quality]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise InputError(f"--quality {twice}=...: is there twice, but tables have one column for it; leave one out")
        lpips = None if lpips_weights is None else PerceptualDistance.load(lpips_weights, device)
        return cls(lpips, tuple(create_quality_measure(text, device) for text in quality))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The columns."""
        return (*(LPIPS_FIGURES if self.lpips else ()), *(measure.figure for measure in self.quality))

    @property
    def skipped(self) -> dict[str, str]:
        """What is left out, with reasons."""
        reason = "its weights are not part of this package, and nothing is downloaded; give them with --lpips-weights"
        return {} if self.lpips else {"LPIPS": reason}

    @property
    def facts(self) -> dict[str, Any]:
        """What reports say of the weights, and what results depend on; plain values."""
        lpips = None if self.lpips is None else f"AlexNet, linear layers 0.1, weights {self.lpips.fingerprint}"
        return {"LPIPS": lpips} | {measure.figure.title: measure.made_by for measure in self.quality}

    def of(
        self, frames: Float[Tensor, "f 3 h w"], truth: Float[Tensor, "f 3 h w"], unseen: Bool[Tensor, "f h w"]
    ) -> dict[str, float | None]:
        """Figures of a clip after its first frame, which is given: means over the frames.

        Args:
            unseen: the pixels of "LPIPS unseen", which is none where there are fewer than 100.
        """
        figures: dict[str, float | None] = dict(self.of_truth(frames))
        if self.lpips is not None:
            figures["lpips"] = float(self.lpips.distances(frames[1:], truth[1:]).mean())
            enough = int(unseen[1:].sum()) >= _FEWEST_PIXELS
            figures["lpips_unseen"] = self.lpips.masked(frames[1:], truth[1:], unseen[1:]) if enough else None
        return figures

    def of_truth(self, frames: Float[Tensor, "f 3 h w"]) -> dict[str, float]:
        """Those figures that need no truth, e.g. of the truth itself."""
        return {measure.figure.key: float(measure.scores(frames[1:]).mean()) for measure in self.quality}
