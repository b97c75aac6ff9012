"""Figures of many clips as one: means with standard errors, in Markdown and JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit


@dataclass(frozen=True)
class Mean:
    """A mean over clips.

    Attributes:
        value: the mean.
        error: its standard error, s / √n with the sample's standard deviation s; none for one clip.
        count: n, the clips that have the figure.
    """

    value: float
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Mean | None":
        """Of the values that there are; none if there is none."""
        there = [value for value in values if value is not None]
        if not there:
            return None
        mean = sum(there) / len(there)
        if len(there) == 1:
            return cls(mean, None, 1)
        spread = math.sqrt(sum((value - mean) ** 2 for value in there) / (len(there) - 1))
        return cls(mean, spread / math.sqrt(len(there)), len(there))

    def text(self, digits: int, signed: bool = False) -> str:
        """Such as 21.34 ± 0.20."""
        value = f"{self.value:{'+' if signed else ''}.{digits}f}"
        return value if self.error is None else f"{value} ± {self.error:.{digits}f}"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean by Student's t; none for one value."""
        if self.error is None:
            return None
        reach = float(stdtrit(self.count - 1, 0.975)) * self.error
        return self.value - reach, self.value + reach

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mean": self.value,
            "standard_error": self.error,
            "confidence_interval_95": self.interval,
            "count": self.count,
        }


def paired(values: Sequence[float | None], others: Sequence[float | None]) -> Mean | None:
    """Mean difference over the clips that have both."""
    both = zip(values, others, strict=True)
    return Mean.of(None if value is None or other is None else value - other for value, other in both)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is aligned to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
