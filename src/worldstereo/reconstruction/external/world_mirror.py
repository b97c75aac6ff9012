"""WorldMirror (Tencent Hunyuan): version 1 (HunyuanWorld-Mirror, 2025) and 2.0 (of HY-World 2.0, 2026)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.reconstruction.external.frame_size import fit_network
from worldstereo.reconstruction.external.packages import licence_of, load_network, missing_package
from worldstereo.reconstruction.external.poses import inverted
from worldstereo.reconstruction.external.protocol import ExternalViews

_NOT_GRANTED = "(not granted in the EU, the UK and South Korea; read it before use)"
_LICENCES = {
    "tencent/HunyuanWorld-Mirror": f"the Tencent HunyuanWorld-Mirror Community Licence {_NOT_GRANTED}",
    "tencent/HY-World-2.0": f"the Tencent HY-WORLD 2.0 Community Licence {_NOT_GRANTED}",
}
_HOW = "clone github.com/Tencent-Hunyuan/{}, which is no package, and put its folder on PYTHONPATH"
_PATCH = 14
_LONG_SIDE, _LONG_SIDE_2 = 518, 826
_POSES_AND_INTRINSICS = [1, 0, 1]
_LEAST_CONFIDENT = 0.1
_LEAST_VALID = 0.45


class _WorldMirror:
    """What both versions share: how the network is called, and what it gives.

    It is called with `views` of `img [1, n, 3, h, w]` in [0, 1] (sides multiples of 14), `camera_poses [1, n, 4, 4]`
    camera-to-world (OpenCV) and `camera_intrs [1, n, 3, 3]` in pixels of `img`, and `cond_flags` for [poses, depth,
    intrinsics]; keys of other names are ignored silently (issue 32 of version 1). It gives `depth [1, n, h, w, 1]`
    (z-depth), `depth_conf [1, n, h, w]` and `camera_poses` camera-to-world, in a scale of its own even with priors
    (issue 14 of version 1); version 2 also `depth_mask [1, n, h, w]`, the probability that a pixel has a depth, which
    sky has not.

    Poses are given relative to the first frame, as its authors do.
    """

    most_frames = 32

    def __init__(
        self, name: str, model: str, device: str, load: Callable[[], Any], long_side: Callable[[Cameras], int]
    ) -> None:
        """
        Args:
            load: makes the network.
            long_side: of the frames that the network is given, in pixels, from the cameras of those at hand.
        """
        self.name, self._long_side = name, long_side
        self.licence = licence_of(model, _LICENCES)
        self._device = torch.device(device)
        self._network = load_network(name, load)

    @torch.no_grad()
    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass."""
        pictures, seen = fit_network(images, cameras, long_side=self._long_side(cameras), multiple=_PATCH)
        given = {
            "img": pictures[None].to(self._device),
            "camera_poses": (seen.cam_from_world[:1] @ seen.world_from_cam)[None].to(self._device),
            "camera_intrs": seen.intrinsics[None].to(self._device),
        }
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            found = self._network(views=given, cond_flags=_POSES_AND_INTRINSICS)
        depth = torch.where(_known(found), found["depth"][0, ..., 0].float(), 0.0)
        return ExternalViews(depth.cpu(), inverted(found["camera_poses"][0]))


def _known(found: dict[str, Tensor]) -> Bool[Tensor, "n h w"]:
    """All but the least confident tenth of each frame, and what is probably no depth at all."""
    confidence = found["depth_conf"][0].float()
    least = confidence.flatten(1).quantile(_LEAST_CONFIDENT, dim=1)[:, None, None]
    known = confidence >= least
    return known & (found["depth_mask"][0] > _LEAST_VALID) if "depth_mask" in found else known


class WorldMirrorViews(_WorldMirror):
    """WorldMirror, version 1, by its own repository, with our exact poses and intrinsics as priors.

    Written against version 1 of github.com/Tencent-Hunyuan/HunyuanWorld-Mirror, its README as of commit 26531e9 (April
    2026): `src.models.models.worldmirror.WorldMirror`, called with pictures whose longer side is 518. The heads for
    points, normals and Gaussians are not loaded.

    The least confident tenth of each frame is unknown, as in its authors' demo.

    Args:
        model: a hub id or a local folder.
        device: where it runs; bfloat16 on CUDA.

    Raises:
        InputError: the repository is not on the path, or the model cannot be loaded.
    """

    def __init__(self, model: str, device: str) -> None:
        name = f"world-mirror:{model}"
        try:
            from src.models.models.worldmirror import WorldMirror
        except ImportError as error:
            how = _HOW.format("HunyuanWorld-Mirror")
            raise missing_package(name, "src.models.models.worldmirror", how, error) from None
        heads = {"enable_pts": False, "enable_norm": False, "enable_gs": False}
        load = WorldMirror.from_pretrained
        super().__init__(name, model, device, lambda: load(model, **heads).to(device), lambda cameras: _LONG_SIDE)


class WorldMirror2Views(_WorldMirror):
    """WorldMirror 2.0 by its own repository, with our exact poses and intrinsics as priors.

    Written against github.com/Tencent-Hunyuan/HY-World-2.0 as of commit 5fe1ab1 (2026):
    `hyworld2.worldrecon.pipeline.WorldMirrorPipeline.from_pretrained` finds the network in the model's folder
    HY-WorldMirror-2.0 and takes away the heads for points, normals and Gaussians. Its `model` is called directly, since
    the pipeline itself reads and writes files.

    Frames keep their size, rounded to multiples of 14, up to a longer side of 826: the network was trained with 50 000
    to 500 000 pixels, its authors never enlarge, and take at most 832 for frames that WorldStereo generated.

    The least confident tenth of each frame is unknown (the pipeline's own share, where it is asked to filter by
    confidence), and what the network finds valid with a probability of 0.45 or less (the pipeline's threshold).

    Args:
        model: a hub id or a local folder.
        device: where it runs; bfloat16 on CUDA. It is loaded through the first CUDA device if there is one.

    Raises:
        InputError: the repository is not on the path, or the model cannot be loaded.
    """

    def __init__(self, model: str, device: str) -> None:
        name = f"world-mirror-2:{model}"
        try:
            from hyworld2.worldrecon.pipeline import WorldMirrorPipeline
        except ImportError as error:
            raise missing_package(name, "hyworld2.worldrecon", _HOW.format("HY-World-2.0"), error) from None
        load, heads = WorldMirrorPipeline.from_pretrained, ["points", "normal", "gs"]
        super().__init__(name, model, device, lambda: load(model, disable_heads=heads).model.to(device), _own_size)


def _own_size(cameras: Cameras) -> int:
    return min(_LONG_SIDE_2, max(cameras.height, cameras.width) // _PATCH * _PATCH)
