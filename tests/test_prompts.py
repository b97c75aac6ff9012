"""Prompts of many scenes: how often the text encoder and the networks are loaded, and that it changes nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tiny_networks import write_paper_model
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.models.text_encoder import encode_batches, encode_prompts
from worldstereo.pipelines import loading, prompts
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.generators import Generators
from worldstereo.pipelines.prompts import TextEncoder

HUB = Path(__file__).parent / "data" / "parity" / "hub"
CAMERA, DISTILLED = f"{HUB}:worldstereo-camera", f"{HUB}:worldstereo-memory-dmd"
BASE = ModelFiles(ModelSource(HUB / "base"))
PAIRS = [("a room", "blurry"), ("the street", "blurry"), ("a room", "blurry"), ("the wooden table", "a camera")]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Sequence[str]]]:
    """What each loading of the text encoder was for."""
    loads: list[Sequence[Sequence[str]]] = []

    def watched(batches, *arguments):
        loads.append(batches)
        return encode_batches(batches, *arguments)

    monkeypatch.setattr(prompts, "encode_batches", watched)
    return loads


def test_expected_prompts_are_encoded_with_the_first_and_have_the_same_tokens(encoded):
    encode = TextEncoder(BASE, torch.float32, "cpu", PAIRS)
    folders = HUB / "base/tokenizer", HUB / "base/text_encoder"
    for pair in PAIRS:
        assert torch.equal(encode(pair), encode_prompts(pair, *folders))
    assert encoded == [[PAIRS[0], PAIRS[1], PAIRS[3]]]
    unexpected = ("a cat",)
    assert torch.equal(encode(unexpected), encode_prompts(unexpected, *folders))
    assert encoded[1:] == [[unexpected]]


def test_no_more_tokens_wait_than_are_allowed(encoded, monkeypatch):
    monkeypatch.setattr(prompts, "AHEAD", 2)
    pairs = [(f"scene {number}", "ugly") for number in range(5)]
    encode = TextEncoder(BASE, torch.float32, "cpu", pairs)
    for pair in pairs:
        encode(pair)
        assert len(encode._kept) <= 2
    assert encoded == [pairs[0:2], pairs[2:4], pairs[4:5]]


def test_generators_of_one_precision_share_the_networks(encoded, monkeypatch):
    loads = []
    original = loading.load_published
    monkeypatch.setattr(loading, "load_published", lambda *a, **k: loads.append(a[0]["kind"]) or original(*a, **k))
    wishes = [GeneratorOptions(prompt=f"scene {number}", steps=2) for number in range(3)]
    wishes.append(GeneratorOptions(prompt="no guidance", negative_prompt="none", guidance=1.0, pixel_scale="unit"))
    make = Generators(Placement(), [(CAMERA, wish) for wish in wishes])
    pipelines = []
    for wish in wishes:
        generator = make(CAMERA, wish)
        assert generator.options["prompt"] == wish.prompt
        pipelines.append(generator._pipeline)
        pipelines[-1].text_tokens(wish.prompt, pipelines[-1].clip_format.negative_prompt)
    assert loads == ["camera"]
    assert len({id(pipeline.network) for pipeline in pipelines}) == 1
    assert [pipeline.sampling.steps for pipeline in pipelines] == [2, 2, 2, 40]
    negative = pipelines[0].clip_format.negative_prompt
    assert encoded == [[*((wish.prompt, negative) for wish in wishes[:3]), ("no guidance",)]]
    make(CAMERA, GeneratorOptions(dtype="bfloat16"))
    make(DISTILLED, GeneratorOptions())
    assert loads == ["camera", "camera", "memory"]


def test_a_pipeline_of_another_precision_is_not_made(tmp_path):
    folder = write_paper_model(tmp_path / "m")
    precision = GeneratorOptions(dtype="float32").precision
    model = loading.LoadedModel("m", ModelFiles(ModelSource(folder)), precision, Placement())
    with pytest.raises(ValueError, match=r"was loaded with .*float32"):
        model.pipeline(GeneratorOptions(dtype="bfloat16"))
