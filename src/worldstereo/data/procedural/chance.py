"""A seeded source of plain Python numbers."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")


class Chance:
    """Draws from a numpy generator; the same seeds give the same draws."""

    def __init__(self, *seeds: int) -> None:
        self.generator = np.random.default_rng(list(seeds))

    def between(self, low: float | int = 0.0, high: float | int = 1.0) -> float:
        """Uniform in [low, high)."""
        return float(self.generator.uniform(low, high))

    def between_log(self, low: float | int, high: float | int) -> float:
        """As likely between 1 and 2 as between 2 and 4."""
        return float(np.exp(self.generator.uniform(np.log(low), np.log(high))))

    def normal(self, mean: float | int, spread: float | int) -> float:
        """Gaussian."""
        return float(self.generator.normal(mean, spread))

    def happens(self, probability: float | int) -> bool:
        """Whether something of a probability happens."""
        return bool(self.generator.uniform() < probability)

    def integer(self, low: int, above: int) -> int:
        """Uniform integer in [low, above)."""
        return int(self.generator.integers(low, above))

    def choice(self, items: Sequence[_Item]) -> _Item:
        """One of some things."""
        return items[self.integer(0, len(items))]
