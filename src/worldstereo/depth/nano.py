"""The depth network shipped with the package: relative depth of a picture, or completion of a partial depth."""

from dataclasses import dataclass
from importlib import resources
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldstereo.depth.base import DepthPrediction
from worldstereo.depth.upsampling import upsample_answers
from worldstereo.errors import InputError
from worldstereo.files import read_json
from worldstereo.models.depth_network import STRIDE, DepthNetwork, DepthNetworkConfig, assumed_rays, fill_unknown

WORKING_PIXELS = 192 * 144
"""About how many pixels the network sees by default: the size that it judges best (see its model card)."""

_SKY_LOGIT = -1.5
"""Logit from which a pixel is sky. The network is shy of real skies; between −1 and −2 it
calls 0.06 % to 0.25 % of indoor pixels sky, and finds about twice as much of the sky of photos as at 0."""


@dataclass(frozen=True)
class NanoDepth:
    """Depth by the nano network; see the model card beside its weights.

    Attributes:
        network: the network, ready for use.
        working_pixels: about how many pixels the network sees; the picture is reduced or enlarged to it.
    """

    network: DepthNetwork
    working_pixels: int = WORKING_PIXELS
    name: str = "nano"

    @classmethod
    def load(
        cls, folder: str | Path | None = None, device: str | torch.device = "cpu", working_pixels: int = WORKING_PIXELS
    ) -> "NanoDepth":
        """The shipped network, or the one in `folder` (`model.safetensors` and `config.json`).

        Raises:
            InputError: a file is missing, broken or of another network.
        """
        return cls(load_depth_network(folder, device), working_pixels)

    @torch.inference_mode()
    def estimate(
        self,
        image: Float[Tensor, "3 h w"],
        intrinsics: Float[Tensor, "3 3"] | None = None,
        hint: Float[Tensor, "h w"] | None = None,
    ) -> DepthPrediction:
        """Depth of `image` at its size.

        Without a hint the scale is arbitrary (the median is 1). With a hint the result has the hint's scale and
        equals the hint where it is given. Known `intrinsics` improve the shape. Sky has depth 0.
        """
        device, home = next(self.network.parameters()).device, image.device
        image = image.to(device, torch.float32)
        height, width = image.shape[1:]
        rows, columns = working_size(height, width, self.working_pixels)
        small = F.interpolate(image[None], size=(rows, columns), mode="bilinear", antialias=True, align_corners=False)
        small = small.clamp(0, 1)
        rays = _working_rays(intrinsics, width, height, columns, rows).to(device)
        hint = torch.zeros_like(image[0]) if hint is None else hint.to(device, torch.float32)
        hinted = bool((hint > 0).any())
        log_depth, sky_logit = self._answers(small[0], rays, reduce_hint(hint, rows, columns))
        full, sky_logit = upsample_answers(log_depth, sky_logit, image, small[0])
        sky = (sky_logit > _SKY_LOGIT) & (hint == 0)
        if hinted:
            full = _meet_hint(full, hint)
        elif not bool(sky.all()):
            full = full - full[~sky].median()
        depth = torch.where(sky, 0.0, full.exp())
        return DepthPrediction(depth.to(home), sky.to(home), intrinsics, metric=False, source=self.name)

    def _answers(
        self, image: Float[Tensor, "3 h w"], rays: Float[Tensor, "2 h w"], hint: Float[Tensor, "h w"]
    ) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """Mean of the network's answers to the picture and to its mirror image, with the hint and without.

        With scattered hints the answer with the hint is better, with a whole region missing the one without; its
        scale is set when it is made to meet the hint.
        """
        mirrored_rays = rays.flip(2) * rays.new_tensor([-1.0, 1.0])[:, None, None]
        hints = [hint, torch.zeros_like(hint)] if bool((hint > 0).any()) else [hint]
        log_depth, sky_logit = self.network(
            torch.stack([image, image.flip(2)] * len(hints)),
            torch.stack([rays, mirrored_rays] * len(hints)),
            torch.stack([h for one in hints for h in (one, one.flip(1))]),
        )
        log_depth[1::2], sky_logit[1::2] = log_depth[1::2].flip(2), sky_logit[1::2].flip(2)
        return log_depth.mean(dim=0), sky_logit.mean(dim=0)


def load_depth_network(folder: str | Path | None = None, device: str | torch.device = "cpu") -> DepthNetwork:
    """The network in `folder`, by default the shipped one, in float32 and evaluation mode.

    Raises:
        InputError: a file is missing, broken or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if folder is None:
        with resources.as_file(resources.files("worldstereo") / "weights" / "nano-depth") as shipped:
            return load_depth_network(shipped, device)
    folder = Path(folder)
    values = read_json(folder / "config.json")
    try:
        network = DepthNetwork(DepthNetworkConfig.from_dict(values["network"]))
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (InputError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
        raise InputError(f"{folder}: holds no weights of the nano depth network ({error})") from error
    return network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def working_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Rows and columns, multiples of 32, of about `pixels` in all and nearly the picture's aspect."""
    scale = sqrt(pixels / (height * width))
    rows = max(round(height * scale / STRIDE), 1) * STRIDE
    columns = max(round(width * rows / height / STRIDE), 1) * STRIDE
    if rows * columns > 2 * pixels:
        columns = max(pixels // rows // STRIDE, 1) * STRIDE
    return rows, columns


def reduce_hint(hint: Float[Tensor, "height width"], rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """The hint at the working size: the sample at the middle of each cell, or else the nearest surface in it."""
    height, width = hint.shape
    y = torch.arange(height, device=hint.device) * rows // height
    x = torch.arange(width, device=hint.device) * columns // width
    cell = (y[:, None] * columns + x[None]).flatten()
    inverse = torch.where(hint > 0, 1 / hint.clamp(min=1e-12), 0.0).flatten()
    nearest = torch.zeros(rows * columns, device=hint.device).scatter_reduce(0, cell, inverse, "amax")
    nearest = torch.where(nearest > 0, 1 / nearest.clamp(min=1e-12), 0.0).view(rows, columns)
    middle = F.interpolate(hint[None, None], size=(rows, columns), mode="nearest-exact")[0, 0]
    return torch.where(middle > 0, middle, nearest)


def _meet_hint(log_depth: Float[Tensor, "h w"], hint: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Spread the log-ratio of hint and prediction from the hinted pixels to their surroundings."""
    known = hint > 0
    ratio = torch.where(known, hint.clamp(min=1e-12).log() - log_depth, 0.0)
    return log_depth + fill_unknown(ratio[None], known[None])[0]


def _working_rays(
    intrinsics: Float[Tensor, "3 3"] | None, width: int, height: int, columns: int, rows: int
) -> Float[Tensor, "2 rows columns"]:
    """Rays of the working pixels; of the assumed camera where none is given."""
    if intrinsics is None:
        rays = assumed_rays(width, height)
        return F.interpolate(rays[None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
    k = intrinsics.float().cpu()
    x = ((torch.arange(columns) + 0.5) * width / columns - k[0, 2]) / k[0, 0]
    y = ((torch.arange(rows) + 0.5) * height / rows - k[1, 2]) / k[1, 1]
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)])
