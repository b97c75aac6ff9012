"""Reading, fitting and writing pictures."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.files import atomic_path

MIN_SIDE = 64
MAX_SIDE = 20_000
MAX_PIXELS = 250_000_000
MAX_WHOLE_PIXELS = 64_000_000
"""Of formats other than JPEG, PNG, TIFF and BMP: decoders need up to 20 bytes for each pixel that a header states."""
MAX_KEPT_PIXELS = 16_000_000
MAX_ASPECT = 1.9

_FULL_FRAME_DIAGONAL_MM = hypot(36, 24)
_FOCAL_35MM_RANGE = (8.0, 1000.0)
_ALPHA_BACKGROUND = (128, 128, 128, 255)
_MM_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
_LEAN_FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "BMP"}
_STRIP_ROWS = 256
_OPENING = Lock()
"""Held while Pillow's warnings are off: their filters belong to the whole process, too."""
_UNSUPPORTED_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of an EXIF orientation upright."""
_PNG_COMPRESSION = 3
# Lightness rises steadily from far (first) to near (last).
_FAR_TO_NEAR = [(0.06, 0.05, 0.25), (0.30, 0.07, 0.52), (0.66, 0.17, 0.48), (0.94, 0.45, 0.30), (0.99, 0.95, 0.65)]
_SKY_COLOUR = (0.62, 0.62, 0.62)
_UNKNOWN_COLOUR = (0.2, 0.2, 0.2)


@dataclass(frozen=True)
class Picture:
    """A picture as read.

    Attributes:
        rgb: sRGB values in [0, 1], upright.
        exif_focal_35mm: the focal length in millimetres of a 36 × 24 mm camera with the same diagonal
            field of view, if the file says it and was not cropped since.
        path: the file.
    """

    rgb: Float[Tensor, "3 h w"]
    exif_focal_35mm: float | None
    path: Path


def load_picture(path: str | Path) -> Picture:
    """Read a picture of any common format upright, in RGB.

    Grey, palette and CMYK pictures become RGB, 16 bits become 8, the first frame of an animation is taken, and
    transparent pixels are laid over mid-grey. The EXIF rotation is applied. Pictures above `MAX_KEPT_PIXELS` are
    reduced by a whole factor while reading, JPEG while decoding, so memory stays bounded (about 1.2 GB), whatever
    a header says.

    Raises:
        InputError: no such file, not a picture, truncated, an unsupported format, smaller than `MIN_SIDE` or
            larger than `MAX_SIDE`, `MAX_PIXELS` or, in some formats, `MAX_WHOLE_PIXELS`.
    """
    path = Path(path)
    rgb, focal = _decoded(path)
    array = np.asarray(rgb).transpose(2, 0, 1).astype(np.float32)
    array /= 255
    return Picture(torch.from_numpy(array), focal, path)


def _decoded(path: Path) -> tuple[Image.Image, float | None]:
    """A picture upright, reduced and in RGB, and its focal length; what was decoded is given up."""
    with _opened(path) as picture:
        size = picture.size
        if min(size) < MIN_SIDE:
            raise InputError(f"{path}: is only {size[0]}×{size[1]} px; both sides must have at least {MIN_SIDE}")
        factor = _reduction(*size)
        picture.draft(None, (picture.width // factor, picture.height // factor))
        factor = _reduction(*picture.size)
        with _decoding(path, "copy or download it again"):
            picture.load()
            focal = _exif_focal_35mm(picture, size)  # reading EXIF decodes, and a second decoding never fails
            turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
            upright = _reduced(picture, factor, path)
            upright = upright.transpose(turn) if turn is not None else upright
            return _without_alpha(upright), focal


@contextmanager
def _opened(path: Path, mend: str | None = None) -> Iterator[Image.Image]:
    """Open a picture's header; Pillow's guard against huge pictures is replaced by ours while it is read."""
    with _PILLOWS_GUARD.off(), _recognized(path, mend) as picture:
        _check_largest(path, picture.format, *picture.size)
        yield picture


class _PillowsGuard:
    """Pillow's limit of pixels, which belongs to the whole process: off as long as any thread reads a picture here."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers = 0
        self._limit = Image.MAX_IMAGE_PIXELS

    @contextmanager
    def off(self) -> Iterator[None]:
        """No limit within the block."""
        with self._lock:
            if self._readers == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    Image.MAX_IMAGE_PIXELS = self._limit


_PILLOWS_GUARD = _PillowsGuard()


def _recognized(path: Path, mend: str | None) -> Image.Image:
    """A picture's header; `mend` says what to do about a file that is none, otherwise its content does.

    Raises:
        InputError: the file cannot be read, or is no picture.
    """
    try:
        if (size := _webp_size(path)) is not None:
            _check_largest(path, "WEBP", *size)  # Pillow makes WebP's buffers when it opens a file
        with _OPENING, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return Image.open(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a picture inside it") from None
    except UnidentifiedImageError:
        raise InputError(_not_a_picture(path) if mend is None else f"{path}: is no picture; {mend}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error})") from error


@contextmanager
def _decoding(path: Path, mend: str) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged data (many types, none documented) into one clear sentence."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: the picture is damaged or truncated ({error}); {mend}") from error


def _not_a_picture(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return f"{path}: the file is empty; copy or download it again"
    brand = _UNSUPPORTED_BRANDS.get(start[8:12]) if start[4:8] == b"ftyp" else None
    if brand:
        return f"{path}: {brand} pictures are not supported; save it as JPEG or PNG first"
    return f"{path}: is not a picture of a known format; use JPEG, PNG, WebP, TIFF or BMP"


def _check_largest(path: Path, format: str | None, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{path}: is {width}×{height} px, more than {MAX_SIDE} px a side or {MAX_PIXELS // 10**6} megapixels; "
            f"resize it first (4,000 px are plenty)"
        )
    if format not in _LEAN_FORMATS and width * height > MAX_WHOLE_PIXELS:
        raise InputError(
            f"{path}: is {width}×{height} px, more than the {MAX_WHOLE_PIXELS // 10**6} megapixels that may be given "
            f"as {format}; resize it first (4,000 px are plenty) or save it as JPEG or PNG"
        )


def _webp_size(path: Path) -> tuple[int, int] | None:
    """(width, height) that a WebP file says at its beginning; none for other files."""
    with path.open("rb") as file:
        start = file.read(30)
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP" or len(start) < 30:
        return None
    if start[12:16] == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(start[place : place + 2], "little") & 0x3FFF for place in (26, 28))
    return width, height


def _reduction(width: int, height: int) -> int:
    """The smallest whole factor that brings a picture to `MAX_KEPT_PIXELS`."""
    factor = 1
    while (width // factor) * (height // factor) > MAX_KEPT_PIXELS:
        factor += 1
    return factor


def _reduced(picture: Image.Image, factor: int, path: Path) -> Image.Image:
    """The picture with 8 bits a channel, its sides divided by a whole factor (rounded up).

    A strip at a time: converting all of a large picture takes several times its memory.
    """
    if factor == 1:
        return _eight_bit(picture, path)
    rows = factor * max(1, _STRIP_ROWS // factor)
    strips = []
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        strips.append(_eight_bit(strip, path).reduce(factor))
    whole = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def _eight_bit(picture: Image.Image, path: Path) -> Image.Image:
    """The picture in a mode of 8 bits a channel that keeps its colours and alpha."""
    if picture.mode in ("RGB", "RGBA", "L"):
        return picture if "transparency" not in picture.info else picture.convert("RGBA")
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path}: has 32 bits a pixel; save it with 8 or 16")
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise InputError(f"{path}: holds floating-point values; save it as a picture with 8 or 16 bits")
    has_alpha = picture.mode in ("LA", "La", "PA", "RGBa") or "transparency" in picture.info
    return picture.convert("RGBA" if has_alpha else "RGB")


def _without_alpha(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", picture.size, _ALPHA_BACKGROUND), picture).convert("RGB")


def _exif_focal_35mm(picture: Image.Image, size: tuple[int, int]) -> float | None:
    """The 35-mm equivalent focal length from EXIF: the tag itself, else focal length and sensor resolution.

    Args:
        size: of the picture in its file.
    """
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        taken = sorted(_number(exif, tag) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight))
        here = sorted(size)
        if min(taken) > 0 and abs(taken[1] / taken[0] / (here[1] / here[0]) - 1) > 0.02:
            return None
        focal = _number(exif, ExifTags.Base.FocalLengthIn35mmFilm)
        if focal <= 0:
            unit = _MM_PER_RESOLUTION_UNIT.get(int(_number(exif, ExifTags.Base.FocalPlaneResolutionUnit, 2.0)), 0.0)
            per_unit = [
                _number(exif, tag) for tag in (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution)
            ]
            if min(per_unit) <= 0 or min(taken) <= 0:
                return None
            # x and y resolutions are equal on every camera that matters, so sorting the sides does no harm
            diagonal = hypot(taken[0] / per_unit[1] * unit, taken[1] / per_unit[0] * unit)
            if diagonal <= 0:
                return None
            focal = _number(exif, ExifTags.Base.FocalLength) * _FULL_FRAME_DIAGONAL_MM / diagonal
    except (OSError, SyntaxError, ValueError, TypeError, ZeroDivisionError, KeyError):
        return None  # EXIF is often broken, and only a hint
    low, high = _FOCAL_35MM_RANGE
    return focal if low <= focal <= high else None


def _number(exif: dict[int, Any], tag: int, default: float = 0.0) -> float:
    value = float(exif.get(tag, default))
    return value if value == value else default


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to a working size: a centred crop, then a resize.

    Attributes:
        original_width, original_height: of the picture.
        left, top, crop_width, crop_height: the crop in the picture's pixels.
        width, height: after the resize.
    """

    original_width: int
    original_height: int
    left: int
    top: int
    crop_width: int
    crop_height: int
    width: int
    height: int

    @classmethod
    def of(cls, width: int, height: int, new_width: int, new_height: int) -> "Fit":
        """The fit of a `width` × `height` picture to another size: the largest centred crop of that aspect."""
        scale = min(width / new_width, height / new_height)
        crop_width, crop_height = min(width, round(new_width * scale)), min(height, round(new_height * scale))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return cls(width, height, left, top, crop_width, crop_height, new_width, new_height)

    @classmethod
    def squeezed(cls, width: int, height: int, new_width: int, new_height: int) -> "Fit":
        """The fit without a crop: the picture is stretched, as by the official release."""
        return cls(width, height, 0, 0, width, height, new_width, new_height)

    def crop(self, image: Float[Tensor, "*c h w"]) -> Float[Tensor, "*c hc wc"]:
        """The crop of an image of the original size, before the resize."""
        return image[..., self.top : self.top + self.crop_height, self.left : self.left + self.crop_width]

    def follow(self, cameras: Cameras) -> Cameras:
        """The cameras of the original picture, after the fit.

        Cameras that state another size of the same picture (within 1 % of its aspect) are resized to it first.

        Raises:
            InputError: the cameras are of a picture of another shape.
        """
        if abs(cameras.width / cameras.height / (self.original_width / self.original_height) - 1) > 0.01:
            raise InputError(
                f"the camera is of a {cameras.width}×{cameras.height} picture but the picture is "
                f"{self.original_width}×{self.original_height}; give the camera of the whole, upright picture"
            )
        whole = cameras.resized(self.original_width, self.original_height)
        return whole.cropped(self.left, self.top, self.crop_width, self.crop_height).resized(self.width, self.height)


@dataclass(frozen=True)
class FittedPicture:
    """A picture at its working size and how it got there."""

    rgb: Float[Tensor, "3 h w"]
    fit: Fit

    def follow(self, cameras: Cameras) -> Cameras:
        """The cameras of the original picture, after the fit; see `Fit.follow`."""
        return self.fit.follow(cameras)


def working_size(width: int, height: int, short_side: int = 480, multiple: int = 16) -> tuple[int, int]:
    """The size at which a picture is worked on: `short_side` on the shorter side, the longer in multiples.

    The aspect is kept within half a multiple, and bounded to `MAX_ASPECT`: longer pictures lose their ends.

    Raises:
        InputError: `short_side` is no positive multiple of `multiple`.
    """
    if short_side < multiple or short_side % multiple:
        raise InputError(f"the short side {short_side} must be a positive multiple of {multiple}")
    aspect = min(max(width, height) / min(width, height), MAX_ASPECT)
    long_side = max(short_side, round(short_side * aspect / multiple) * multiple)
    return (long_side, short_side) if width >= height else (short_side, long_side)


def fit_picture(rgb: Float[Tensor, "3 h w"], width: int, height: int, squeeze: bool = False) -> FittedPicture:
    """Crop (or, with `squeeze`, stretch) and resize a picture, up or down, to `width` × `height`."""
    fit = (Fit.squeezed if squeeze else Fit.of)(rgb.shape[2], rgb.shape[1], width, height)
    return FittedPicture(resize_picture(fit.crop(rgb), fit.width, fit.height), fit)


def resize_picture(rgb: Float[Tensor, "c h w"], width: int, height: int) -> Float[Tensor, "c h2 w2"]:
    """Resize values in [0, 1] with an antialiased bicubic filter, pixel centres at +0.5."""
    if rgb.shape[1:] == (height, width):
        return rgb
    resized = F.interpolate(rgb[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


def is_panorama(width: int, height: int) -> bool:
    """Whether a picture is twice as wide as high, within 2 px: an equirectangular panorama by its shape.

    Photographs cropped to about 2:1 are common, so the tolerance only covers a rounded size.
    """
    return abs(width - 2 * height) <= 2


def save_png(path: str | Path, rgb: Float[Tensor, "3 h w"]) -> None:
    """Write values in [0, 1] as an 8-bit RGB PNG, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    pixels = (rgb.detach().clamp(0, 1) * 255 + 0.5).to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy()
    _write_png(path, Image.fromarray(pixels))


def load_png(path: str | Path, mend: str = "restore it or make it again") -> Float[Tensor, "3 h w"]:
    """Read a file of `save_png`: values k/255 exactly.

    Args:
        mend: what to do about a file that is missing or damaged, as the error's end.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {mend}")
    with _opened(path, mend) as picture, _decoding(path, mend):
        pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def save_depth_png16(path: str | Path, depth: Float[Tensor, "h w"], depth_scale: float = 0.001) -> None:
    """Write depth as a 16-bit grey PNG of `round(depth / depth_scale)`, atomically; 0 stays unknown.

    Known depths outside the range of 16 bits are clipped to it.

    Raises:
        InputError: the file cannot be written.
    """
    steps = torch.where(depth > 0, (depth / depth_scale).round().clamp(1, 65535), 0)
    _write_png(path, Image.fromarray(steps.detach().cpu().numpy().astype(np.uint16)))


def _write_png(path: str | Path, picture: Image.Image) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=_PNG_COMPRESSION)


def colorize_depth(depth: Float[Tensor, "h w"], sky: Bool[Tensor, "h w"] | None = None) -> Float[Tensor, "3 h w"]:
    """A picture of depth for people: near light, far dark (by disparity), sky grey, unknown dark grey."""
    depth = depth.detach().cpu()
    known = depth > 0
    anchors = torch.tensor(_FAR_TO_NEAR)
    picture = torch.tensor(_UNKNOWN_COLOUR).expand(*depth.shape, 3).clone()
    if bool(known.any()):
        disparity = 1 / depth[known]
        step = max(1, len(disparity) // 100_000)
        low, high = torch.quantile(disparity[::step], torch.tensor([0.02, 0.98])).tolist()
        place = ((disparity - low) / max(high - low, 1e-12)).clamp(0, 1) * (len(anchors) - 1)
        lower = place.floor().clamp(max=len(anchors) - 2).long()
        picture[known] = torch.lerp(anchors[lower], anchors[lower + 1], (place - lower)[:, None])
    if sky is not None:
        picture[sky.cpu()] = torch.tensor(_SKY_COLOUR)
    return picture.permute(2, 0, 1).contiguous()
