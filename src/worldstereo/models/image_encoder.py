"""The start image to tokens with the vision half of CLIP, which stays in memory no longer than the call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import read_json
from worldstereo.models.pretrained import load_pretrained

PixelScale = Literal["published", "unit"]


@torch.no_grad()
def encode_image(
    image: Float[Tensor, "3 h w"],
    image_encoder: str | Path,
    image_processor: str | Path,
    pixel_scale: PixelScale = "published",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "1 tokens d"]:
    """The hidden state before the encoder's last layer; the encoder is loaded for it and released.

    Args:
        image: values in [0, 1].
        image_encoder: the folder of a `CLIPVisionModel`; its 16×16 patches and class token give 257 tokens.
        image_processor: the folder with `preprocessor_config.json`.
        pixel_scale: see `preprocess_image`.
        dtype: of the encoder and of the result; the official pipelines use float32.
        device: where it runs and where the result is.

    Raises:
        InputError: a folder's files are missing or damaged.
    """
    from transformers import CLIPVisionModel

    pixels = preprocess_image(image, image_processor, pixel_scale)[None].to(device, dtype)
    encoder = load_pretrained(CLIPVisionModel, image_encoder, dtype, device)
    return encoder(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]


def preprocess_image(
    image: Float[Tensor, "3 h w"], image_processor: str | Path, pixel_scale: PixelScale = "published"
) -> Float[Tensor, "3 rows columns"]:
    """What CLIP sees of a picture: its shorter side resized, its middle cut out, its colours normalised.

    As the image processor of the transformers library without torchvision does it, in 8 bits up to the normalisation.

    Args:
        image: values in [0, 1].
        image_processor: the folder with `preprocessor_config.json`.
        pixel_scale: "published" normalises values of 0 to 255 with the mean and deviation of values of 0 to 1, as the
            official pipelines do (they switch the scaling off): inputs to 980 where CLIP expects −1.8 to 2.1.
            "unit" scales to 0 to 1 first, as CLIP was trained.

    Raises:
        InputError: `preprocessor_config.json` is missing or lacks a field.
    """
    settings = _Settings.read(Path(image_processor) / "preprocessor_config.json")
    eight_bit = (image.detach().clamp(0, 1) * 255 + 0.5).to("cpu", torch.uint8).permute(1, 2, 0).contiguous()
    height, width = eight_bit.shape[:2]
    scaled_width, scaled_height = (settings.shorter_side * side // min(height, width) for side in (width, height))
    resized = Image.fromarray(eight_bit.numpy()).resize((scaled_width, scaled_height), settings.resample)
    left, top = (scaled_width - settings.columns) // 2, (scaled_height - settings.rows) // 2
    middle = resized.crop((left, top, left + settings.columns, top + settings.rows))
    pixels = torch.from_numpy(np.array(middle)).permute(2, 0, 1).float()
    if pixel_scale == "unit":
        pixels = pixels * settings.factor
    return (pixels - settings.mean) / settings.std


@dataclass(frozen=True)
class _Settings:
    """What `preprocessor_config.json` says; older ones give a square's side alone, and no factor."""

    shorter_side: int
    rows: int
    columns: int
    resample: Image.Resampling
    factor: float
    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    @staticmethod
    def read(path: Path) -> "_Settings":
        values: Any = read_json(path)
        try:
            size, crop = values["size"], values["crop_size"]
            rows, columns = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
            return _Settings(
                int(size if isinstance(size, int) else size["shortest_edge"]),
                int(rows),
                int(columns),
                Image.Resampling(values["resample"]),
                float(values.get("rescale_factor", 1 / 255)),
                torch.tensor(values["image_mean"], dtype=torch.float32).view(3, 1, 1),
                torch.tensor(values["image_std"], dtype=torch.float32).view(3, 1, 1),
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: is not the configuration of a CLIP image processor ({error!r})") from error
