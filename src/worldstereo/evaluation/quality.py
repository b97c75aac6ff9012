"""Figures of pictures without a truth, by other people's networks: how good does it look?

CLIP-IQA (Wang, Chan, Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023) and LAION's aesthetic
predictors, both upon a CLIP of the transformers library.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.evaluation.protocol import Figure
from worldstereo.evaluation.weight_files import Shapes, checked, fingerprint
from worldstereo.models.hub import ModelFiles, ModelSource, weights_fingerprint
from worldstereo.models.image_encoder import preprocess_image
from worldstereo.models.pretrained import load_pretrained, loading
from worldstereo.models.weight_files import read_weights

PROMPTS = ("Good photo.", "Bad photo.")
"""CLIP-IQA's, for overall quality."""


@runtime_checkable
class QualityMeasure(Protocol):
    """A figure of pictures alone.

    Attributes:
        figure: its column.
        made_by: the network and its weights, for reports.
    """

    figure: Figure
    made_by: str

    def scores(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Of each picture, values in [0, 1]."""
        ...


class Clip:
    """A CLIP of the transformers library; of a picture it sees the middle square.

    Args:
        model: a local folder or a hub id, with `preprocessor_config.json` and tokenizer.
        device: where it runs.

    Raises:
        InputError: it cannot be found or loaded.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from transformers import CLIPModel

        self.folder = ModelFiles(ModelSource.parse(model)).whole()
        weights = weights_fingerprint(model)
        self.name = model if weights is None else f"{model} ({weights})"
        self._device = device
        self._network: Any = load_pretrained(CLIPModel, self.folder, torch.float32, device)

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return self._network.config.projection_dim

    @property
    def sharpness(self) -> float:
        """What similarities are multiplied by before a softmax, as trained."""
        return float(self._network.logit_scale.detach().exp())

    @torch.no_grad()
    def embed_pictures(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Of length 1."""
        embeddings = []
        for picture in pictures:
            pixels = preprocess_image(picture, self.folder, "unit")[None].to(self._device)
            pooled = self._network.vision_model(pixel_values=pixels).pooler_output
            embeddings.append(self._network.visual_projection(pooled)[0])
        return torch.nn.functional.normalize(torch.stack(embeddings), dim=1).to(pictures.device)

    @torch.no_grad()
    def embed_texts(self, texts: tuple[str, ...]) -> Float[Tensor, "n d"]:
        """Of length 1."""
        from transformers import AutoTokenizer

        with loading(self.folder, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
            tokens = tokenizer(list(texts), padding=True, return_tensors="pt").to(self._device)
        pooled = self._network.text_model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        return torch.nn.functional.normalize(self._network.text_projection(pooled), dim=1)


class ClipIqa:
    """CLIP-IQA: the softmax between how near a picture is to "Good photo." and to "Bad photo."; 0 to 1, 1 is good.

    The paper's network is a ResNet-50 without position embedding, which takes pictures of any size; figures of a vision
    transformer, which sees the middle square at its own size, are others, and compare only with its own.
    """

    figure = Figure("clip_iqa", "CLIP-IQA", 3, "higher")

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._prompts = clip.embed_texts(PROMPTS)
        self.made_by = clip.name

    @classmethod
    def load(cls, place: str, device: str = "cpu") -> "ClipIqa":
        """Of a CLIP's folder or hub id."""
        return cls(Clip(place, device))

    def scores(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Of each picture, in [0, 1]."""
        similarity = self._clip.embed_pictures(pictures) @ self._prompts.T.to(pictures.device)
        return (self._clip.sharpness * similarity).softmax(dim=1)[:, 0]


class Aesthetics:
    """LAION's aesthetic predictors: a chain of linear layers upon a picture's embedding, about 1 (ugly) to 10.

    Version 1 (`sa_0_4_vit_*_linear.pth`) is one layer, version 2 (`*-linearMSE.pth`) five with nothing but dropout in
    between. Each belongs to the one CLIP that it was trained on.

    Raises:
        InputError: the layers do not lead from the CLIP's embeddings to one number.
    """

    figure = Figure("aesthetics", "aesthetics", 2, "higher")

    def __init__(self, clip: Clip, head: dict[str, Tensor], source: Path) -> None:
        self._clip = clip
        names = sorted((name for name in head if name.endswith("weight")), key=_layer_number)
        shapes: Shapes = {}
        width = clip.width
        for name in names:
            rows = head[name].shape[0] if head[name].ndim else 0
            shapes |= {name: (rows, width), name.removesuffix("weight") + "bias": (rows,)}
            width = rows
        if width != 1 or not names:
            raise InputError(f"{source}: its {len(names)} layers do not end in one number; give LAION's linear head")
        head = checked(source, head, shapes)
        self._layers = [(head[name], head[name.removesuffix("weight") + "bias"]) for name in names]
        self.made_by = f"{clip.name}, {source.name} ({fingerprint(head)})"

    @classmethod
    def load(cls, place: str, device: str = "cpu") -> "Aesthetics":
        """Of "CLIP,HEAD": a CLIP's folder or hub id, and the path of the layers.

        Raises:
            InputError: not two such places, or they do not fit each other.
        """
        clip, comma, head = place.rpartition(",")
        if not comma:
            raise InputError(f"--quality aesthetics={place}: must be aesthetics=CLIP,HEAD.pth")
        if "relu" in Path(head).name.lower():
            raise InputError(f"{head}: has ReLUs, which nothing in the file says; give LAION's linear head (linearMSE)")
        weights = read_weights(Path(head))
        return cls(Clip(clip, device), weights, Path(head))

    def scores(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Of each picture."""
        values = self._clip.embed_pictures(pictures)
        for weight, bias in self._layers:
            values = torch.nn.functional.linear(values, weight.to(values), bias.to(values))
        return values[:, 0]


MEASURES: dict[str, Callable[[str, str], QualityMeasure]] = {"clip-iqa": ClipIqa.load, "aesthetics": Aesthetics.load}
"""By name: made of (place of the weights, device). Others may be added."""


def create_quality_measure(text: str, device: str = "cpu") -> QualityMeasure:
    """The measure of "NAME=PLACE", e.g. "clip-iqa=openai/clip-vit-base-patch16".

    Raises:
        InputError: no such measure, or its weights cannot be loaded.
    """
    name, equals, place = text.partition("=")
    if name not in MEASURES or not equals or not place:
        raise InputError(f"--quality {text}: must be {' or '.join(f'{known}=...' for known in MEASURES)}")
    return MEASURES[name](place, device)


def _layer_number(name: str) -> int:
    digits = "".join(character for character in name if character.isdigit())
    return int(digits or 0)
