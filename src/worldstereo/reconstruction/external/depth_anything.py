"""Depth Anything 3 (Lin et al., arXiv 2511.10647)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.reconstruction.external.packages import load_network, missing_package
from worldstereo.reconstruction.external.poses import with_last_row
from worldstereo.reconstruction.external.protocol import ExternalViews

_HOW = "install it from its authors' repository, github.com/ByteDance-Seed/Depth-Anything-3"


class DepthAnything3Views:
    """Depth Anything 3 by its own package, with our cameras as input.

    Written against `depth_anything_3.api.DepthAnything3.inference` of github.com/ByteDance-Seed/Depth-Anything-3 as of
    December 2025: 8-bit pictures, `extrinsics` as world-to-camera 4×4 (OpenCV), `intrinsics` in pixels of the
    pictures; it resizes them itself, without cropping (`process_res_method="upper_bound_resize"`), and gives z-depth
    `[n, h, w]` and world-to-camera poses `[n, 3, 4]`.

    Args:
        model: a hub id or a local folder.
        device: where it runs.

    Raises:
        InputError: the package is missing, or the model cannot be loaded.
    """

    licence = "Apache-2.0 (small, base, metric) or CC BY-NC 4.0 (large, giant, nested); see the model's card"
    most_frames = 64

    def __init__(self, model: str, device: str) -> None:
        self.name = f"da3:{model}"
        try:
            from depth_anything_3.api import DepthAnything3
        except ImportError as error:
            raise missing_package(self.name, "depth_anything_3", _HOW, error) from None
        self._network = load_network(self.name, lambda: DepthAnything3.from_pretrained(model).to(device))

    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass."""
        pictures = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        found = self._network.inference(
            list(pictures),
            extrinsics=cameras.cam_from_world.cpu().numpy(),
            intrinsics=cameras.intrinsics.cpu().numpy(),
        )
        return ExternalViews(_tensor(found.depth), with_last_row(_tensor(found.extrinsics)))


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values)).float()
