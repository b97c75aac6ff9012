"""One sample of the video model's training: true frames, and what the generator would get for them at inference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, camera_rays
from worldstereo.pipelines.keyframe_video import KeyframeInputs

_GREY = 0.5


@dataclass(frozen=True)
class TrainingClip:
    """A clip and its conditions.

    Attributes:
        name: where it comes from, for reports.
        frames: the truth, RGB in [0, 1].
        cameras: of the frames.
        inputs: as `stereo_inputs` makes them of the conditions, with pointmaps and the filled render; the first frame
            of `frames`, `inputs.render` and `inputs.filled` is `inputs.image`. References may be none ([0, 3, h, w]).
    """

    name: str
    frames: Float[Tensor, "f 3 h w"]
    cameras: Cameras
    inputs: KeyframeInputs

    def __post_init__(self) -> None:
        for name in _INPUT_NAMES:
            if getattr(self.inputs, name) is None:
                raise InputError(f"{self.name}: a clip for training needs the condition '{name}', which is missing")
        if not self.frames.shape == self.inputs.render.shape or len(self.cameras) != len(self.frames):
            raise InputError(
                f"{self.name}: there are frames {tuple(self.frames.shape)}, a render {tuple(self.inputs.render.shape)} "
                f"and {len(self.cameras)} cameras, but their numbers and sizes must be equal"
            )


_INPUT_NAMES = (
    "image",
    "render",
    "hole_mask",
    "rays",
    "filled",
    "references",
    "reference_of_target",
    "target_pointmaps",
    "reference_pointmaps",
)
_STORED_PICTURES = ("filled", "references", "target_pointmaps", "reference_pointmaps")


def collate(clips: Sequence[TrainingClip]) -> dict[str, Tensor]:
    """A batch, each tensor with a leading dimension: `frames` and every condition under its name in `KeyframeInputs`.

    Clips have different numbers of references: `references` and `reference_pointmaps` are padded with zeros to the
    largest number r of the batch (at least 1), [b, r, 3, h, w]; `reference_of_target` [b, f] is the index in the
    clip's own references, -1 where a target has none, so no index ever points to padding. The batch lies on the first
    clip's device: clips of a file and rendered ones may lie on two.

    Raises:
        InputError: no clip, or clips of different numbers of frames or sizes.
    """
    if not clips:
        raise InputError("a batch needs at least one clip")
    shapes = {tuple(clip.frames.shape) for clip in clips}
    if len(shapes) > 1:
        raise InputError(f"clips of different shapes {sorted(shapes)} cannot be one batch; make them of one size")
    device = clips[0].frames.device
    batch = {"frames": torch.stack([clip.frames.to(device) for clip in clips])}
    most = max(1, *(len(_condition(clip, "references")) for clip in clips))
    for name in _INPUT_NAMES:
        values = [_condition(clip, name).to(device) for clip in clips]
        if name in ("references", "reference_pointmaps"):
            values = [torch.cat([value, value.new_zeros(most - len(value), *value.shape[1:])]) for value in values]
        batch[name] = torch.stack(values)
    return batch


def clip_to_tensors(clip: TrainingClip) -> dict[str, Tensor]:
    """The clip as few bytes: pictures and pointmaps with 8 bits (at most 1/510 off), masks, cameras.

    The render is the filled render outside the holes, and rays follow from the cameras, so neither is kept.
    """
    return {
        "frames": _as_bytes(clip.frames),
        "hole_mask": clip.inputs.hole_mask,
        "cam_from_world": clip.cameras.cam_from_world,
        "intrinsics": clip.cameras.intrinsics,
        "reference_of_target": _condition(clip, "reference_of_target"),
        **{name: _as_bytes(_condition(clip, name)) for name in _STORED_PICTURES},
    }


def clip_from_tensors(name: str, tensors: Mapping[str, Tensor]) -> TrainingClip:
    """The clip of `clip_to_tensors`."""
    frames, holes = _as_float(tensors["frames"]), tensors["hole_mask"]
    pictures = {picture: _as_float(tensors[picture]) for picture in _STORED_PICTURES}
    cameras = Cameras(tensors["cam_from_world"], tensors["intrinsics"], frames.shape[3], frames.shape[2])
    inputs = KeyframeInputs(
        image=pictures["filled"][0],
        render=torch.where(holes[:, None], _GREY, pictures["filled"]),
        hole_mask=holes,
        rays=camera_rays(cameras, OWN_CAMERAS),
        reference_of_target=tensors["reference_of_target"],
        **pictures,
    )
    return TrainingClip(name, frames, cameras, inputs)


def _condition(clip: TrainingClip, name: str) -> Tensor:
    value: Tensor = getattr(clip.inputs, name)
    return value


def _as_bytes(picture: Float[Tensor, "*n 3 h w"]) -> UInt8[Tensor, "*n 3 h w"]:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _as_float(picture: UInt8[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
    return picture.float() / 255
