"""Threads that share the samples of a step.

Small networks gain little from several threads in each of their operations, as these wait for each other after every
one; threads that each take a part of the samples through the whole network wait once a step. Measured on 2 cores with
nano's backbone: 2 threads in each operation take as long as 1, 2 lanes half as long.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """A number of threads, in each of which torch computes with one; a single lane is the thread that calls."""

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        self._pool = pool
        self._count = count

    def shares(self, first: int, items: Sequence[Item]) -> list[tuple[int, Sequence[Item]]]:
        """Cut items, numbered from `first`, into one part a lane, as long as each other up to one.

        Returns:
            The number of each part's first item, and its items.
        """
        bounds = [round(len(items) * lane / self._count) for lane in range(self._count + 1)]
        return [(first + begin, items[begin:end]) for begin, end in pairwise(bounds) if end > begin]

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Of every item, all at once. What several lanes add to, such as gradients, may differ in its last bits."""
        return [function(item) for item in items] if self._count == 1 else list(self._pool.map(function, items))


@contextmanager
def open_lanes(count: int) -> Iterator[Lanes]:
    """Lanes for as long as this lasts; with a single one torch keeps its own threads."""
    before = torch.get_num_threads()
    if count > 1:
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, "lane") as pool:
            yield Lanes(pool, count)
    finally:
        torch.set_num_threads(before)
