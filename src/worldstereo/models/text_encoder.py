"""Prompts to embeddings with the text encoder UMT5, which stays in memory no longer than the call.

The encoder of the published models has 5.7 billion parameters and is needed once for a run, so it goes as soon as the
prompts are encoded; and it is not needed at all with embeddings from a file.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import write_tensors
from worldstereo.models.pretrained import load_pretrained, loading

MAX_TOKENS = 512

_EMBEDDINGS_KEY = "prompt_embeds"


def clean_prompt(prompt: str) -> str:
    """Mend broken Unicode, resolve HTML entities (twice, as in pages that escape twice), and collapse white space."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


@dataclass(frozen=True)
class PromptEmbeddings:
    """Prompts that were encoded before.

    Attributes:
        embeds: one row of tokens for each prompt, float32.
        prompts: their texts in the same order; empty where the file does not say.
        model: that encoded them; empty where the file does not say.
    """

    embeds: Float[Tensor, "n tokens d"]
    prompts: tuple[str, ...] = ()
    model: str = ""


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: str | Path,
    text_encoder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    max_tokens: int = MAX_TOKENS,
) -> Float[Tensor, "n max_tokens d"]:
    """The embeddings of all prompts, in one batch; the encoder is loaded for it and released.

    Prompts are cleaned, padded or cut to `max_tokens`, and encoded under their mask; rows behind a prompt's end
    are 0, as the published models were trained.

    Args:
        prompts: at least one; an empty one is allowed.
        tokenizer: the folder of the tokenizer.
        text_encoder: the folder of a `UMT5EncoderModel`.
        dtype: of the encoder and of the result; the official pipelines use float32.
        device: where it runs and where the result is.
        max_tokens: rows for each prompt; the published models expect 512.

    Raises:
        InputError: a folder's files are missing or damaged.
    """
    return encode_batches([prompts], tokenizer, text_encoder, dtype, device, max_tokens)[0].to(device)


@torch.no_grad()
def encode_batches(
    batches: Sequence[Sequence[str]],
    tokenizer: str | Path,
    text_encoder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    max_tokens: int = MAX_TOKENS,
) -> list[Float[Tensor, "n max_tokens d"]]:
    """What `encode_prompts` gives for each batch, with the encoder loaded once; the results are in host memory.

    Raises:
        InputError: a folder's files are missing or damaged.
    """
    from transformers import AutoTokenizer, UMT5EncoderModel

    with loading(tokenizer, "tokenizer"):
        tokenize: Any = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    encoder = load_pretrained(UMT5EncoderModel, text_encoder, dtype, device, may_lack={"encoder.embed_tokens.weight"})
    encoder.set_input_embeddings(encoder.shared)  # stored once; early releases 5.x tie them only if the config says so
    encoded = []
    for prompts in batches:
        tokens = tokenize(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            max_length=max_tokens,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        encoded.append(hidden.masked_fill(tokens.attention_mask[:, :, None] == 0, 0).cpu())
    return encoded


def save_prompt_embeddings(
    path: str | Path, embeds: Float[Tensor, "n tokens d"], prompts: Sequence[str], model: str = ""
) -> None:
    """Write embeddings as safetensors, atomically, with the prompts and the model's name in the metadata.

    Raises:
        InputError: there are not as many prompts as embeddings, or the file cannot be written.
    """
    if len(prompts) != len(embeds):
        raise InputError(f"{path}: {len(embeds)} embeddings cannot be saved for {len(prompts)} prompts")
    metadata = {"prompts": json.dumps(list(prompts), ensure_ascii=False), "model": model}
    write_tensors(path, {_EMBEDDINGS_KEY: embeds}, metadata)


def load_prompt_embeddings(path: str | Path) -> PromptEmbeddings:
    """Read a file of `save_prompt_embeddings`, or any safetensors file with a tensor `prompt_embeds` [n, tokens, d].

    Raises:
        InputError: the file is missing or damaged, or does not hold finite embeddings of that form.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            stored = file.get_tensor(_EMBEDDINGS_KEY) if _EMBEDDINGS_KEY in file.keys() else None  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error}); encode the prompts again") from error
    if stored is None or stored.ndim != 3 or not stored.is_floating_point() or 0 in stored.shape:
        found = "none" if stored is None else f"{str(stored.dtype).removeprefix('torch.')} {list(stored.shape)}"
        raise InputError(f"{path}: needs a tensor '{_EMBEDDINGS_KEY}' of floats [prompts, tokens, width], not {found}")
    embeds = stored.float()
    if not bool(embeds.isfinite().all()):
        raise InputError(f"{path}: '{_EMBEDDINGS_KEY}' holds values that are not finite; encode the prompts again")
    return PromptEmbeddings(embeds, _prompts(path, metadata, len(embeds)), metadata.get("model", ""))


def _prompts(path: str | Path, metadata: dict[str, str], count: int) -> tuple[str, ...]:
    """The texts that the metadata states, if it states any."""
    if "prompts" not in metadata:
        return ()
    try:
        prompts = json.loads(metadata["prompts"])
    except ValueError:
        prompts = None
    if not isinstance(prompts, list) or len(prompts) != count or not all(isinstance(text, str) for text in prompts):
        raise InputError(f"{path}: 'prompts' in its metadata must be a JSON list of {count} texts")
    return tuple(prompts)
