"""The sources of clips that a configuration names."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from worldstereo.data.posed_video import read_posed_video
from worldstereo.depth.registry import create_depth_estimator
from worldstereo.errors import InputError
from worldstereo.training.clip_mixture import ClipMaker, ClipMixture, ClipSource, MadeClips, ShardClips
from worldstereo.training.clip_recipe import ClipRecipe
from worldstereo.training.posed_clips import PosedClips
from worldstereo.training.procedural_clips import ProceduralClips
from worldstereo.training.video_config import ClipSourceConfig

Item = TypeVar("Item")

_FEWEST_AHEAD = 8
"""What a new world takes to make goes by while the clips before it are learnt from."""


def clip_mixture(
    sources: Sequence[ClipSourceConfig], recipe: ClipRecipe, batch_size: int, seed: int, device: str
) -> ClipMixture:
    """Batches of the sources' clips; those of shards are as they were written, all others follow the recipe.

    Raises:
        InputError: a folder has no shards, or an option is unknown.
    """
    return ClipMixture([(_source(s, recipe, seed, device), s.weight) for s in sources], batch_size, seed)


def in_advance(get: Callable[[int], Item], indices: Iterable[int], threads: int) -> Iterator[Item]:
    """`get` of every index, in order; so many threads work ahead of what is asked for."""
    if threads == 0:
        yield from map(get, indices)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Item]] = deque()
        for index in indices:
            waiting.append(pool.submit(get, index))
            if len(waiting) > max(_FEWEST_AHEAD, 2 * threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _source(source: ClipSourceConfig, recipe: ClipRecipe, seed: int, device: str) -> ClipSource:
    if source.kind == "shards":
        assert source.folder is not None  # checked by the config
        return ShardClips(source.folder)
    options: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in source.options.items()}
    first, steps_per_world = options.pop("seed", seed), options.pop("steps_per_world", 1)
    try:
        return MadeClips(_maker(source, options | {"recipe": recipe}, device), first, steps_per_world)
    except TypeError as error:
        raise InputError(f"sources: the {source.kind} one has a wrong option ({error})") from error
    except InputError as error:
        raise InputError(f"sources, the {source.kind} one: {error}") from error


def _maker(source: ClipSourceConfig, options: dict[str, Any], device: str) -> ClipMaker:
    if source.folder is None:
        return ProceduralClips(device=device, **options)
    if "depth" in options:
        options["depth"] = create_depth_estimator(options["depth"], device=device)
    return PosedClips((read_posed_video(source.folder),), **options)
