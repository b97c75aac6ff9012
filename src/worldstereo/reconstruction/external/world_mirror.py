"""WorldMirror (HunyuanWorld-Mirror, version 1; Tencent Hunyuan, 2025)."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.reconstruction.external.frame_size import fit_network
from worldstereo.reconstruction.external.packages import licence_of, load_network, missing_package
from worldstereo.reconstruction.external.poses import inverted
from worldstereo.reconstruction.external.protocol import ExternalViews

_LICENCES = {
    "tencent/HunyuanWorld-Mirror": "the Tencent HunyuanWorld-Mirror Community Licence "
    "(not granted in the EU, the UK and South Korea; read it before use)",
}
_HOW = "clone github.com/Tencent-Hunyuan/HunyuanWorld-Mirror, which is no package, and put its folder on PYTHONPATH"
_LONG_SIDE, _PATCH = 518, 14
_POSES_AND_INTRINSICS = [1, 0, 1]
_LEAST_CONFIDENT = 0.1


class WorldMirrorViews:
    """WorldMirror by its own repository, with our exact poses and intrinsics as priors.

    Written against version 1 of github.com/Tencent-Hunyuan/HunyuanWorld-Mirror, its README as of commit 26531e9 (April
    2026): `src.models.models.worldmirror.WorldMirror`, called with `views` of `img [1, n, 3, h, w]` in [0, 1] (sides
    multiples of 14, the longer one 518), `camera_poses [1, n, 4, 4]` camera-to-world (OpenCV) and `camera_intrs
    [1, n, 3, 3]` in pixels of `img`, and `cond_flags` for [poses, depth, intrinsics]; keys of other names are ignored
    silently (issue 32 there). It gives `depth [1, n, h, w, 1]` (z-depth), `depth_conf [1, n, h, w]` and `camera_poses`
    camera-to-world, in a scale of its own even with priors (issue 14). The heads for points, normals and Gaussians
    are not loaded.

    Poses are given relative to the first frame, as its authors do. The least confident tenth of each frame is unknown,
    as in its authors' demo.

    Args:
        model: a hub id or a local folder.
        device: where it runs; bfloat16 on CUDA.

    Raises:
        InputError: the repository is not on the path, or the model cannot be loaded.
    """

    most_frames = 32

    def __init__(self, model: str, device: str) -> None:
        self.name = f"world-mirror:{model}"
        self.licence = licence_of(model, _LICENCES)
        try:
            from src.models.models.worldmirror import WorldMirror
        except ImportError as error:
            raise missing_package(self.name, "src.models.models.worldmirror", _HOW, error) from None
        self._device = torch.device(device)
        self._network = load_network(
            self.name,
            lambda: WorldMirror.from_pretrained(model, enable_pts=False, enable_norm=False, enable_gs=False).to(device),
        )

    @torch.no_grad()
    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass."""
        pictures, seen = fit_network(images, cameras, long_side=_LONG_SIDE, multiple=_PATCH)
        given = {
            "img": pictures[None].to(self._device),
            "camera_poses": (seen.cam_from_world[:1] @ seen.world_from_cam)[None].to(self._device),
            "camera_intrs": seen.intrinsics[None].to(self._device),
        }
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            found = self._network(views=given, cond_flags=_POSES_AND_INTRINSICS)
        depth, confidence = found["depth"][0, ..., 0].float().cpu(), found["depth_conf"][0].float().cpu()
        least = confidence.flatten(1).quantile(_LEAST_CONFIDENT, dim=1)[:, None, None]
        return ExternalViews(torch.where(confidence >= least, depth, 0.0), inverted(found["camera_poses"][0]))
