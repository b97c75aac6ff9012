"""Where training clips come from: shards on disk, makers, and several sources mixed by weight."""

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import write_tensors
from worldstereo.training.config_file import require_whole
from worldstereo.training.training_clip import TrainingClip, clip_from_tensors, clip_to_tensors

ClipMaker = Callable[[int], list[TrainingClip]]
"""All clips of one world, from its seed; a pure function."""

_Stored = tuple[str, dict[str, Tensor]]

_FORMAT = "worldstereo-clips-1"
_SPARE_WORLDS = 4  # for threads that work on steps apart
_CLIP_STREAM = 2  # beside those of the same seed that noise and times are drawn from


@runtime_checkable
class ClipSource(Protocol):
    """Gives clips, each a function of the step and the generator alone, whatever was asked for before."""

    def draw(self, step: int, rng: np.random.Generator) -> TrainingClip:
        """A clip for a step of training."""
        ...


class ClipMixture:
    """Batches of clips of several sources."""

    def __init__(self, sources: Sequence[tuple[ClipSource, float]], batch_size: int, seed: int) -> None:
        """
        Args:
            sources: each with its share of the clips, relative to the others'.
            batch_size: clips per batch.
            seed: a clip is a function of it, the clip's number in the run and the step.

        Raises:
            InputError: no source, or a weight or batch size that is not positive.
        """
        if not sources or not all(0 < weight < math.inf for _, weight in sources) or batch_size < 1:
            raise InputError("a mixture needs a source, positive weights and at least one clip per batch")
        weights = np.array([weight for _, weight in sources], np.float64)
        self._sources = [source for source, _ in sources]
        self._shares = weights / weights.sum()
        self._batch_size, self._seed = batch_size, seed

    def batch(self, index: int, step: int) -> list[TrainingClip]:
        """The clips of a batch; see `collate`. However a step is divided into batches, its clips are the same.

        Args:
            index: of the batch, counted over all steps, passes and processes.
            step: of training, which the batch belongs to.
        """
        clips = []
        for number in range(index * self._batch_size, (index + 1) * self._batch_size):
            rng = np.random.default_rng([self._seed, _CLIP_STREAM, number])
            source = self._sources[int(rng.choice(len(self._sources), p=self._shares))]
            clips.append(source.draw(step, rng))
        return clips


class MadeClips:
    """Clips made when they are asked for, by threads as well.

    A step takes its clips from the newest worlds: every `steps_per_world` steps one comes in and the oldest goes. They
    are held as on disk (8 bits), on the device they were made on.
    """

    def __init__(self, make: ClipMaker, seed: int, steps_per_world: int = 1, worlds: int = 4) -> None:
        """
        Args:
            make: such as `ProceduralClips(...)`, on the training device.
            seed: of the first world; the newest world of a step has the seed `seed + step // steps_per_world`.
            worlds: at most so many give the clips of a step; at the beginning there is one.

        Raises:
            InputError: a number is not whole or too small.
        """
        self._make, self.seed = make, seed
        self.steps_per_world, self.worlds = steps_per_world, worlds
        require_whole(self, 0, "seed")
        require_whole(self, 1, "steps_per_world", "worlds")
        self._made: OrderedDict[int, Future[list[_Stored]]] = OrderedDict()
        self._lock = Lock()

    def draw(self, step: int, rng: np.random.Generator) -> TrainingClip:
        """One of the clips of one of the step's worlds."""
        newest = step // self.steps_per_world
        stored = self._clips(self.seed + int(rng.integers(max(0, newest + 1 - self.worlds), newest + 1)))
        return clip_from_tensors(*stored[int(rng.integers(len(stored)))])

    def _clips(self, seed: int) -> list[_Stored]:
        """The clips of a world, made by the first thread that asks; the others wait."""
        with self._lock:
            made = self._made.get(seed)
            mine = made is None
            if made is None:
                made = self._made[seed] = Future()
                while len(self._made) > self.worlds + _SPARE_WORLDS:
                    self._made.popitem(last=False)
            self._made.move_to_end(seed)
        if mine:
            try:
                made.set_result([(clip.name, clip_to_tensors(clip)) for clip in self._make(seed)])
            except BaseException as error:
                made.set_exception(error)
        return made.result()


class ShardClips:
    """Clips of the shards of a folder; only the clips asked for are read."""

    def __init__(self, folder: str | Path) -> None:
        """
        Raises:
            InputError: there is no shard in the folder.
        """
        self._paths = sorted(Path(folder).glob("shard_*.safetensors"))
        if not self._paths:
            raise InputError(f"{folder}: holds no shard_*.safetensors; write some with write_clip_shards")

    def __len__(self) -> int:
        return len(self._paths)

    def draw(self, step: int, rng: np.random.Generator) -> TrainingClip:
        """Any clip of any shard."""
        path = self._paths[int(rng.integers(len(self._paths)))]
        names = _header(path)["clips"]
        return _read_clip(path, names, int(rng.integers(len(names))))

    def clips(self, shard: int) -> list[TrainingClip]:
        """All clips of one shard."""
        path = self._paths[shard]
        names = _header(path)["clips"]
        return [_read_clip(path, names, index) for index in range(len(names))]


def write_clip_shards(folder: str | Path, count: int, seed: int, make: ClipMaker) -> None:
    """Make the clips of `count` worlds and keep them, one file a world, named by its number.

    Shards that are there are left as they are, so a killed run goes on where it was.

    Args:
        count: of the shards that the folder holds at the end.
        seed: of the first world; the others follow.
        make: `repr(make)` is kept with the clips.

    Raises:
        InputError: the folder holds shards of another seed or maker, or cannot be written.
    """
    for number in range(count):
        path = Path(folder) / f"shard_{number:05d}.safetensors"
        made_by = f"{make!r}, seed {seed + number}"
        if path.is_file():
            if _header(path)["made_by"] != made_by:
                raise InputError(
                    f"{path}: was made by {_header(path)['made_by']}, not by {made_by}; take another folder"
                )
            continue
        clips = make(seed + number)
        tensors = {
            f"{index}.{name}": tensor
            for index, clip in enumerate(clips)
            for name, tensor in clip_to_tensors(clip).items()
        }
        header = {"format": _FORMAT, "clips": [clip.name for clip in clips], "made_by": made_by}
        write_tensors(path, tensors, {"header": json.dumps(header)})  # one entry: the order of several is random


def _header(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a shard of clips ({error}); delete it and write anew") from error
    if header.get("format") != _FORMAT:
        raise InputError(f"{path}: is no shard of clips of this version ({_FORMAT}); delete it and write it anew")
    return header


def _read_clip(path: Path, names: Sequence[str], index: int) -> TrainingClip:
    prefix = f"{index}."
    with safe_open(path, framework="pt") as file:
        keys = file.keys()
        tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in keys if key.startswith(prefix)}
    return clip_from_tensors(names[index], tensors)
