"""Depth files, transformers models, MoGe's contract, intrinsics and the registry."""

import json
import sys
import types
from math import atan, degrees, hypot, radians, tan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from two_devices import ELSEWHERE, Elsewhere, TwoDevices
from worldstereo.cameras import Cameras
from worldstereo.depth.base import DepthEstimator, DepthPrediction
from worldstereo.depth.file import FileDepth
from worldstereo.depth.intrinsics import photo_intrinsics
from worldstereo.depth.moge import MoGeDepth
from worldstereo.depth.nano import NanoDepth
from worldstereo.depth.registry import back_ends, better_options, create_depth_estimator
from worldstereo.depth.transformers_hub import FAR_OVER_NEAR, TransformersDepth, depth_from_relative_disparity, prepare
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.images import Fit, fit_picture, save_depth_png16, working_size
from worldstereo.models.depth_network import DepthNetwork


def _plane(width: int = 96, height: int = 64) -> np.ndarray:
    """Depth that differs at every pixel."""
    return (1 + np.arange(height * width).reshape(height, width) / (height * width)).astype(np.float32)


def _picture(width: int = 96, height: int = 64) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


# Files


def _write(path: Path, depth: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".npz":
        np.savez(path, depth=depth, other=np.zeros(3))
    elif path.suffix == ".png":
        save_depth_png16(path, torch.from_numpy(depth), 0.001)
    else:
        openexr = pytest.importorskip("OpenEXR")
        openexr.File({"type": openexr.scanlineimage}, {"Z": depth, "A": np.ones_like(depth)}).write(str(path))


@pytest.mark.parametrize("suffix", ["npy", "npz", "png", "exr"])
def test_depth_files_are_read_exactly(tmp_path: Path, suffix: str):
    depth = _plane()
    depth[3, 4] = 0
    path = tmp_path / f"depth.{suffix}"
    _write(path, depth)
    prediction = FileDepth(path, 0.001 if suffix == "png" else None).estimate(_picture())
    np.testing.assert_allclose(prediction.depth.numpy(), depth, atol=0.0005 if suffix == "png" else 0)
    assert prediction.metric == (suffix == "png")
    assert prediction.intrinsics is None
    assert not prediction.sky.any()
    assert not prediction.valid[3, 4]
    assert path.name in prediction.source


def test_depth_scale_gives_metres(tmp_path: Path):
    np.save(tmp_path / "mm.npy", (_plane() * 1000).astype(np.uint16))
    prediction = FileDepth(tmp_path / "mm.npy", 0.001).estimate(_picture())
    assert prediction.metric
    np.testing.assert_allclose(prediction.depth.numpy(), _plane(), atol=0.002)


def test_invalid_values_become_unknown(tmp_path: Path):
    depth = _plane()
    depth[0, :3] = [np.nan, np.inf, -np.inf]
    depth[1, 0] = 0
    np.save(tmp_path / "holes.npy", depth)
    prediction = FileDepth(tmp_path / "holes.npy").estimate(_picture())
    assert (~prediction.valid).sum() == 4


def test_smaller_depth_is_picked_not_mixed(tmp_path: Path):
    depth = np.where(np.arange(48) < 24, 1.0, 9.0)[None].repeat(32, axis=0)
    np.save(tmp_path / "small.npy", depth)
    prediction = FileDepth(tmp_path / "small.npy").estimate(_picture())
    assert set(prediction.depth.unique().tolist()) == {1.0, 9.0}
    assert (prediction.depth[:, :48] == 1).all()
    assert (prediction.depth[:, 48:] == 9).all()


@pytest.mark.parametrize(("width", "height"), [(1000, 563), (300, 220), (500, 120), (160, 700)])
def test_depth_of_the_whole_picture_follows_its_crop(tmp_path: Path, width: int, height: int):
    """Columns and rows of the file land where the picture's do."""
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    picture = torch.from_numpy(np.stack([columns / width, rows / height, 0 * rows]).astype(np.float32))
    fitted = fit_picture(picture, *working_size(width, height, 96))
    for axis in range(2):
        np.save(tmp_path / "depth.npy", picture[axis].numpy())
        depth = FileDepth(tmp_path / "depth.npy").following(fitted.fit).estimate(fitted.rgb).depth
        pixel = 1 / min(width, height, 96)
        assert (depth - fitted.rgb[axis]).abs()[2:-2, 2:-2].max() < 1.01 * pixel


def _refusal(path: Path, depth_scale: float | None = None) -> str:
    with pytest.raises(InputError) as caught:
        FileDepth(path, depth_scale).estimate(_picture())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bad_depth_files_are_refused(tmp_path: Path):
    path = tmp_path / "depth.npy"
    assert "no such file" in _refusal(path)
    path.write_bytes(b"not an array")
    assert "damaged" in _refusal(path)
    np.save(path, _plane(64, 96))
    assert "64×96" in _refusal(path)
    assert "96×64" in _refusal(path)
    np.save(path, np.full((64, 96), np.nan))
    assert "no valid depth" in _refusal(path)
    np.save(path, -_plane())
    assert "negative" in _refusal(path)
    np.save(path, np.zeros((3, 64, 96)))
    assert "[height, width]" in _refusal(path)
    np.save(path, np.array([["a"]]))
    assert "must be numbers" in _refusal(path)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    assert "damaged" in _refusal(path)
    np.savez(tmp_path / "two.npz", a=_plane(), b=_plane())
    assert "a, b" in _refusal(tmp_path / "two.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert "not an npz" in _refusal(tmp_path / "broken.npz")
    Image.new("L", (96, 64)).save(tmp_path / "eight.png")
    assert "--depth-scale" in _refusal(tmp_path / "eight.png")
    assert "16-bit" in _refusal(tmp_path / "eight.png", 0.001)
    (tmp_path / "broken.exr").write_bytes(b"v/1\x01" + bytes(50))
    assert "damaged" in _refusal(tmp_path / "broken.exr")
    assert "positive number" in _refusal(path, -1.0)


def test_exr_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "depth.exr").touch()
    with pytest.raises(MissingExtraError, match=r"worldstereo\[exr\]"):
        FileDepth(tmp_path / "depth.exr")


def test_generated_frames_are_left_to_another_back_end(tmp_path: Path):
    """A hint means another picture than the one the file is of."""
    np.save(tmp_path / "depth.npy", _plane())
    hint = torch.ones(64, 96)

    class Other:
        name = "other"

        def estimate(self, image, intrinsics=None, hint=None):
            return DepthPrediction(hint * 3, hint < 0, None, False, "other")

    file = FileDepth(tmp_path / "depth.npy", others=Other)
    assert file.estimate(_picture()).source == "depth file depth.npy"
    assert torch.equal(file.estimate(_picture(), None, hint).depth, hint * 3)
    with pytest.raises(InputError, match="one picture"):
        FileDepth(tmp_path / "depth.npy").estimate(_picture(), None, hint)


# Intrinsics of a photo


def test_order_of_the_sources():
    given = Cameras.from_fov(50.0, 640, 480)
    predicted = Cameras.from_fov(70.0, 640, 480).intrinsics[0]
    k, source = photo_intrinsics(given, 28.0, predicted, 640, 480)
    assert torch.equal(k, given.intrinsics[0])
    assert source == "the given camera, 50.0° wide"
    k, source = photo_intrinsics(None, 28.0, predicted, 640, 480)
    assert float(k[0, 0]) == pytest.approx(28 / hypot(36, 24) * 800, rel=1e-6)
    assert source.startswith("EXIF (28 mm")
    k, source = photo_intrinsics(None, None, predicted, 640, 480)
    assert torch.equal(k, predicted)
    assert source == "the depth back-end, 70.0° wide"
    k, source = photo_intrinsics(None, None, None, 640, 480, 60.0)
    assert degrees(2 * atan(320 / float(k[0, 0]))) == pytest.approx(60)
    assert "default of 60°" in source


def test_default_field_of_view_is_along_the_longer_side():
    k, _ = photo_intrinsics(None, None, None, 480, 640, 60.0)
    torch.testing.assert_close(
        k, torch.tensor([[320 / tan(radians(30)), 0, 240], [0, 320 / tan(radians(30)), 320], [0, 0, 1]])
    )


def test_implausible_predictions_are_not_taken():
    for focal in (1.0, 1e6, float("nan"), -500.0):
        predicted = torch.tensor([[focal, 0, 320], [0, focal, 240], [0, 0, 1]])
        assert "default" in photo_intrinsics(None, None, predicted, 640, 480)[1]


def test_exif_belongs_to_the_picture_before_its_crop():
    """A 3:1 strip of a 36 × 12 mm field: the crop to 1.9:1 narrows the view but not the focal length."""
    fit = Fit.of(3000, 1000, *working_size(3000, 1000, 480))
    k, _ = photo_intrinsics(None, 28.0, None, fit.width, fit.height, fit=fit)
    focal_before = 28 / hypot(36, 24) * hypot(3000, 1000)
    assert float(k[1, 1]) == pytest.approx(focal_before * 480 / 1000, rel=1e-5)
    assert k[:2, 2].tolist() == pytest.approx([fit.width / 2, fit.height / 2], abs=0.5)


# The transformers library


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of random weights, saved as the library saves them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    processor = transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True, do_pad=False
    )
    folders = {}
    for kind in ("relative", "metric"):
        backbone = transformers.Dinov2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=56,
            patch_size=14,
            out_features=["stage1", "stage2"],
            apply_layernorm=True,
            reshape_hidden_states=False,
        )
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=16,
            reassemble_factors=[2, 1],
            neck_hidden_sizes=[8, 8],
            fusion_hidden_size=8,
            head_hidden_size=8,
            depth_estimation_type=kind,
            max_depth=20 if kind == "metric" else 1,
        )
        folders[kind] = root / kind
        model = transformers.DepthAnythingForDepthEstimation(config)
        with torch.no_grad():
            model.head.conv3.bias.fill_(1.0)  # a ReLU ends the relative model: keep it alive
        model.save_pretrained(folders[kind])
        processor.save_pretrained(folders[kind])
    return folders


def test_metric_models_give_metres(model_folders: dict[str, Path]):
    estimator = create_depth_estimator(f"transformers:{model_folders['metric']}")
    prediction = estimator.estimate(_picture())
    assert prediction.depth.shape == (64, 96)
    assert prediction.metric
    assert prediction.valid.all()
    assert prediction.depth.max() <= 20
    assert not prediction.sky.any()
    assert str(model_folders["metric"]) in prediction.source
    assert torch.equal(estimator.estimate(_picture()).depth, prediction.depth)


def test_relative_models_give_disparity(model_folders: dict[str, Path]):
    """The folder alone names the model; where its output is larger, depth is smaller."""
    estimator = create_depth_estimator(str(model_folders["relative"]))
    assert isinstance(estimator, TransformersDepth)
    prediction = estimator.estimate(_picture())
    assert not prediction.metric
    assert prediction.depth[prediction.valid].median() == pytest.approx(1.0, rel=0.01)
    stated = create_depth_estimator(f"transformers:{model_folders['relative']}@depth")
    raw = stated.estimate(_picture()).depth
    assert stated.name.endswith("@depth")
    order = raw.flatten()[::97].argsort()
    assert (prediction.depth.flatten()[::97][order].diff() <= 1e-6).all()


def test_models_of_unknown_kind_are_refused(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    import transformers

    config = types.SimpleNamespace(model_type="new_kind")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda model: config)
    with pytest.raises(InputError, match=r"@depth or transformers:.*@disparity") as caught:
        create_depth_estimator(f"transformers:{model_folders['relative']}")
    assert "larger is farther" in str(caught.value)


def test_models_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="cannot be loaded"):
        create_depth_estimator(f"transformers:{tmp_path / 'missing'}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError) as caught:
        create_depth_estimator(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_zoe_depth_runs(tmp_path: Path):
    """A model of another family, whose own image processor needs torchvision."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.BeitConfig(
        image_size=64,
        num_hidden_layers=4,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    transformers.ZoeDepthForDepthEstimation(config).save_pretrained(tmp_path)
    settings = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    prediction = TransformersDepth(str(tmp_path)).estimate(_picture())
    assert prediction.metric
    assert prediction.valid.all()
    assert prediction.depth.shape == (64, 96)
    assert prediction.depth.max() < 11


class _FakeDepthPro:
    """A network with Depth Pro's outputs: inverse depth for a focal length of one width, and a field of view."""

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, pixel_values):
        return types.SimpleNamespace(
            predicted_depth=torch.full((1, *pixel_values.shape[2:]), 0.25), field_of_view=torch.tensor([90.0])
        )


def test_depth_pro_knows_its_focal_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    transformers = pytest.importorskip("transformers")
    config = types.SimpleNamespace(model_type="depth_pro")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda model: config)
    monkeypatch.setattr(
        transformers.AutoModelForDepthEstimation, "from_pretrained", lambda model, dtype: _FakeDepthPro()
    )
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 32, "width": 32}}')
    prediction = TransformersDepth(str(tmp_path)).estimate(_picture())
    assert prediction.metric
    torch.testing.assert_close(prediction.depth, torch.full((64, 96), 2.0))  # f / W / 0.25 with f = W / 2
    torch.testing.assert_close(prediction.intrinsics, torch.tensor([[48.0, 0, 48], [0, 48, 32], [0, 0, 1]]))


def test_pictures_are_prepared_as_the_library_does():
    """Against the library's own processor of Depth Anything, which works without torchvision."""
    transformers = pytest.importorskip("transformers")
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 75), torch.linspace(0, 3, 100), indexing="ij")
    image = (torch.stack([rows.sin(), columns.cos(), (rows * columns).sin()]) + 1) / 2
    processor = transformers.models.dpt.image_processing_pil_dpt.DPTImageProcessorPil(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    expected = processor(images=pixels, return_tensors="pt")["pixel_values"][0]
    ours = prepare(image, processor.to_dict())
    assert ours.shape == expected.shape == (3, 56, 70)
    assert (ours - expected).abs().max() < 0.02


def test_sizes_of_the_preparation():
    image = _picture(120, 60)
    for settings, shape in (
        ({"size": 28}, (3, 28, 28)),
        ({"size": {"shortest_edge": 30}}, (3, 30, 60)),
        ({"size_divisor": 32}, (3, 64, 128)),
        ({}, (3, 60, 120)),
    ):
        assert prepare(image, settings).shape == shape


def test_relative_disparity_becomes_depth():
    disparity = torch.linspace(0.1, 10, 1000).view(20, 50).clone()
    disparity[0] = 0
    depth, sky = depth_from_relative_disparity(disparity)
    assert torch.equal(sky, disparity == 0)
    assert (depth[sky] == 0).all()
    surface = depth[~sky]
    assert (surface.diff() < 0).all()
    assert surface.median() == pytest.approx(1, rel=1e-5)
    assert surface.max() / surface.min() < FAR_OVER_NEAR * 1.05
    scaled, _ = depth_from_relative_disparity(disparity * 37)
    torch.testing.assert_close(scaled, depth)
    with pytest.raises(InputError, match="sees nothing"):
        depth_from_relative_disparity(torch.zeros(4, 4))


# MoGe


class _FakeMoGe:
    """What `MoGeModel` of version 2 promises: depth infinite outside the mask, intrinsics for a 1 × 1 image."""

    scale_head = object()
    calls: list[dict]

    @classmethod
    def from_pretrained(cls, name: str) -> "_FakeMoGe":
        if name == "nobody/nothing":
            raise OSError("cannot reach the hub")
        model = cls()
        model.calls = []
        return model

    def to(self, device):
        return self

    def eval(self):
        return self

    def infer(self, image, *, fov_x=None, use_fp16=True):
        self.calls.append({"fov_x": fov_x, "use_fp16": use_fp16})
        depth = torch.full(image.shape[1:], 2.0)
        mask = torch.ones_like(depth, dtype=torch.bool)
        mask[:10] = False
        depth[~mask] = float("inf")
        return {"depth": depth, "mask": mask, "intrinsics": torch.tensor([[0.8, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]])}


def _install_fake_moge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("moge.model.v2")
    module.MoGeModel = _FakeMoGe
    monkeypatch.setitem(sys.modules, "moge", types.ModuleType("moge"))
    monkeypatch.setitem(sys.modules, "moge.model", types.ModuleType("moge.model"))
    monkeypatch.setitem(sys.modules, "moge.model.v2", module)


def test_moge_contract(monkeypatch: pytest.MonkeyPatch):
    _install_fake_moge(monkeypatch)
    estimator = create_depth_estimator("moge")
    assert isinstance(estimator, MoGeDepth)
    prediction = estimator.estimate(_picture())
    assert prediction.metric
    assert prediction.sky[:10].all()
    assert not prediction.sky[10:].any()
    assert (prediction.depth[10:] == 2).all()
    assert prediction.intrinsics is not None
    torch.testing.assert_close(prediction.intrinsics, torch.tensor([[76.8, 0, 48], [0, 76.8, 32], [0, 0, 1]]))
    estimator.estimate(_picture(), Cameras.from_fov(55.0, 96, 64).intrinsics[0])
    first, second = estimator._network.calls
    assert first == {"fov_x": None, "use_fp16": False}
    assert second["fov_x"] == pytest.approx(55.0, abs=1e-3)
    assert create_depth_estimator("moge:some/other").name == "moge:some/other"
    with pytest.raises(InputError, match="moge:nobody/nothing: cannot be loaded"):
        create_depth_estimator("moge:nobody/nothing")


def test_moge_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "moge", None)
    with pytest.raises(InputError, match="pip install"):
        create_depth_estimator("moge")


# Devices


class _NetworkElsewhere(DepthNetwork):
    """In place of the nano network: on another device, it says that what is below is nearer and the top is sky."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def parameters(self, recurse: bool = True):
        return iter([torch.zeros(1, device=ELSEWHERE)])

    def forward(self, image: torch.Tensor, rays: torch.Tensor, hint: torch.Tensor):
        assert [type(value) for value in (image, rays, hint)] == 3 * [Elsewhere]
        return -rays[:, 1], -rays[:, 1] - 1.7


@pytest.mark.parametrize("hinted", [False, True])
def test_nano_gives_back_depth_on_the_device_of_the_picture(hinted: bool):
    picture, k = _picture(), Cameras.from_fov(60.0, 96, 64).intrinsics[0]
    with TwoDevices():
        hint = torch.from_numpy(_plane()) if hinted else None
        prediction = NanoDepth(_NetworkElsewhere()).estimate(picture, k, hint)
        assert not isinstance(prediction.depth, Elsewhere)
        assert not isinstance(prediction.sky, Elsewhere)
        assert torch.isfinite(picture * prediction.depth).all()
        assert bool(prediction.valid.any())


# The registry


@pytest.mark.parametrize("spec", ["unknown", "", "moge:", "transformers:", "depth-anything/Depth-Anything-V2-Small-hf"])
def test_unknown_names_list_the_known(spec: str):
    with pytest.raises(InputError, match="use nano, moge, transformers:MODEL"):
        create_depth_estimator(spec)


def test_files_are_known_by_their_suffix(tmp_path: Path):
    _write(tmp_path / "depth.png", _plane())
    estimator = create_depth_estimator(str(tmp_path / "depth.png"), depth_scale=0.001)
    assert isinstance(estimator, FileDepth)
    assert isinstance(estimator, DepthEstimator)
    with pytest.raises(InputError, match="no such file"):
        create_depth_estimator(str(tmp_path / "missing.npy"))
    with pytest.raises(InputError, match="--depth-scale"):
        create_depth_estimator("moge", depth_scale=0.001)


def test_table_and_closing_line():
    table = {entry.name: entry for entry in back_ends()}
    assert table["nano"].installed
    assert not table["moge"].installed
    line = better_options()
    assert "\n" not in line
    assert "--depth transformers:depth-anything/Depth-Anything-V2-Small-hf" in line
