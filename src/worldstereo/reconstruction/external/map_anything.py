"""MapAnything (Keetha et al., arXiv 2509.13414)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from worldstereo.cameras import Cameras
from worldstereo.reconstruction.external.frame_size import fit_network
from worldstereo.reconstruction.external.packages import licence_of, load_network, missing_package
from worldstereo.reconstruction.external.poses import inverted
from worldstereo.reconstruction.external.protocol import ExternalViews

_LICENCES = {
    "facebook/map-anything-apache": "Apache-2.0",
    "facebook/map-anything": "CC BY-NC 4.0 (facebook/map-anything-apache is Apache-2.0)",
}
_HOW = "install it from its authors' repository, github.com/facebookresearch/map-anything"
_LONG_SIDE, _PATCH = 518, 14
_NORMALISATION = "dinov2"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MapAnythingViews:
    """MapAnything by its own package, with our exact rays and poses as input.

    Written against `mapanything.models.MapAnything.infer` of github.com/facebookresearch/map-anything as of commit
    f7ebafb (March 2026), with keywords that its first version has too: a list of views with `img [1, 3, h, w]`
    normalised as `data_norm_type` says, `ray_directions [1, h, w, 3]` in camera axes, `camera_poses [1, 4, 4]`
    camera-to-world (OpenCV) and `is_metric_scale [1]`; it refuses keys that it does not know. It gives each view's
    `depth_z [1, h, w, 1]`, 0 where its mask says that nothing certain is seen, and `camera_poses`, both in its own
    guess of metres.

    Rays are given instead of intrinsics because it would take pixel centres at whole numbers, half a pixel off ours.
    Our unit need not be the metre, so poses are given without their scale.

    Args:
        model: a hub id or a local folder.
        device: where it runs; bfloat16 on CUDA.

    Raises:
        InputError: the package is missing, or the model cannot be loaded.
    """

    most_frames = 100

    def __init__(self, model: str, device: str) -> None:
        self.name = f"map-anything:{model}"
        self.licence = licence_of(model, _LICENCES)
        try:
            from mapanything.models import MapAnything
        except ImportError as error:
            raise missing_package(self.name, "mapanything", _HOW, error) from None
        self._device = torch.device(device)
        self._network = load_network(self.name, lambda: MapAnything.from_pretrained(model).to(device))

    def views(self, images: Float[Tensor, "n 3 h w"], cameras: Cameras) -> ExternalViews:
        """All frames in one pass, the dense head in smaller batches."""
        pictures, seen = fit_network(images, cameras, long_side=_LONG_SIDE, multiple=_PATCH)
        mean, deviation = (pictures.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        rays = normalize(seen.pixel_rays(), dim=-1)
        given = [
            {
                "img": picture[None].to(self._device),
                "data_norm_type": [_NORMALISATION],
                "ray_directions": ray[None].to(self._device),
                "camera_poses": pose[None].to(self._device),
                "is_metric_scale": torch.zeros(1, dtype=torch.bool, device=self._device),
            }
            for picture, ray, pose in zip((pictures - mean) / deviation, rays, seen.world_from_cam, strict=True)
        ]
        found = self._network.infer(
            given, memory_efficient_inference=True, use_amp=self._device.type == "cuda", apply_mask=True
        )
        depth = torch.stack([view["depth_z"][0, ..., 0].float().cpu() for view in found])
        return ExternalViews(depth, inverted(torch.stack([view["camera_poses"][0] for view in found])))
