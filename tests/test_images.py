"""Reading pictures of every kind, the working size, and lossless writing."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from math import tan
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from worldstereo import images
from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.images import (
    Fit,
    colorize_depth,
    fit_picture,
    is_panorama,
    load_picture,
    load_png,
    resize_picture,
    save_depth_png16,
    save_png,
    working_size,
)


def _gradient(width: int = 96, height: int = 64) -> np.ndarray:
    """Red grows to the right, green downwards, blue is constant."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    picture[..., 2] = 77
    return picture


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(_gradient()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    picture = load_picture(path)
    assert torch.equal(picture.rgb, _tensor(_gradient()))
    assert picture.exif_focal_35mm is None
    assert picture.path == path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, suffix: str, orientation: int):
    """Stored pixels are the upright picture moved by the inverse of what the orientation asks for."""
    upright = _gradient()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    rgb = load_picture(path).rgb
    assert rgb.shape == (3, 64, 96)
    assert (rgb - _tensor(upright)).abs().mean() < 0.02


def test_grey_and_16_bit(tmp_path: Path):
    grey = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.tif")
    Image.fromarray(grey).convert("1", dither=Image.Dither.NONE).save(tmp_path / "bits.png")
    expected = torch.from_numpy(grey.astype(np.float32) / 255).expand(3, 64, 64)
    for name in ("grey.png", "grey16.png", "grey16.tif"):
        assert torch.equal(load_picture(tmp_path / name).rgb, expected)
    assert set(load_picture(tmp_path / "bits.png").rgb.unique().tolist()) == {0.0, 1.0}


def test_alpha_is_laid_over_grey(tmp_path: Path):
    rgba = np.full((64, 64, 4), 255, np.uint8)
    rgba[:, :32, 3] = 0
    rgba[:, 32:, 0] = 0
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    rgb = load_picture(tmp_path / "alpha.png").rgb
    torch.testing.assert_close(rgb[:, 5, 5], torch.full((3,), 128 / 255))
    assert rgb[:, 5, 50].tolist() == [0, 1, 1]
    Image.fromarray(rgba).convert("LA").save(tmp_path / "grey_alpha.png")
    torch.testing.assert_close(load_picture(tmp_path / "grey_alpha.png").rgb[:, 5, 5], torch.full((3,), 128 / 255))


def test_palette_with_transparency_and_cmyk(tmp_path: Path):
    palette = Image.fromarray(_gradient()).quantize(64)
    palette.save(tmp_path / "palette.png")
    assert (load_picture(tmp_path / "palette.png").rgb - _tensor(_gradient())).abs().mean() < 0.05
    index = palette.getpixel((0, 0))
    palette.save(tmp_path / "transparent.gif", transparency=index)
    assert load_picture(tmp_path / "transparent.gif").rgb[:, 0, 0].tolist() == pytest.approx([128 / 255] * 3)
    Image.fromarray(_gradient()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert (load_picture(tmp_path / "cmyk.jpg").rgb - _tensor(_gradient())).abs().mean() < 0.05


def _refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_picture(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_bad_files_are_refused_in_one_sentence(tmp_path: Path):
    text = tmp_path / "text.jpg"
    text.write_text("this is not a picture at all")
    assert "is not a picture" in _refusal(text)
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "is empty" in _refusal(empty)
    assert "no such file" in _refusal(tmp_path / "missing.png")
    assert "is a folder" in _refusal(tmp_path)
    heic = tmp_path / "phone.heic"
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "HEIC" in _refusal(heic)
    floats = tmp_path / "floats.tif"
    Image.fromarray(np.zeros((64, 64), np.float32)).save(floats)
    assert "floating-point" in _refusal(floats)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.95])
def test_truncated_pictures_are_refused(tmp_path: Path, suffix: str, kept: float):
    path = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    _refusal(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_damaged_pictures_never_crash(tmp_path_factory: pytest.TempPathFactory, seed: int, damage: int):
    """Random bytes anywhere give either a picture or one clear sentence."""
    random = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / "damaged"
    Image.fromarray(_gradient()).save(path, format=["PNG", "JPEG", "WEBP", "TIFF", "GIF"][seed % 5])
    data = bytearray(path.read_bytes())
    for place in random.integers(0, len(data), damage):
        data[place] = random.integers(256)
    path.write_bytes(data)
    try:
        outcome = f"{path}: {len(load_picture(path).rgb)} channels"
    except InputError as error:
        outcome = str(error)
    assert outcome.startswith(f"{path}: ")


def test_sizes_out_of_range(tmp_path: Path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert "1×1" in _refusal(tmp_path / "dot.png")
    Image.new("RGB", (500, 63)).save(tmp_path / "strip.png")
    assert "at least 64" in _refusal(tmp_path / "strip.png")
    Image.new("1", (20_001, 100)).save(tmp_path / "long.png")
    assert "resize it" in _refusal(tmp_path / "long.png")
    Image.new("1", (16_000, 16_000)).save(tmp_path / "huge.png")
    guard = Image.MAX_IMAGE_PIXELS
    assert "250 megapixels" in _refusal(tmp_path / "huge.png")
    assert guard == Image.MAX_IMAGE_PIXELS


def _webp_header(width: int, height: int, kind: bytes) -> bytes:
    """A WebP file of 40 bytes that promises a size."""
    sizes = {
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little"),
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8 ": b"\x10\0\0\x9d\x01\x2a" + width.to_bytes(2, "little") + height.to_bytes(2, "little"),
    }
    chunk = (kind + (20).to_bytes(4, "little") + sizes[kind]).ljust(28, b"\0")
    return b"RIFF" + (32).to_bytes(4, "little") + b"WEBP" + chunk


@pytest.mark.parametrize("kind", [b"VP8L", b"VP8X", b"VP8 "])
def test_a_webp_header_takes_no_memory(tmp_path: Path, kind: bytes):
    """240 megapixels used to take 3.7 GB before a word was said."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "promise.webp"
    path.write_bytes(_webp_header(16_000, 15_000, kind))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is 16000×15000 px, more than the 64 megapixels that may be given as WEBP" in _refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    with pytest.raises(InputError, match="64 megapixels"):
        load_png(path)


@pytest.mark.parametrize("how", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_webp_sizes_are_read_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict):
    Image.fromarray(_gradient(97, 65)).save(tmp_path / "a.webp", **how)
    assert load_picture(tmp_path / "a.webp").rgb.shape == (3, 65, 97)
    monkeypatch.setattr(images, "MAX_WHOLE_PIXELS", 97 * 65 - 1)
    assert "is 97×65 px" in _refusal(tmp_path / "a.webp")
    Image.fromarray(_gradient(97, 65)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").rgb.shape == (3, 65, 97)  # PNG is bounded by MAX_PIXELS alone


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_strips_are_the_whole(mode: str):
    noise = np.random.default_rng(0).integers(0, 255, (700, 90, 4), np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(noise).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    strips, whole = images._reduced(picture, 3, Path("a")), images._eight_bit(picture, Path("a")).reduce(3)
    assert strips.size == (30, 234)
    assert strips.mode == whole.mode
    assert np.array_equal(np.asarray(strips), np.asarray(whole))


def test_tiff_above_pillows_own_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its one tile made Pillow refuse it while decoding, and so it was called damaged."""
    Image.fromarray(_gradient()).save(tmp_path / "tiles.tif", compression="tiff_deflate")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 3)
    assert load_picture(tmp_path / "tiles.tif").rgb.shape == (3, 64, 96)
    assert Image.MAX_IMAGE_PIXELS == 96 * 64 // 3


def test_threads_share_pillows_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It stays off while the slower of two threads still reads, and is back as it was when both are done."""
    limit = 96 * 64 // 3
    both_read, first_is_done, seen = Barrier(2, timeout=20), Event(), []

    def focal(picture: Image.Image, size: tuple[int, int]) -> None:
        both_read.wait()
        if Path(picture.filename).name == "second.tif":
            assert first_is_done.wait(20)
            seen.append(Image.MAX_IMAGE_PIXELS)

    for name in ("first.tif", "second.tif"):
        Image.fromarray(_gradient()).save(tmp_path / name, compression="tiff_deflate")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(images, "_exif_focal_35mm", focal)
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(load_picture, tmp_path / name) for name in ("first.tif", "second.tif"))
        assert first.result(20).rgb.shape == (3, 64, 96)
        first_is_done.set()
        assert second.result(20).rgb.shape == (3, 64, 96)
    assert seen == [None]
    assert limit == Image.MAX_IMAGE_PIXELS


def test_many_threads_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    picture, damaged = tmp_path / "tiles.tif", tmp_path / "damaged.tif"
    Image.fromarray(_gradient()).save(picture, compression="tiff_deflate")
    damaged.write_bytes(picture.read_bytes()[:200])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 3)
    filters = list(warnings.filters)

    def read(number: int) -> bool:
        if number % 3 == 0:
            return "\n" not in _refusal(damaged)
        return torch.equal(load_picture(picture).rgb, _tensor(_gradient()))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(200)))
    assert Image.MAX_IMAGE_PIXELS == 96 * 64 // 3
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_pictures_are_reduced_while_reading(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_KEPT_PIXELS", 96 * 64 // 4)
    Image.fromarray(_gradient()).save(tmp_path / f"large.{suffix}")
    rgb = load_picture(tmp_path / f"large.{suffix}").rgb
    assert rgb.shape == (3, 32, 48)
    assert (rgb - resize_picture(_tensor(_gradient()), 48, 32)).abs().mean() < 0.01


def _with_exif(path: Path, size: tuple[int, int] = (96, 64), **tags: float) -> float | None:
    exif = Image.Exif()
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in tags.items():
        inner[ExifTags.Base[name]] = value
    Image.new("RGB", size).save(path, exif=exif)
    return load_picture(path).exif_focal_35mm


def test_focal_length_from_exif(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    assert _with_exif(path, FocalLengthIn35mmFilm=28) == 28
    assert _with_exif(path, FocalLengthIn35mmFilm=0) is None
    assert _with_exif(path, FocalLengthIn35mmFilm=65535) is None
    # a 6000×4000 sensor of 24×16 mm with a 30 mm lens: crop factor 1.5
    sensor = {
        "FocalLength": 30.0,
        "FocalPlaneXResolution": 6000 / 2.4,
        "FocalPlaneYResolution": 4000 / 1.6,
        "FocalPlaneResolutionUnit": 3,
        "ExifImageWidth": 6000,
        "ExifImageHeight": 4000,
    }
    assert _with_exif(path, **sensor) == pytest.approx(45.0, rel=1e-3)
    assert _with_exif(path, size=(64, 96), **sensor) == pytest.approx(45.0, rel=1e-3)
    assert _with_exif(path, size=(96, 96), **sensor) is None  # was cropped since


def test_panoramas_are_known_by_their_shape():
    assert is_panorama(2048, 1024)
    assert is_panorama(2047, 1024)
    assert not is_panorama(1024, 508)  # a photograph in a wide crop
    assert not is_panorama(1024, 2048)


@given(st.integers(64, 6000), st.integers(64, 6000), st.sampled_from([64, 144, 480]))
def test_working_size(width: int, height: int, short_side: int):
    new_width, new_height = working_size(width, height, short_side)
    assert min(new_width, new_height) == short_side
    assert new_width % 16 == new_height % 16 == 0
    assert (new_width >= new_height) == (width >= height) or new_width == new_height
    aspect, new_aspect = max(width, height) / min(width, height), max(new_width, new_height) / short_side
    assert new_aspect <= 1.9 + 8 / short_side
    if aspect <= 1.9:
        assert abs(new_aspect - aspect) <= 8 / short_side + 1e-9
    fit = Fit.of(width, height, new_width, new_height)
    assert 0 <= fit.left <= fit.left + fit.crop_width <= width
    assert 0 <= fit.top <= fit.top + fit.crop_height <= height
    assert fit.crop_width == width or fit.crop_height == height


def test_common_sizes():
    assert working_size(4000, 3000) == (640, 480)
    assert working_size(1920, 1080) == (848, 480)
    assert working_size(1080, 1920) == (480, 848)
    assert working_size(500, 500) == (480, 480)
    assert working_size(9000, 1000) == (912, 480)
    with pytest.raises(InputError, match="multiple of 16"):
        working_size(100, 100, 100)


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize(("width", "height"), [(640, 427), (300, 620), (1000, 90), (200, 150)])
def test_cameras_follow_the_fit(width: int, height: int, squeeze: bool):
    """A picture of the rays' slopes, fitted, holds the slopes of the fitted camera's rays."""
    camera = Cameras.from_fov(70.0, width, height)
    slopes = camera.pixel_rays()[0, ..., :2].permute(2, 0, 1)
    picture = torch.cat([slopes, torch.zeros(1, height, width)]) / 40 + 0.5
    fitted = fit_picture(picture, *working_size(width, height, 96), squeeze)
    expected = fitted.follow(camera).pixel_rays()[0, ..., :2].permute(2, 0, 1)
    difference = ((fitted.rgb[:2] - 0.5) * 40 - expected).abs()[:, 4:-4, 4:-4]
    assert difference.max() < 0.05 * 2 * tan(0.61) / fitted.fit.width * 10  # well below a tenth of a pixel
    assert fitted.rgb.shape[1:] == (fitted.fit.height, fitted.fit.width)


def test_cameras_of_another_picture_do_not_follow():
    fitted = fit_picture(torch.zeros(3, 300, 400), 128, 96)
    assert fitted.follow(Cameras.from_fov(60.0, 4000, 3000)).width == 128
    with pytest.raises(InputError, match="3000×4000 picture"):
        fitted.follow(Cameras.from_fov(60.0, 3000, 4000))


def test_small_pictures_are_enlarged_and_stay_in_range():
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(40, 50).expand(3, 80, 100)
    fitted = fit_picture(board, 192, 160)
    assert fitted.rgb.shape == (3, 160, 192)
    assert fitted.rgb.min() >= 0 <= fitted.rgb.max() <= 1


def test_png_round_trip(tmp_path: Path):
    rgb = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    save_png(tmp_path / "a" / "frame.png", rgb)
    first = load_png(tmp_path / "a" / "frame.png")
    assert (first - rgb).abs().max() <= 0.5 / 255 + 1e-6
    save_png(tmp_path / "b.png", first)
    assert torch.equal(load_png(tmp_path / "b.png"), first)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["frame.png"]
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        load_png(tmp_path / "b.png")


def test_depth_png(tmp_path: Path):
    depth = torch.tensor([[0.0, 0.0001, 1.2344], [3.0, 65.0, 90.0]])
    save_depth_png16(tmp_path / "depth.png", depth)
    assert np.asarray(Image.open(tmp_path / "depth.png")).tolist() == [[0, 1, 1234], [3000, 65000, 65535]]


def test_depth_colours():
    depth = torch.linspace(1, 10, 200).repeat(4, 1)
    depth[0] = 0
    sky = torch.zeros(4, 200, dtype=torch.bool)
    sky[1] = True
    depth[1] = 0
    picture = colorize_depth(depth, sky)
    brightness = picture.mean(dim=0)
    assert (brightness[2].diff() <= 1e-6).all()
    assert brightness[2, 0] - brightness[2, -1] > 0.5
    assert picture[:, 1].std() < 1e-6 < picture[:, 1].mean()
    assert picture[:, 0].std() < 1e-6
    assert colorize_depth(torch.zeros(3, 3)).shape == (3, 3, 3)
    assert torch.isfinite(colorize_depth(torch.ones(3, 3))).all()


@pytest.mark.parametrize("read", [load_picture, load_png])
def test_a_png_with_damaged_data_is_refused_by_every_reader(tmp_path, read):
    """The pixels are cut in the middle of the compressed stream, and the chunks behind it are whole."""
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[9000:9040] = bytes(40)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "a.png")
