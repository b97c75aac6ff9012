"""Frames of several sources, drawn by weight."""

from dataclasses import dataclass

import numpy as np

from worldstereo.data.rgbd import RgbdFrame, read_rgbd_folder, split_held_out
from worldstereo.training.frames_config import FrameTrainingConfig
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


def read_frame_pools(config: FrameTrainingConfig) -> FramePools:
    """Real frames of folders, and procedural ones, which are rendered first if the folder has not all of them.

    Raises:
        InputError: a folder cannot be read.
    """
    pools, held_out, shares = [], [], []
    share = config.procedural_share
    real = sum(source.weight for source in config.sources)
    for source in config.sources:
        kept, apart = split_held_out(read_rgbd_folder(source.folder, _LONGEST_SIDE), source.held_out)
        pools.append(kept)
        held_out += apart
        shares.append((1 - share) * source.weight / real)
    if share > 0:
        folder = config.procedural_folder or config.run_folder / "procedural"
        pools.append(procedural_frames(folder, config.procedural_count, config.seed, config.device))
        shares.append(share)
    return FramePools(tuple(pools), held_out, np.array(shares) / sum(shares))
