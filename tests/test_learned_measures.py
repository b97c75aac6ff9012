"""LPIPS and quality against computations written otherwise, with random weights; wrong weights; the real command."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from conftest import run_command
from test_comparisons import BASELINES, rows_of
from test_ladder import write_capture
from worldstereo.errors import InputError
from worldstereo.evaluation.learned_measures import LearnedMeasures
from worldstereo.evaluation.novel_views import NovelViewsConfig, evaluate_novel_views
from worldstereo.evaluation.outputs import OutputsConfig, evaluate_outputs
from worldstereo.evaluation.perceptual import SMALLEST_SIDE, PerceptualDistance
from worldstereo.evaluation.quality import Aesthetics, Clip, ClipIqa, create_quality_measure

transformers = pytest.importorskip("transformers")

CHANNELS = (64, 192, 384, 256, 256)


def alexnet() -> nn.Sequential:
    """The convolutions of Krizhevsky's "one weird trick" (2014), numbered as torchvision's `features`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = alexnet()
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.2)
    return layers.eval()


@pytest.fixture(scope="module")
def lines() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(channels, generator=generator) for channels in CHANNELS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network, lines) -> Path:
    """Weights as their owners give them away: named by their hash, with a classifier, pickled."""
    folder = tmp_path_factory.mktemp("lpips")
    state = {f"features.{name}": value for name, value in network.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, folder / "alexnet.pth")
    digest = hashlib.sha256((folder / "alexnet.pth").read_bytes()).hexdigest()
    (folder / "alexnet.pth").rename(folder / f"alexnet-owt-{digest[:8]}.pth")
    torch.save({f"lin{k}.model.1.weight": line.view(1, -1, 1, 1) for k, line in enumerate(lines)}, folder / "alex.pth")
    return folder


@torch.no_grad()
def distance(network: nn.Sequential, lines: list[torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two pictures, layer by layer and place by place (Zhang et al., 2018, equation 1)."""
    total, layer = 0.0, 0
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = (((2 * each.permute(1, 2, 0) - 1 - mean) / deviation).permute(2, 0, 1) for each in (a, b))
    for step in network:
        a, b = step(a), step(b)
        if isinstance(step, nn.ReLU):
            places = [
                float(lines[layer] @ (a[:, y, x] / (a[:, y, x].norm() + 1e-10) - b[:, y, x] / b[:, y, x].norm()) ** 2)
                for y in range(a.shape[1])
                for x in range(a.shape[2])
            ]
            total += sum(places) / len(places)
            layer += 1
    assert layer == 5
    return total


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


# LPIPS


def test_distances_equal_those_of_another_computation(folder, network, lines):
    ours, true = pictures(3, 64, 79), pictures(3, 64, 79, 1)
    found = PerceptualDistance.load(folder).distances(ours, true)
    expected = [distance(network, lines, a, b) for a, b in zip(ours, true, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_have_no_distance_and_distance_is_mutual(folder):
    lpips, ours, true = PerceptualDistance.load(folder), pictures(9, 40, 40), pictures(9, 40, 40, 1)
    assert not lpips.distances(ours, ours).any()
    assert not lpips.maps(ours, ours).any()
    torch.testing.assert_close(lpips.distances(ours, true), lpips.distances(true, ours))
    near = (ours + 0.02 * true).clamp(0, 1)
    assert (lpips.distances(ours, near) < lpips.distances(ours, true)).all()
    alone = torch.cat([lpips.distances(a[None], b[None]) for a, b in zip(ours, true, strict=True)])
    torch.testing.assert_close(lpips.distances(ours, true), alone)  # batches change nothing


def test_maps_say_where(folder):
    lpips, ours = PerceptualDistance.load(folder), pictures(1, 96, 448)
    other = ours.clone()
    other[..., :100] = pictures(1, 96, 100, 1)
    left, right = torch.zeros(2, 1, 96, 448, dtype=torch.bool)
    left[..., :100], right[..., 300:] = True, True
    assert lpips.masked(ours, other, right) < 0.01 * lpips.masked(ours, other, left)
    assert math.isnan(lpips.masked(ours, other, left & right))
    everywhere = lpips.masked(ours, other, torch.ones_like(left))
    assert everywhere == pytest.approx(float(lpips.distances(ours, other)), rel=0.1)


def test_safetensors_are_the_same_weights(folder, tmp_path, network, lines):
    state = {f"features.{name}": value for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "alexnet.safetensors")
    save_file(
        {f"lin{k}.model.1.weight": v.view(1, -1, 1, 1) for k, v in enumerate(lines)}, tmp_path / "alex.safetensors"
    )
    ours, true = pictures(1, 40, 40), pictures(1, 40, 40, 1)
    one, two = PerceptualDistance.load(folder), PerceptualDistance.load(tmp_path)
    assert one.fingerprint == two.fingerprint
    assert torch.equal(one.distances(ours, true), two.distances(ours, true))


def test_wrong_weights_are_named(folder, tmp_path, network, lines):
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            PerceptualDistance.load(tmp_path)

    state = {f"features.{name}": value for name, value in network.state_dict().items()}
    good = {f"lin{k}.model.1.weight": v.view(1, -1, 1, 1) for k, v in enumerate(lines)}
    refused(r"no file alexnet\*")
    torch.save(state, tmp_path / "alexnet-00000000.pth")
    refused(r"no file alex\{")
    torch.save(good, tmp_path / "alex.pth")
    refused(r"alexnet-00000000.pth: its SHA-256 does not begin with 00000000")
    (tmp_path / "alexnet-00000000.pth").rename(tmp_path / "alexnet.pth")
    assert PerceptualDistance.load(tmp_path).fingerprint == PerceptualDistance.load(folder).fingerprint
    torch.save(good | {"lin2.model.1.weight": torch.zeros(1, 512, 1, 1)}, tmp_path / "alex.pth")  # VGG's
    refused(r"alex.pth: the tensor lin2.model.1.weight is \(1, 512, 1, 1\), not \(1, 384, 1, 1\)")
    torch.save({name: good[name] for name in list(good)[:4]}, tmp_path / "alex.pth")
    refused("alex.pth: lacks the tensor lin4.model.1.weight")
    torch.save(good | {"lin0.model.1.weight": torch.full((1, 64, 1, 1), torch.nan)}, tmp_path / "alex.pth")
    refused("lin0.model.1.weight holds values that are not finite")
    torch.save([good], tmp_path / "alex.pth")
    refused("alex.pth: holds something else than named tensors")
    torch.save(Path("code"), tmp_path / "alex.pth")  # a pickle that would run code
    refused("alex.pth: is damaged or holds more than tensors")
    (tmp_path / "alex.pth").write_bytes(b"nothing")
    refused("alex.pth: is damaged or holds more than tensors")
    save_file(good, tmp_path / "alex.safetensors")
    refused("several files alex")


def test_pictures_that_are_too_small(folder):
    lpips = PerceptualDistance.load(folder)
    assert lpips.distances(pictures(1, SMALLEST_SIDE, 40), pictures(1, SMALLEST_SIDE, 40, 1)).isfinite().all()
    with pytest.raises(InputError, match="40×30 px are too small"):
        lpips.distances(pictures(1, SMALLEST_SIDE - 1, 40), pictures(1, SMALLEST_SIDE - 1, 40))


# Quality


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny random CLIP as the hub has them, with the older form of the processor's configuration."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    text = {**sizes, "vocab_size": 8, "max_position_embeddings": 16, "bos_token_id": 6, "eos_token_id": 7}
    network = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for name, value in network.named_parameters():
        if name.endswith("weight") and "norm" not in name:
            nn.init.normal_(value, std=0.3)
    network.save_pretrained(folder)
    words = {"good": 0, "bad": 1, "photo": 2, ".": 3, "[UNK]": 4, "[PAD]": 5, "[BOS]": 6, "[EOS]": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 6), ("[EOS]", 7)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    ).save_pretrained(folder)
    processor = {"size": 32, "crop_size": 32, "resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@torch.no_grad()
def embedding(folder: Path, picture: torch.Tensor) -> torch.Tensor:
    """Of a picture of 32×32, by the library's own way through the whole network."""
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    eight_bit = (picture * 255 + 0.5).floor() / 255
    mean = torch.tensor([0.48, 0.46, 0.41])[:, None, None]
    ids = torch.tensor([[6, 0, 2, 3, 7], [6, 1, 2, 3, 7]])  # good photo. / bad photo.
    return network(input_ids=ids, pixel_values=((eight_bit - mean) / 0.27)[None])


def test_clip_iqa_is_the_softmax_of_two_prompts(clip_folder):
    seen = pictures(3, 32, 32)
    scores = ClipIqa.load(str(clip_folder)).scores(seen)
    for picture, score in zip(seen, scores, strict=True):
        good, bad = embedding(clip_folder, picture).logits_per_image[0].tolist()
        assert float(score) == pytest.approx(1 / (1 + math.exp(bad - good)), abs=1e-5)
    assert scores.std() > 1e-3  # it says something
    assert ((scores > 0) & (scores < 1)).all()


def test_it_sees_the_middle_square(clip_folder):
    measure, wide = ClipIqa.load(str(clip_folder)), pictures(1, 32, 48)
    torch.testing.assert_close(measure.scores(wide), measure.scores(wide[..., 8:40].contiguous()))


def test_aesthetics_of_one_layer_and_of_five(clip_folder, tmp_path):
    torch.manual_seed(2)
    one = nn.Linear(12, 1)
    torch.save(one.state_dict(), tmp_path / "sa_0_4_vit_linear.pth")
    layers = [nn.Linear(12, 8), nn.Dropout(), nn.Linear(8, 6), nn.Dropout(), nn.Linear(6, 5), nn.Linear(5, 4)]
    five = nn.Sequential(*layers, *(nn.Dropout() for _ in range(4)), nn.Linear(4, 1)).eval()
    state = {f"layers.{name}": value for name, value in five.state_dict().items()}
    assert "layers.10.weight" in state  # numbers are not sorted as words
    torch.save(state, tmp_path / "linearMSE.pth")
    seen = pictures(2, 32, 32)
    for head, file in ((one, "sa_0_4_vit_linear.pth"), (five, "linearMSE.pth")):
        found = create_quality_measure(f"aesthetics={clip_folder},{tmp_path / file}").scores(seen)
        expected = torch.cat([head(embedding(clip_folder, picture).image_embeds)[:, 0] for picture in seen])
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_wrong_quality_weights_are_named(clip_folder, tmp_path):
    clip = Clip(str(clip_folder))
    source = tmp_path / "head.pth"
    with pytest.raises(InputError, match=r"weight is \(1, 768\), not \(1, 12\)"):
        Aesthetics(clip, nn.Linear(768, 1).state_dict(), source)
    with pytest.raises(InputError, match="do not end in one number"):
        Aesthetics(clip, nn.Linear(12, 2).state_dict(), source)
    with pytest.raises(InputError, match="do not end in one number"):
        Aesthetics(clip, {}, source)
    with pytest.raises(InputError, match="lacks the tensor bias"):
        Aesthetics(clip, {"weight": torch.zeros(1, 12)}, source)
    for text, message in (
        ("niqe=a", "must be clip-iqa=... or aesthetics=..."),
        ("clip-iqa", "must be clip-iqa=..."),
        (f"aesthetics={clip_folder}", "must be aesthetics=CLIP,HEAD.pth"),
        (f"aesthetics={clip_folder},{tmp_path / 'none.pth'}", "none.pth: no such file"),
        (f"aesthetics={clip_folder},{tmp_path / 'ava-reluMSE.pth'}", "has ReLUs"),
        (f"clip-iqa={tmp_path}", "has no config.json"),
        ("clip-iqa=nowhere", "is no shipped model, no folder and no hub id"),
    ):
        with pytest.raises(InputError, match=message):
            create_quality_measure(text)
    with pytest.raises(InputError, match="is there twice"):
        LearnedMeasures.load(None, ["clip-iqa=a", "clip-iqa=b"])


# In tables


def test_truth_is_as_near_as_can_be(folder, clip_folder):
    measures = LearnedMeasures.load(folder, [f"clip-iqa={clip_folder}"])
    frames = pictures(3, 40, 48)
    unseen = torch.zeros(3, 40, 48, dtype=torch.bool)
    unseen[:, :20] = True
    figures = measures.of(frames, frames, unseen)
    assert figures == {"lpips": 0, "lpips_unseen": 0, **measures.of_truth(frames)}
    others = frames.clone()
    others[0] = 0  # the first frame is given and does not count
    assert measures.of(others, frames, unseen) == figures
    assert measures.of(frames.flip(0), frames, ~torch.ones_like(unseen))["lpips_unseen"] is None
    assert LearnedMeasures().of(frames, frames, unseen) == {}


def test_both_protocols_have_the_columns(folder, clip_folder, tmp_path):
    truth = write_capture(tmp_path / "truth", 5)
    learned = {"lpips_weights": folder, "quality": (f"clip-iqa={clip_folder}",)}
    config = NovelViewsConfig(out=tmp_path / "views", data=truth, scenes=0, short_side=80, frames=4, **learned)
    text = evaluate_novel_views(config).read_text()
    rows = rows_of(tmp_path / "views", "novel-views")
    assert list(rows) == ["truth", *BASELINES]
    assert list(rows["truth"]) == ["clip_iqa"]
    assert all(rows[row]["lpips"] > 0 and 0 < rows[row]["clip_iqa"] < 1 for row in BASELINES)
    assert "| LPIPS |" in text
    assert "LPIPS: AlexNet, linear layers 0.1, weights" in text
    assert "Skipped" not in text
    with pytest.raises(InputError, match="with LPIPS 'AlexNet"):
        evaluate_novel_views(NovelViewsConfig(**{**vars(config), "lpips_weights": None}))
    output = OutputsConfig(out=tmp_path / "out", data=truth, outputs=(f"same={truth}",), short_side=80, **learned)
    evaluate_outputs(output)
    rows = rows_of(tmp_path / "out", "outputs")
    assert list(rows) == ["truth", *BASELINES, "same"]
    assert rows["same"]["lpips"] == pytest.approx(0, abs=1e-6)
    assert rows["same"]["clip_iqa"] == pytest.approx(rows["truth"]["clip_iqa"])


def test_wrong_weights_are_found_before_any_work(tmp_path):
    truth = write_capture(tmp_path / "truth", 5)
    config = NovelViewsConfig(out=tmp_path / "out", data=truth, scenes=0, lpips_weights=tmp_path)
    with pytest.raises(InputError, match=r"has no file alexnet\*"):
        evaluate_novel_views(config)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_weights(folder, clip_folder, tmp_path):
    write_capture(tmp_path / "truth", 5)
    options = ["--data", tmp_path / "truth", "--scenes", 0, "--short-side", 64, "--frames", 3, "--quiet"]
    command = ["evaluate", "novel-views", *options, "-o", tmp_path / "out"]
    done = run_command(*command, "--lpips-weights", folder, "--quality", f"clip-iqa={clip_folder}")
    assert done.returncode == 0, done.stderr
    assert "LPIPS" in done.stdout
    assert f"--lpips-weights {folder} --quality clip-iqa={clip_folder}" in done.stdout
