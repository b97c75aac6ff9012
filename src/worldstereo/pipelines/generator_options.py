"""What a user can choose about a network, and where it is held."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from worldstereo.devices import find_device
from worldstereo.errors import InputError
from worldstereo.models.image_encoder import PixelScale
from worldstereo.models.low_memory import Offload, Quantize

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Precision:
    """How the weights of a network are held, which is settled when they are loaded.

    Attributes:
        dtype, quantize: as in `GeneratorOptions`.
    """

    dtype: DType
    quantize: Quantize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The data type; "auto" has none before a device is known."""
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class GeneratorOptions:
    """What a user can choose about a network, and what it makes depends on.

    Attributes:
        prompt, negative_prompt: of all clips; the model's own negative prompt if none.
        prompt_embeddings: a file of `save_prompt_embeddings` to be used instead of a text encoder: one row for the
            prompt and, under guidance, one for the negative prompt.
        steps, guidance: of the sampler; the model's if none.
        dtype: of weights and tokens; "auto" is bfloat16 on a GPU that has it, else float32.
        quantize: how the weights are held: "none"; "float8": 1 byte a weight, computed in `dtype`; "int8": 1 byte a
            weight of the blocks (needs torchao).
        pixel_scale: of what the image encoder sees: "published" (a quirk of the release) or "unit".
        ray_grid: of the published models' rays: "published" (a quirk: one pixel to the left) or "centred".
        render_background: what the render shows in holes: "grey", as the published models were trained, or "filled"
            from the surroundings.
    """

    prompt: str = ""
    negative_prompt: str | None = None
    prompt_embeddings: str | None = None
    steps: int | None = None
    guidance: float | None = None
    dtype: DType = "auto"
    quantize: Quantize = "none"
    pixel_scale: PixelScale = "published"
    ray_grid: Literal["published", "centred"] = "published"
    render_background: Literal["grey", "filled"] = "grey"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be positive")
        if self.guidance is not None and not 1 <= self.guidance <= 100:
            raise InputError(f"--guidance {self.guidance:g}: must lie between 1 (none) and 100")

    @property
    def precision(self) -> Precision:
        """What networks must be loaded anew for; all the rest can differ between generators that share them."""
        return Precision(self.dtype, self.quantize)

    def on(self, device: str) -> "GeneratorOptions":
        """The same with the data type that "auto" means on a device."""
        if self.dtype != "auto":
            return self
        half = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return replace(self, dtype="bfloat16" if half else "float32")


@dataclass(frozen=True)
class Placement:
    """Where a network is held and how it gets there; it does not change what it makes.

    Attributes:
        device: where it runs.
        offload: what waits in host memory ("group") or on disk ("disk") until its turn comes.
        offline: never ask the hub.
    """

    device: str = "cpu"
    offload: Offload = "none"
    offline: bool = False

    def __post_init__(self) -> None:
        find_device(self.device)
