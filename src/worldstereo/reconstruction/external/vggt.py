"""VGGT (Wang et al., CVPR 2025, arXiv 2503.11651)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.reconstruction.external.frame_size import fit_network
from worldstereo.reconstruction.external.packages import licence_of, load_network, missing_package
from worldstereo.reconstruction.external.poses import with_last_row
from worldstereo.reconstruction.external.protocol import ExternalViews

_LICENCES = {
    "facebook/VGGT-1B": "CC BY-NC 4.0 (facebook/VGGT-1B-Commercial may be used commercially)",
    "facebook/VGGT-1B-Commercial": "the VGGT licence (commercial use allowed, military use not)",
}
_HOW = "install it from its authors' repository, github.com/facebookresearch/vggt"
_LONG_SIDE, _PATCH = 518, 14
_LEAST_CONFIDENCE = 1.5


class VGGTViews:
    """VGGT by its own package. It takes pictures alone, no cameras.

    Written against github.com/facebookresearch/vggt as of its README of commit 2494ff7 and the heads' switches that
    its main branch got in 2025: `vggt.models.vggt.VGGT`, called with pictures `[1, n, 3, h, w]` in [0, 1] (sides
    multiples of 14, the longer one 518; it normalises them itself), gives `depth [1, n, h, w, 1]` (z-depth of arbitrary
    scale), `depth_conf [1, n, h, w]` (1 and more) and `pose_enc [1, n, 9]`, which
    `vggt.utils.pose_enc.pose_encoding_to_extri_intri` turns into camera-from-world poses `[1, n, 3, 4]`, OpenCV. The
    heads for points and tracks are not loaded.

    Pixels of a confidence below 1.5 are unknown, the lower end of what its authors recommend (issue 74 of their
    repository).

    Args:
        model: a hub id or a local folder.
        device: where it runs; bfloat16 on CUDA.

    Raises:
        InputError: the package is missing, or the model cannot be loaded.
    """

    most_frames = 64

    def __init__(self, model: str, device: str) -> None:
        self.name = f"vggt:{model}"
        self.licence = licence_of(model, _LICENCES)
        try:
            from vggt.models.vggt import VGGT
            from vggt.utils.pose_enc import pose_encoding_to_extri_intri
        except ImportError as error:
            raise missing_package(self.name, "vggt", _HOW, error) from None
        self._device = torch.device(device)
        self._decode: Any = pose_encoding_to_extri_intri
        self._network = load_network(
            self.name, lambda: VGGT.from_pretrained(model, enable_point=False, enable_track=False).to(device)
        )

    @torch.no_grad()
    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass; the cameras only give the size."""
        pictures, _ = fit_network(images, cameras, long_side=_LONG_SIDE, multiple=_PATCH)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            found = self._network(pictures[None].to(self._device))
        poses, _ = self._decode(found["pose_enc"].float(), pictures.shape[-2:])
        depth = torch.where(found["depth_conf"][0] >= _LEAST_CONFIDENCE, found["depth"][0, ..., 0], 0.0)
        return ExternalViews(depth.float().cpu(), with_last_row(poses[0]))
