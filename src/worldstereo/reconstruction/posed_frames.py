"""What a reconstruction starts from: frames with exact cameras, read when needed, and what is known of the scene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.posed_video import read_posed_video
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.sharp_rendering import render_points_sharp
from worldstereo.images import Fit, load_png, resize_picture, working_size
from worldstereo.memory.spatial_stereo import update_indices
from worldstereo.pipelines.world_folder import Clip, World

_CACHE_BYTES = 512 * 2**20
_SAME = 1e-5


@dataclass(frozen=True, eq=False)
class PosedFrames:
    """Frames of one static scene, of one size, with exact cameras; pictures are read when asked for.

    Attributes:
        cameras: one a frame.
        clips: which clip each frame belongs to, none for the input; frames of a clip follow each other.
        names: one a frame, each different, fit for file names.
        cloud: surfaces known beforehand, in the cameras' world: the scale that depth is brought to. May be empty.
        sky: points far behind everything. May be empty.
        notes: one sentence for each thing that was left out or changed.

    Raises:
        InputError: there is no frame, or the numbers of cameras, clips and names differ.
    """

    cameras: Cameras
    clips: tuple[str | None, ...]
    names: tuple[str, ...]
    cloud: PointCloud
    sky: PointCloud
    read: Callable[[int], UInt8[Tensor, "3 h w"]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.cameras) == len(self.clips) == len(self.names) == len(set(self.names)):
            raise InputError(
                f"there are {len(self.cameras)} cameras, {len(self.clips)} clips and {len(set(self.names))} different "
                f"names; give one of each a frame"
            )
        if not self.names:
            raise InputError("there is no frame to reconstruct from")

    def __len__(self) -> int:
        return len(self.names)

    def frame(self, index: int) -> Float[Tensor, "3 h w"]:
        """RGB in [0, 1]."""
        return self.read(index).float() / 255

    def frames(self, indices: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
        """Several, at once in memory."""
        return torch.stack([self.frame(index) for index in indices])

    def guidance(self, indices: Sequence[int]) -> Float[Tensor, "n h w"]:
        """z-depth of the cloud as these cameras see it, 0 where it has no surface."""
        return render_points_sharp(self.cloud, self.cameras[list(indices)], backdrop=self.sky).depth

    def by_clip(self, longest: int) -> list[list[int]]:
        """The frames of each clip in turn; longer clips in pieces of at most `longest`."""
        pieces: list[list[int]] = []
        for index, clip in enumerate(self.clips):
            if not pieces or clip != self.clips[pieces[-1][0]] or len(pieces[-1]) == longest:
                pieces.append([])
            pieces[-1].append(index)
        return pieces

    def guided_by(self, cloud: PointCloud, note: str) -> "PosedFrames":
        """The same frames with another cloud."""
        return replace(self, cloud=cloud, notes=(*self.notes, note))

    @classmethod
    def of_world(cls, world: World, *, kept_only: bool = False) -> "PosedFrames":
        """The input (of a panorama: its crops) and the frames of all finished clips.

        Frames of a clip that stand where an earlier frame stands and look the same way (the start of most clips is
        the input again) are left out: they say nothing new. A clip with a file that is missing or damaged is left out
        with a note.

        Args:
            kept_only: of each clip only the frames that its memory kept (8 of 21), a third of the work.

        Raises:
            InputError: a file of the world's input or memory is missing or damaged.
        """
        pictures, cameras, names = world.initial_bank()
        parts = [cameras]
        clips: list[str | None] = [None] * len(names)
        sources: list[Path | Tensor] = [_bytes(picture) for picture in pictures]
        all_names, notes = list(names), []
        unfinished = [clip.name for clip in world.clips if not clip.is_done]
        if unfinished:
            notes.append(f"clips that are not finished are left out: {', '.join(unfinished)}")
        for clip in world.clips:
            if not clip.is_done:
                continue
            try:
                flown, paths = _usable(clip)
            except InputError as error:
                notes.append(f"clip {clip.name} is left out: {error}")
                continue
            if (flown.width, flown.height) != (cameras.width, cameras.height):
                notes.append(
                    f"the frames of clip {clip.name} are resized from {flown.width}×{flown.height} to "
                    f"{cameras.width}×{cameras.height}"
                )
            chosen = list(update_indices(len(paths))) if kept_only else range(len(paths))
            parts.append(flown[list(chosen)].resized(cameras.width, cameras.height))
            sources += [paths[number] for number in chosen]
            clips += [clip.name] * len(parts[-1])
            all_names += [f"{clip.name}-{paths[number].stem}" for number in chosen]
        joined = Cameras.cat(parts)
        new = _different(joined)
        memory = world.memory
        return cls(
            cameras=joined[new],
            clips=tuple(clips[index] for index in new),
            names=tuple(all_names[index] for index in new),
            cloud=memory.cloud,
            sky=memory.sky,
            read=_reader([sources[index] for index in new], joined.width, joined.height),
            notes=tuple(notes),
        )

    @classmethod
    def of_folder(cls, folder: str | Path, *, short_side: int = 480) -> "PosedFrames":
        """The pictures of a posed folder of any known layout (`read_posed_video`), as one clip, without a cloud.

        Pictures are cropped in the middle and resized to the shape of the first camera, at most `short_side` high
        (or wide). Pictures that cannot be read are left out with a note each.

        Raises:
            InputError: the layout is unknown, a picture is missing, the cameras cannot be used, or no picture can.
        """
        video = read_posed_video(folder)
        cameras = video.cameras
        width, height = working_size(cameras.width, cameras.height, min(short_side, _sixteen(cameras)))
        fitted = Fit.of(cameras.width, cameras.height, width, height).follow(cameras)
        load = _cached(lambda index: video.load([index], width, height).frames[0], width, height)
        new: list[int] = []
        notes, failure = [], ""
        for index in _different(fitted):
            try:
                load(index)
                new.append(index)
            except InputError as error:
                failure = str(error)
                notes.append(f"a picture is left out: {failure}")
        if not new:
            raise InputError(f"{folder}: no picture can be used ({failure})")
        return cls(
            cameras=fitted[new],
            clips=(video.name,) * len(new),
            names=tuple(f"{index:04d}-{video.pictures[index].stem}" for index in new),
            cloud=PointCloud.empty(),
            sky=PointCloud.empty(),
            read=lambda index: load(new[index]),
            notes=tuple(notes),
        )


def _usable(clip: Clip) -> tuple[Cameras, list[Path]]:
    """A clip's cameras, and the file of each one's frame.

    Raises:
        InputError: the cameras or a frame are missing or damaged, or their numbers differ.
    """
    cameras = clip.cameras
    paths = sorted((clip.folder / "frames").glob("[0-9]*.png"))
    if len(paths) != len(cameras):
        raise InputError(f"it has {len(paths)} frames but {len(cameras)} cameras")
    for index, path in enumerate(paths):
        if path.stem != f"{index:03d}":
            raise InputError(f"its frame {index:03d}.png is missing")
        load_png(path)
    return cameras, paths


def _sixteen(cameras: Cameras) -> int:
    """The shorter side, rounded down to a multiple of 16."""
    return max(min(cameras.width, cameras.height) // 16, 1) * 16


def _bytes(picture: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    return (picture * 255).round().to(torch.uint8)


def _reader(sources: "Sequence[Path | Tensor]", width: int, height: int) -> Callable[[int], Tensor]:
    def read(index: int) -> UInt8[Tensor, "3 h w"]:
        source = sources[index]
        if isinstance(source, Tensor):
            return source
        return _bytes(resize_picture(load_png(source), width, height))

    return _cached(read, width, height)


def _cached(read: Callable[[int], Tensor], width: int, height: int) -> Callable[[int], Tensor]:
    """The same, with the last pictures kept, half a gigabyte of them."""
    return lru_cache(maxsize=max(1, _CACHE_BYTES // (3 * width * height)))(read)


def _different(cameras: Cameras) -> list[int]:
    """The cameras that are not the same as an earlier one, to 1e-5 of the extent of the path and of the picture."""
    spread = max(float((cameras.centers - cameras.centers[0]).norm(dim=1).max()), 1e-12)
    turned, stands = cameras.cam_from_world[:, :3, :3], (cameras.centers - cameras.centers[0]) / spread
    keys = torch.cat([turned.flatten(1), stands, cameras.intrinsics.flatten(1) / cameras.width], dim=1)
    steps = (keys / _SAME).round().long()
    first = np.unique(steps.cpu().numpy(), axis=0, return_index=True)[1]
    return sorted(int(index) for index in first)
