"""Any monocular depth model of the transformers library."""

from math import pi, tan
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError

Reading = Literal["depth", "disparity"]

FAR_OVER_NEAR = 20.0

_METRIC_MODEL_TYPES = {"zoedepth", "depth_pro", "glpn"}
_DISPARITY_MODEL_TYPES = {"dpt"}
_SKY_DISPARITY = 0.003
_ARBITRARY_MEDIAN = 1.0


class TransformersDepth:
    """A model of the transformers library for depth estimation.

    Whether its output is depth or disparity, and metric, follows from the model's configuration; `reading` says it
    for models of an unknown kind. Relative disparity has an unknown shift. Models trained with sky at 0 make
    0 the natural far end, so disparity is scaled to 1 at its 98th percentile and mapped to
    `1/20 + (1 − 1/20) · disparity`: the farthest surface is `FAR_OVER_NEAR` times as far as the nearest, pixels
    at 0 are sky, and the depth's median is 1 (not metric).

    Args:
        model: a hub id or a local folder with `config.json`.
        reading: "depth" or "disparity", if known.
        device: where it runs.

    Raises:
        InputError: the model cannot be found or loaded, or its kind is unknown and `reading` is not given.
    """

    def __init__(self, model: str, reading: Reading | None = None, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModelForDepthEstimation
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            config = AutoConfig.from_pretrained(model)
        except Exception as error:  # hub, network and configuration errors share no base class
            raise _unloadable(model, error) from error
        self.name = f"transformers:{model}" + (f"@{reading}" if reading else "")
        self._model = model
        self._reading, self._metric = _kind(model, config, reading)
        self._is_canonical_inverse = config.model_type == "depth_pro"
        try:
            preparation, _ = ImageProcessingMixin.get_image_processor_dict(model)
            network = AutoModelForDepthEstimation.from_pretrained(model, dtype=torch.float32)
        except Exception as error:
            raise _unloadable(model, error) from error
        self._preparation = dict(preparation)
        self._device = device
        self._network: Any = network.to(device).eval()

    @torch.no_grad()
    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """Depth of `image`; with intrinsics from models that find a field of view (Depth Pro)."""
        height, width = image.shape[1:]
        outputs = self._network(pixel_values=prepare(image, self._preparation)[None].to(self._device))
        raw = outputs.predicted_depth[0].to(image.device, torch.float32)
        raw = F.interpolate(raw[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        fov = getattr(outputs, "field_of_view", None)
        focal = None if fov is None else 0.5 * width / tan(float(fov) / 360 * pi)
        if self._is_canonical_inverse:
            raw = 1 / (raw * (1 if focal is None else width / focal)).clamp(1e-4, 1e4)
        raw = torch.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
        sky = torch.zeros_like(raw, dtype=torch.bool)
        if self._reading == "disparity":
            raw, sky = depth_from_relative_disparity(raw)
        k = None if focal is None else _central(focal, width, height).to(image.device)
        return DepthPrediction(raw, sky, k, self._metric, f"transformers model {self._model}")


def prepare(image: Float[Tensor, "3 h w"], preparation: dict[str, Any]) -> Float[Tensor, "3 h2 w2"]:
    """What a model sees of a picture, as its `preprocessor_config.json` says: size and normalisation.

    The library's own image processors would need torchvision for some of these models. Padding at the border,
    which ZoeDepth was evaluated with, is left out.
    """
    height, width = image.shape[1:]
    multiple = max(1, round(preparation.get("ensure_multiple_of") or preparation.get("size_divisor") or 1))
    size = preparation.get("size") or {"height": height, "width": width}
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if "shortest_edge" in size:
        scale_y = scale_x = size["shortest_edge"] / min(height, width)
    else:
        scale_y, scale_x = size["height"] / height, size["width"] / width
    if preparation.get("keep_aspect_ratio"):
        scale_y = scale_x = min(scale_x, scale_y, key=lambda scale: abs(1 - scale))
    rows, columns = (max(1, round(side / multiple)) * multiple for side in (height * scale_y, width * scale_x))
    resized = F.interpolate(image[None], (rows, columns), mode="bicubic", antialias=True, align_corners=False)[0]
    if not preparation.get("do_normalize", "image_mean" in preparation):
        return resized.clamp(0, 1)
    mean, std = (image.new_tensor(preparation[name])[:, None, None] for name in ("image_mean", "image_std"))
    return (resized.clamp(0, 1) - mean) / std


def depth_from_relative_disparity(
    disparity: Float[Tensor, "h w"],
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Depth of median 1, and the sky, from a disparity of unknown scale whose 0 is infinitely far.

    The rule is in `TransformersDepth`.

    Raises:
        InputError: the disparity is nowhere positive.
    """
    near = float(np.quantile(disparity.cpu().numpy(), 0.98))
    if near <= 0:
        near = float(disparity.max())
    if near <= 0:
        raise InputError("the depth model sees nothing in this picture (its disparity is 0 everywhere); try another")
    relative = disparity / near
    sky = relative < _SKY_DISPARITY
    far = 1 / FAR_OVER_NEAR
    depth = 1 / (far + (1 - far) * relative)
    depth = depth * (_ARBITRARY_MEDIAN / depth[~sky].median())
    return torch.where(sky, torch.zeros_like(depth), depth), sky


def _kind(model: str, config: Any, reading: Reading | None) -> tuple[Reading, bool]:
    """Whether the model gives depth or disparity, and whether in metres."""
    model_type = str(getattr(config, "model_type", ""))
    stated = getattr(config, "depth_estimation_type", None)
    if model_type in _METRIC_MODEL_TYPES or stated == "metric":
        known: tuple[Reading, bool] | None = ("depth", True)
    elif model_type in _DISPARITY_MODEL_TYPES or stated == "relative":
        known = ("disparity", False)
    else:
        known = None
    if reading is not None:
        return known if known is not None and known[0] == reading else (reading, False)
    if known is None:
        raise InputError(
            f"--depth transformers:{model}: a model of type '{model_type}' may give depth (larger is farther) or "
            f"disparity (larger is nearer); say which with transformers:{model}@depth or transformers:{model}@disparity"
        )
    return known


def _central(focal: float, width: int, height: int) -> Float[Tensor, "3 3"]:
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def _unloadable(model: str, error: Exception) -> InputError:
    return InputError(
        f"--depth transformers:{model}: cannot be loaded ({type(error).__name__}); it is neither a local folder with "
        f"config.json, preprocessor_config.json and weights, nor reachable on the hub: check the name, "
        f"or download it once while connected"
    )
