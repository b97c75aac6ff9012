"""Prompts to text tokens: by a base model's text encoder, or looked up among embeddings from a file."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.models.hub import ModelFiles
from worldstereo.models.text_encoder import encode_batches, load_prompt_embeddings

AHEAD = 64
"""How many prompts, each with its negative prompt, a `TextEncoder` encodes at most when it is loaded."""


class TextEncoder:
    """The text encoder of a base model, in memory only while it encodes.

    Loading it takes much longer than encoding, so prompts that are expected next are encoded along. Their tokens wait
    in host memory: of the published models 8 MB a text in float32 and 4 MB in bfloat16, 1.1 GB at most. Each prompt is
    encoded with its own negative prompt alone, so that its tokens do not depend on what is expected.
    """

    def __init__(
        self, base: ModelFiles, dtype: torch.dtype, device: str, expected: Sequence[tuple[str, ...]] = ()
    ) -> None:
        """
        Args:
            dtype, device: of the encoder.
            expected: what it will be called with, in that order; other calls are allowed.
        """
        self._base, self._dtype, self._device = base, dtype, device
        self._expected = tuple(dict.fromkeys(expected))
        self._kept: dict[tuple[str, ...], Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "n t d"]:
        """Tokens of the prompts of one clip, in host memory.

        Raises:
            InputError: the text encoder's files are missing or damaged.
        """
        wanted = tuple(prompts)
        if wanted not in self._kept:
            self._kept = {}  # its memory is free before the next tokens take their own
            batches = [wanted, *self._after(wanted)]
            folders = self._base.component("tokenizer"), self._base.component("text_encoder")
            encoded = encode_batches(batches, *folders, self._dtype, self._device)
            self._kept = dict(zip(batches, encoded, strict=True))
        return self._kept[wanted]

    def _after(self, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        if wanted not in self._expected:
            return ()
        next_one = self._expected.index(wanted) + 1
        return self._expected[next_one : next_one + AHEAD - 1]


class GivenEmbeddings:
    """The prompts of a file of embeddings."""

    def __init__(self, path: Path, width: int, knows_texts: bool) -> None:
        """
        Args:
            path: of `save_prompt_embeddings`.
            width: of the text tokens that the network takes.
            knows_texts: whether prompts are looked up by their texts, where the file states them; otherwise its first
                row stands for the prompt and the second one for the negative prompt, whatever they are.

        Raises:
            InputError: the file cannot be read, or its embeddings have another width.
        """
        self._path, self._knows_texts = path, knows_texts
        self._embeddings = load_prompt_embeddings(path)
        if (found := self._embeddings.embeds.shape[2]) != width:
            raise InputError(
                f"{path}: its embeddings have a width of {found} but this model's text tokens have {width}; encode the "
                f"prompts with this model's own text encoder"
            )

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "n t d"]:
        """Embeddings of the prompts of one clip.

        Raises:
            InputError: the file has not all of them.
        """
        known, embeds = self._embeddings.prompts, self._embeddings.embeds
        if known and self._knows_texts:
            if unknown := [prompt for prompt in prompts if prompt not in known]:
                raise InputError(
                    f"--prompt {unknown[0]!r}: this model has no text encoder and knows only "
                    f"{', '.join(map(repr, known))}; leave the prompt out"
                )
            return embeds[[known.index(prompt) for prompt in prompts]]
        if len(embeds) < len(prompts):
            raise InputError(
                f"{self._path}: holds {len(embeds)} embeddings but guidance needs one for the prompt and one for "
                f"the negative prompt; add one, or use --guidance 1"
            )
        return embeds[: len(prompts)]
