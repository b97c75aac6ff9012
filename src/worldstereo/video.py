"""H.264 videos for people to watch; everything that is computed with stays lossless elsewhere."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import atomic_path, raise_unwritable

_BT709 = 1  # the number of BT.709 primaries, transfer and matrix in ITU-T H.273
_CRF = "18"  # visually lossless
_THREADS = 4  # fixed: the bytes depend on the number of threads, which must not depend on the machine
_WITHOUT_AVX512 = {"x264-params": "asm=AVX2"}  # x264's AVX-512 code gives other bytes from run to run


def write_video(
    path: str | Path,
    frames: Float[Tensor, "f 3 h w"] | Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: int | float | Fraction = 16,
) -> None:
    """Write an MP4 that browsers play: H.264, yuv420p, BT.709, index at the front. Atomic and reproducible.

    The same frames give the same bytes in every run. H.264 in yuv420p needs even sizes: an odd width or height grows by
    one repeated column or row.

    Args:
        path: the `.mp4` file.
        frames: RGB in [0, 1] (clamped), channel first; or any number of uint8 RGB arrays, channel last, of
            one size, taken one at a time.
        fps: frames per second.

    Raises:
        InputError: there are no frames, their sizes differ, or the file cannot be written.
    """
    path = Path(path)
    images = _as_bytes(frames) if isinstance(frames, Tensor) else iter(frames)
    first = next(images, None)
    if first is None:
        raise InputError(f"{path}: a video needs at least one frame")
    rate = Fraction(fps).limit_denominator(1001)
    height, width = first.shape[:2]
    with atomic_path(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
                stream.options = {"crf": _CRF, "preset": "medium", "g": str(max(1, round(rate))), **_reproducible()}
                context = stream.codec_context
                context.thread_count = _THREADS
                context.color_primaries = context.color_trc = context.colorspace = _BT709
                context.color_range = ColorRange.MPEG
                for image in chain([first], images):
                    if image.shape[:2] != (height, width):
                        raise InputError(
                            f"{path}: a frame is {image.shape[1]}×{image.shape[0]} but the first one {width}×{height}"
                        )
                    container.mux(stream.encode(_encodable(image)))
                container.mux(stream.encode())
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise_unwritable(error, path)
            raise


def read_video(path: str | Path) -> Float[Tensor, "f 3 h w"]:
    """All frames of a video in [0, 1], by its own colour matrix (BT.601 where it names none, as most writers mean).

    Raises:
        InputError: the file is missing, is not a video, or holds no frame.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video")
            frames = [_decoded(frame) for frame in container.decode(video=0)]
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be read as a video ({error.strerror})") from error
    if not frames:
        raise InputError(f"{path}: the video holds no frame")
    stacked = torch.empty(len(frames), 3, *frames[0].shape[:2])
    for target, frame in zip(stacked, frames, strict=True):
        target.copy_(torch.from_numpy(frame).permute(2, 0, 1)).div_(255)
    return stacked


def _reproducible() -> dict[str, str]:
    """Options of x264 with which the bytes depend on the frames alone; a processor's other instructions stay in use."""
    return _WITHOUT_AVX512 if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}


def _as_bytes(frames: Float[Tensor, "f 3 h w"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for frame in frames:
        yield frame.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def _encodable(image: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


def _decoded(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    matrix = Colorspace.ITU709 if frame.colorspace == _BT709 else Colorspace.ITU601
    full = ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG
    rgb = frame.reformat(format="rgb24", src_colorspace=matrix, src_color_range=full, dst_color_range=ColorRange.JPEG)
    return rgb.to_ndarray()
