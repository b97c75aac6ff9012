"""The spatial-stereo memory: frames with cameras, and which of them help to make a clip."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry import PointCloud
from worldstereo.images import resize_picture
from worldstereo.memory.coverage import coverage_scores
from worldstereo.memory.references import References
from worldstereo.memory.retrieval import Rule, choose, published_scores, view_features

FRAMES_KEPT = 8
_LEAST_COVERAGE = 0.1


class SpatialStereoMemory:
    """A growing bank of frames of one size, kept as 8-bit RGB.

    Frames that come from 8-bit files (k / 255) leave the bank exactly as they came. Memory: width × height × 3 bytes
    a frame (1.2 MB at 832×480).
    """

    def __init__(self, frames: Float[Tensor, "b 3 h w"], cameras: Cameras, names: Sequence[str]) -> None:
        """Start the bank: the photo, or crops of the panorama.

        Args:
            frames: RGB in [0, 1].
            cameras: theirs.
            names: theirs, all different.

        Raises:
            InputError: unequal numbers or sizes, or a name that is used twice.
        """
        self._frames: list[UInt8[Tensor, "3 h w"]] = []
        self._cameras = cameras[:0]
        self._names: tuple[str, ...] = ()
        self._append(frames, cameras, names)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def names(self) -> tuple[str, ...]:
        """One per frame, in order of arrival."""
        return self._names

    @property
    def cameras(self) -> Cameras:
        """One per frame, in order of arrival."""
        return self._cameras

    def add_clip(self, frames: Float[Tensor, "f 3 h w"], cameras: Cameras, name: str) -> tuple[int, ...]:
        """Keep some frames of a finished clip (`update_indices`), named `name/0003` by their number in it.

        Returns:
            the numbers of the frames kept.

        Raises:
            InputError: a size that is not the bank's, unequal numbers, or a clip that was added before.
        """
        indices = list(update_indices(len(frames)))
        self._check(frames, cameras)
        self._append(frames[indices], cameras[indices], [f"{name}/{index:04d}" for index in indices])
        return tuple(indices)

    def retrieve(
        self, targets: Cameras, cloud: PointCloud, *, rule: Rule = "coverage", max_references: int = 8
    ) -> References:
        """The references of a clip.

        `coverage` gives each frame of the clip the bank frame that sees most of what it sees of the cloud, by
        `coverage_scores`, and none below 0.1. `published` gives it the largest positive `published_scores` (frusta of
        0.1 to 10 scene units). At most `max_references` distinct frames are chosen, see `choose`; each is resized and
        cropped in the middle to the targets' size, never padded, and judged by what is left. Deterministic.

        Raises:
            InputError: an unknown rule, or `max_references` < 1.
        """
        bank = _fitted_cameras(self._cameras, targets.width, targets.height).to(targets.cam_from_world.device)
        if rule == "coverage":
            scores, least = coverage_scores(targets, bank, cloud), _LEAST_COVERAGE
        elif rule == "published":
            scores, least = published_scores(targets, bank), 0.0
        else:
            raise InputError(f"rule '{rule}' is unknown; use 'coverage' or 'published'")
        chosen, for_target = choose(
            scores.double().cpu().numpy(),
            view_features(bank, _typical_distance(targets, cloud)),
            max_references=max_references,
            least=least,
        )
        index, assigned = torch.from_numpy(chosen).to(scores.device), torch.from_numpy(for_target).to(scores.device)
        cameras = bank[index]
        coverage = torch.zeros(len(targets), device=scores.device)
        helped = (assigned >= 0).nonzero()[:, 0]
        coverage[helped] = scores[helped, index[assigned[helped]]]
        return References(
            frames=self._fitted_frames(chosen.tolist(), targets.width, targets.height).to(scores.device),
            cameras=cameras,
            names=tuple(self._names[k] for k in chosen.tolist()),
            for_target=assigned,
            coverage=coverage,
            cloud=cloud,
        )

    def _fitted_frames(self, indices: list[int], width: int, height: int) -> Float[Tensor, "r 3 h w"]:
        fitted = torch.empty(len(indices), 3, height, width)
        for k, index in enumerate(indices):
            frame = self._frames[index].float() / 255
            new_width, new_height, left, top = _fit(frame.shape[2], frame.shape[1], width, height)
            fitted[k] = resize_picture(frame, new_width, new_height)[:, top : top + height, left : left + width]
        return fitted

    def _append(self, frames: Float[Tensor, "b 3 h w"], cameras: Cameras, names: Sequence[str]) -> None:
        self._check(frames, cameras)
        if len(names) != len(frames):
            raise InputError(f"there are {len(frames)} frames but {len(names)} names for the bank")
        joined = (*self._names, *names)
        if len(set(joined)) < len(joined):
            raise InputError(f"the bank has a frame '{_first_repeated(joined)}' already; give each clip its own name")
        self._frames.extend((frames.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8))
        self._cameras = Cameras.cat([self._cameras, cameras.to(self._cameras.cam_from_world.device)])
        self._names = joined

    def _check(self, frames: Float[Tensor, "b 3 h w"], cameras: Cameras) -> None:
        size = (self._cameras.height, self._cameras.width)
        if frames.shape[2:] != size or (cameras.height, cameras.width) != size:
            raise InputError(
                f"frames of {frames.shape[3]}×{frames.shape[2]} with cameras of {cameras.width}×{cameras.height} "
                f"do not fit a bank of {size[1]}×{size[0]}; all must have one size"
            )
        if len(frames) != len(cameras):
            raise InputError(f"there are {len(frames)} frames but {len(cameras)} cameras for the bank")


def update_indices(frames: int, kept: int = FRAMES_KEPT) -> tuple[int, ...]:
    """Which frames of a clip enter the bank: never the first, always the last, evenly, larger gaps first.

    Of 21 frames: 3, 6, 9, 12, 14, 16, 18, 20 (the published rule). A clip of one frame brings nothing new: none.

    Raises:
        InputError: `frames` or `kept` < 1.
    """
    if frames < 1 or kept < 1:
        raise InputError(f"frames is {frames} and kept is {kept}, but both must be at least 1")
    kept = min(kept, frames - 1)
    if kept == 0:
        return ()
    gap, longer = divmod(frames - 1, kept)
    return tuple(accumulate([gap + 1] * longer + [gap] * (kept - longer)))


def _fit(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int, int, int]:
    """The size to resize to so that the target size is just filled, then the left and top of its middle."""
    scale = max(to_width / width, to_height / height)
    new_width, new_height = max(to_width, round(width * scale)), max(to_height, round(height * scale))
    return new_width, new_height, (new_width - to_width) // 2, (new_height - to_height) // 2


def _fitted_cameras(cameras: Cameras, width: int, height: int) -> Cameras:
    new_width, new_height, left, top = _fit(cameras.width, cameras.height, width, height)
    return cameras.resized(new_width, new_height).cropped(left, top, width, height)


def _typical_distance(targets: Cameras, cloud: PointCloud) -> float:
    """Median distance of the cloud from the middle of the targets; 1 where that says nothing."""
    if len(cloud) == 0 or len(targets) == 0:
        return 1.0
    middle = targets.centers.mean(dim=0).to(cloud.points.device)
    return float((cloud.points - middle).norm(dim=1).median()) or 1.0


def _first_repeated(names: Sequence[str]) -> str:
    return next(name for k, name in enumerate(names) if name in names[:k])
