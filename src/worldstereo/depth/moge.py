"""MoGe: metric point maps with a mask and intrinsics (Wang et al., arXiv 2410.19115 and 2507.02546)."""

from math import atan, degrees
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.depth.base import DepthPrediction
from worldstereo.errors import InputError

DEFAULT_MODEL = "Ruicheng/moge-2-vitl-normal"
INSTALL = "pip install git+https://github.com/microsoft/MoGe.git"


class MoGeDepth:
    """MoGe version 2 through its package `moge`, which is not a dependency of this one.

    Args:
        model: a hub id, or the path of a checkpoint file.
        device: where it runs.

    Raises:
        InputError: the package is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_MODEL, device: str = "cpu") -> None:
        try:
            from moge.model.v2 import MoGeModel
        except ImportError as error:
            raise InputError(f"--depth moge needs the package 'moge' ({error}); install it with: {INSTALL}") from error
        try:
            network = MoGeModel.from_pretrained(model)
        except Exception as error:  # hub, network and checkpoint errors share no base class
            raise InputError(
                f"--depth moge:{model}: cannot be loaded ({type(error).__name__}); "
                f"check the name, connect to the internet once, or give the path of a downloaded model.pt"
            ) from error
        self.name = "moge" if model == DEFAULT_MODEL else f"moge:{model}"
        self._model = model
        self._device = device
        self._network: Any = network.to(device).eval()

    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """Depth and intrinsics of `image`; outside MoGe's mask is sky. Given intrinsics fix the field of view."""
        height, width = image.shape[1:]
        fov_x = None if intrinsics is None else degrees(2 * atan(width / 2 / float(intrinsics[0, 0])))
        # half precision is far slower than single on CPUs
        result = self._network.infer(image.to(self._device), fov_x=fov_x, use_fp16=self._device.startswith("cuda"))
        raw = result["depth"].to(image.device, torch.float32)
        surface = result["mask"].to(image.device) if "mask" in result else torch.isfinite(raw)
        valid = surface & torch.isfinite(raw) & (raw > 0)
        found = result["intrinsics"].to(image.device, torch.float32)
        pixels = found * found.new_tensor([width, height, 1.0])[:, None]
        return DepthPrediction(
            depth=torch.where(valid, raw, torch.zeros_like(raw)),
            sky=~surface,
            intrinsics=pixels,
            metric=hasattr(self._network, "scale_head"),
            source=f"MoGe ({self._model})",
        )
