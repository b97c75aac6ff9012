"""LPIPS: how different two pictures look, by the features of a network that was trained on something else.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018: AlexNet with the
linear layers of version 0.1. The weights are not part of the package and are never downloaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.evaluation.weight_files import Shapes, checked, fingerprint
from worldstereo.models.weight_files import SUFFIXES, read_weights

SMALLEST_SIDE = 31
"""Pixels; smaller pictures leave nothing for the deeper layers."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of values in [-1, 1]
_EPSILON = 1e-10
_BATCH = 8


@dataclass(frozen=True)
class _Layer:
    """A convolution of AlexNet, followed by a ReLU.

    Attributes:
        number: in torchvision's `features`.
        pooled: whether a 3×3 maximum with stride 2 comes before it.
    """

    number: int
    shape: tuple[int, int, int, int]
    stride: int
    padding: int
    pooled: bool


_LAYERS = (
    _Layer(0, (64, 3, 11, 11), 4, 2, False),
    _Layer(3, (192, 64, 5, 5), 1, 2, True),
    _Layer(6, (384, 192, 3, 3), 1, 1, True),
    _Layer(8, (256, 384, 3, 3), 1, 1, False),
    _Layer(10, (256, 256, 3, 3), 1, 1, False),
)


class PerceptualDistance:
    """LPIPS with AlexNet.

    Args:
        network: torchvision's AlexNet: `features.N.weight` and `.bias` of its five convolutions; others are left.
        linear: `linN.model.1.weight` of the five linear layers, each [1, channels, 1, 1].
        sources: of both, named in errors.
        device: where it runs.

    Raises:
        InputError: a tensor is missing or has another shape.
    """

    def __init__(
        self, network: dict[str, Tensor], linear: dict[str, Tensor], sources: tuple[Path, Path], device: str = "cpu"
    ) -> None:
        kernels: Shapes = {f"features.{layer.number}.weight": layer.shape for layer in _LAYERS}
        biases: Shapes = {f"features.{layer.number}.bias": layer.shape[:1] for layer in _LAYERS}
        lines: Shapes = {f"lin{k}.model.1.weight": (1, layer.shape[0], 1, 1) for k, layer in enumerate(_LAYERS)}
        network = checked(sources[0], network, {**kernels, **biases})
        linear = checked(sources[1], linear, lines)
        self.fingerprint = fingerprint(network | linear)
        self._kernels = [network[name].to(device) for name in kernels]
        self._biases = [network[name].to(device) for name in biases]
        self._linear = [linear[name].to(device) for name in lines]
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "PerceptualDistance":
        """Read `alexnet*.pth` (torchvision's) and `alex.pth` (the linear layers), or safetensors of these names.

        Raises:
            InputError: a file is missing or damaged, there are several, or a tensor is not what LPIPS needs.
        """
        sources = _only(folder, "alexnet*", "torchvision's AlexNet"), _only(folder, "alex", "LPIPS's linear layers")
        network, linear = (read_weights(source) for source in sources)
        return cls(network, linear, sources, device)

    def distances(self, pictures: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Of each pair; 0 for equal pictures.

        Args:
            pictures, truth: values in [0, 1].

        Raises:
            InputError: a side is shorter than `SMALLEST_SIDE`.
        """
        pairs = self._batches(pictures, truth)
        return torch.cat([torch.stack([each.mean(dim=(1, 2)) for each in maps]).sum(dim=0) for maps in pairs])

    def maps(self, pictures: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
        """Where pictures differ: each layer's distances drawn to the picture's size (bilinear), and summed.

        Their mean over a picture is its distance only about, as drawing weighs borders otherwise. What a pixel is
        told comes from up to 195 px around it.

        Raises:
            InputError: a side is shorter than `SMALLEST_SIDE`.
        """
        size = list(pictures.shape[-2:])
        summed = []
        for maps in self._batches(pictures, truth):
            drawn = [F.interpolate(each[:, None], size, mode="bilinear", align_corners=False) for each in maps]
            summed.append(torch.cat(drawn, dim=1).sum(dim=1))
        return torch.cat(summed)

    def masked(
        self, pictures: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"], mask: Bool[Tensor, "n h w"]
    ) -> float:
        """The mean of the maps over the pixels of a mask; NaN for an empty one."""
        return float(self.maps(pictures, truth)[mask].mean())

    @torch.no_grad()
    def _batches(self, pictures: Tensor, truth: Tensor) -> Iterator[Sequence[Float[Tensor, "b rows columns"]]]:
        """Distances of each layer, for a few pictures at a time."""
        height, width = pictures.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise InputError(f"LPIPS: pictures of {width}×{height} px are too small; give clips of at least 31 px")
        for ours, true in zip(pictures.split(_BATCH), truth.split(_BATCH), strict=True):
            both = zip(self._features(ours), self._features(true), self._linear, strict=True)
            yield [F.conv2d((a - b).square(), line)[:, 0].to(pictures.device) for a, b, line in both]

    def _features(self, pictures: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b c rows columns"]]:
        """Of each layer, at every place of length 1."""
        values = pictures.to(self._device, torch.float32) * 2 - 1
        shift, scale = (values.new_tensor(each)[:, None, None] for each in (_SHIFT, _SCALE))
        values = (values - shift) / scale
        for layer, kernel, bias in zip(_LAYERS, self._kernels, self._biases, strict=True):
            values = F.max_pool2d(values, 3, 2) if layer.pooled else values
            values = F.relu(F.conv2d(values, kernel, bias, layer.stride, layer.padding))
            yield values / (values.norm(dim=1, keepdim=True) + _EPSILON)


def _only(folder: Path, name: str, what: str) -> Path:
    """The one file of a name, whatever its suffix.

    Raises:
        InputError: there is none, or several.
    """
    found = sorted(path for suffix in SUFFIXES for path in folder.glob(name + suffix))
    if len(found) != 1:
        number = "several files" if found else "no file"
        raise InputError(f"--lpips-weights {folder}: has {number} {name}{{{','.join(SUFFIXES)}}} ({what}); give one")
    return found[0]
