"""Frames of several sources, drawn by weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldstereo.data.rgbd import RgbdFrame, RgbdSource, read_rgbd_folder, split_held_out
from worldstereo.training.procedural_frames import procedural_frames

_LONGEST_SIDE = 320


@dataclass(frozen=True)
class FramePools:
    """Frames of each source.

    Attributes:
        pools: for training.
        held_out: real frames that training never sees, of all sources.
        shares: of each pool, their sum 1.
    """

    pools: tuple[list[RgbdFrame], ...]
    held_out: list[RgbdFrame]
    shares: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> list[RgbdFrame]:
        """Some frames."""
        chosen = [self.pools[i] for i in rng.choice(len(self.pools), size=count, p=self.shares)]
        return [pool[int(rng.integers(len(pool)))] for pool in chosen]


def read_frame_pools(
    sources: Sequence[RgbdSource],
    procedural_share: float,
    procedural_count: int,
    procedural_folder: Path,
    seed: int,
    device: str,
) -> FramePools:
    """Real frames of folders, and procedural ones, which are rendered first if the folder has not all of them.

    Raises:
        InputError: a folder cannot be read.
    """
    pools, held_out, shares = [], [], []
    real = sum(source.weight for source in sources)
    for source in sources:
        kept, apart = split_held_out(read_rgbd_folder(source.folder, _LONGEST_SIDE), source.held_out)
        pools.append(kept)
        held_out += apart
        shares.append((1 - procedural_share) * source.weight / real)
    if procedural_share > 0:
        pools.append(procedural_frames(procedural_folder, procedural_count, seed, device))
        shares.append(procedural_share)
    return FramePools(tuple(pools), held_out, np.array(shares) / sum(shares))
