"""Facts about videos: colours by the BT.709 formula, layout of the file, sizes, determinism, bad input."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from worldstereo.errors import InputError
from worldstereo.video import read_video, write_video

COLORS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [0.9, 0.3, 0.1]])


def flat_frames(height: int, width: int) -> torch.Tensor:
    return COLORS[:, :, None, None].expand(-1, 3, height, width).contiguous()


def smooth_frames(count: int, height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = torch.arange(count)[:, None, None] / count
    return torch.stack([(x + phase) / 2, (y + phase) / 2, (x * y + 1 - phase) / 2], dim=1)


def test_the_file_is_what_browsers_play(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, flat_frames(48, 64), fps=16)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index must come first"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 16
        assert stream.frames == len(COLORS)
        context = stream.codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1], "BT.709, limited range"


def test_luma_and_chroma_follow_bt709(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, flat_frames(48, 64))
    r, g, b = COLORS.T
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    expected = torch.stack([16 + 219 * luma, 128 + 224 * (b - luma) / 1.8556, 128 + 224 * (r - luma) / 1.5748], dim=1)
    with av.open(str(path)) as container:
        for frame, yuv in zip(container.decode(video=0), expected, strict=True):
            planes = [
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width] for plane in frame.planes
            ]
            assert np.allclose([plane.mean() for plane in planes], yuv, atol=1.5)


def test_round_trip_is_close_and_keeps_the_order(tmp_path):
    frames = smooth_frames(9, 96, 128)
    write_video(tmp_path / "v.mp4", frames)
    back = read_video(tmp_path / "v.mp4")
    assert back.shape == frames.shape
    assert (back - frames).square().mean() < 10**-4.2, "over 42 dB"


def test_odd_sizes_grow_by_a_repeated_border(tmp_path):
    frames = smooth_frames(2, 47, 63)
    write_video(tmp_path / "v.mp4", frames)
    back = read_video(tmp_path / "v.mp4")
    assert back.shape == (2, 3, 48, 64)
    assert (back[..., :47, :63] - frames).abs().mean() < 0.01
    assert (back[..., 47, :] - back[..., 46, :]).abs().mean() < 0.01
    write_video(tmp_path / "one.mp4", torch.full((1, 3, 1, 1), 0.5))
    assert read_video(tmp_path / "one.mp4").shape == (1, 3, 2, 2)


def test_an_iterator_of_bytes_gives_the_same_file(tmp_path):
    frames = smooth_frames(5, 32, 48)
    write_video(tmp_path / "a.mp4", frames, fps=Fraction(24))
    images = (frame.mul(255).round().byte().permute(1, 2, 0).numpy() for frame in frames)
    write_video(tmp_path / "b.mp4", images, fps=24.0)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_same_frames_give_the_same_bytes(tmp_path):
    """A picture that moves, so that x264 weighs blocks by what refers to them: there its AVX-512 code varies."""
    noise = torch.rand(1, 3, 36, 48, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, scale_factor=16, mode="bilinear")[0]
    frames = torch.stack([picture[:, i : i + 240, 3 * i : 3 * i + 416] for i in range(21)])
    files = set()
    for run in range(10):
        write_video(tmp_path / "other.mp4", torch.rand(2 + run, 3, 96, 64 + 32 * run))  # leaves other things in memory
        write_video(tmp_path / "v.mp4", frames)
        files.add((tmp_path / "v.mp4").read_bytes())
    assert len(files) == 1


def test_an_untagged_video_is_read_as_bt601(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane, value in zip(frame.planes, (81, 90, 240), strict=True):  # red in BT.601
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    red = read_video(tmp_path / "v.mp4").mean(dim=(0, 2, 3))
    assert torch.allclose(red, torch.tensor([1.0, 0.0, 0.0]), atol=0.02)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="at least one frame"):
        write_video(tmp_path / "v.mp4", torch.zeros(0, 3, 8, 8))
    sizes = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]
    with pytest.raises(InputError, match="10×8 but the first one 8×8"):
        write_video(tmp_path / "v.mp4", sizes)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    with pytest.raises(InputError, match="no such file"):
        read_video(tmp_path / "v.mp4")
    (tmp_path / "v.mp4").write_bytes(b"no video at all")
    with pytest.raises(InputError, match="cannot be read as a video"):
        read_video(tmp_path / "v.mp4")
