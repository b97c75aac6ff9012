"""Facts about the codec that encodes each frame of a training run once."""

import torch
from torch import Tensor

from worldstereo.models.keyframe_codec import KeyframeCodec
from worldstereo.training.remembered_latents import RememberingCodec

FRAMES = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))


class Means:
    """Latents are the means of 8×8 pixels; counts what it encodes."""

    spatial_factor, latent_channels = 8, 3

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, frames: Tensor) -> Tensor:
        self.encoded += len(frames)
        return torch.nn.functional.avg_pool2d(frames, 8)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_latents_are_the_codec_s_and_each_frame_is_encoded_once() -> None:
    means = Means()
    codec = RememberingCodec(means)
    assert isinstance(codec, KeyframeCodec)
    for order in ([0, 1, 2], [2, 3, 3, 0], [5, 4, 1]):
        assert torch.equal(codec.encode(FRAMES[order]), Means().encode(FRAMES[order]))
    assert means.encoded == 6
    assert torch.equal(codec.decode(means.encode(FRAMES)), means.decode(means.encode(FRAMES)))


def test_frames_of_equal_bytes_and_other_shapes_are_not_confused() -> None:
    codec = RememberingCodec(Means())
    tall = FRAMES[:1].reshape(1, 3, 24, 16)
    codec.encode(FRAMES[:1])
    assert torch.equal(codec.encode(tall), Means().encode(tall))


def test_the_least_recently_used_are_forgotten() -> None:
    means = Means()
    size = means.encode(FRAMES[:1]).nbytes
    means.encoded = 0
    codec = RememberingCodec(means, most_bytes=2 * size)
    for index in (0, 1, 0, 2, 0, 1):
        codec.encode(FRAMES[index : index + 1])
    assert means.encoded == 4  # frame 1 was forgotten when frame 2 came
    assert torch.equal(codec.encode(FRAMES), Means().encode(FRAMES))


def test_what_is_given_out_can_be_changed() -> None:
    codec = RememberingCodec(Means())
    codec.encode(FRAMES[:2]).zero_()
    assert torch.equal(codec.encode(FRAMES[:2]), Means().encode(FRAMES[:2]))
