"""Drawing three-dimensional Gaussians, with gradients: elliptical weighted averages, composited near to far."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.rasterizer import for_each_camera
from worldstereo.geometry.splats import GaussianSplats

BLUR = 0.3
"""Variance in square pixels that is added to every splat's image, as by 3D Gaussian Splatting."""

NEAREST_Z = 0.01
"""Splats whose centre is nearer to the camera, in world units, are not drawn."""

_CHUNKS_PER_THREAD = 4  # tiles differ in work


@dataclass(frozen=True)
class SplatImage:
    """Splats seen by one camera.

    Attributes:
        values: weighted sums of the splats' values over what lies before the background, Σ wᵢ vᵢ.
        coverage: Σ wᵢ, in [0, 1).
        pixels: where the centres are projected; meaningless for splats that are not drawn. Its gradient, after
            `pixels.retain_grad()` and a backward pass, tells how much the picture wants to be finer.
        drawn: which splats may have counted.
    """

    values: Float[Tensor, "c h w"]
    coverage: Float[Tensor, "h w"]
    pixels: Float[Tensor, "n 2"]
    drawn: Bool[Tensor, " n"]


@dataclass(frozen=True)
class SplatRender:
    """Splats seen by cameras.

    Attributes:
        rgb: colours in [0, 1], over the background.
        coverage: how much of a pixel the splats cover, in [0, 1).
        depth: expected z-depth Σ wᵢ zᵢ / Σ wᵢ; 0 where less than half of a pixel is covered.
    """

    rgb: Float[Tensor, "f 3 h w"]
    coverage: Float[Tensor, "f h w"]
    depth: Float[Tensor, "f h w"]


def composite_splats(
    means: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 3"],
    rotations: Float[Tensor, "n 4"],
    opacities: Float[Tensor, " n"],
    values: Float[Tensor, "n c"],
    camera: Cameras,
    *,
    blur: float = BLUR,
) -> SplatImage:
    """Composite values of Gaussians near to far; gradients reach all five tensors.

    The covariance of a splat's image is J W Σ Wᵀ Jᵀ + `blur` I, J the derivative of the projection at the centre (held
    within 15 % of the image's size outside the image). At a pixel's centre x (at +0.5) its alpha is
    min(0.999, o exp(-½ (x - u)ᵀ Q (x - u))), Q the covariance's inverse; below 1/255 it does not count. Splats are
    taken in the order of the z-depth of their centres (equal: in their own order), each with the weight alpha times
    what shines through those before it; where one would leave no more than 1e-4 of that, it and all behind it are left
    out. Splats nearer than `NEAREST_Z` are not drawn. These are the semantics of gsplat and of 3D Gaussian Splatting
    (Kerbl et al., SIGGRAPH 2023; whose cap is 0.99).

    CPU tensors take compiled loops, float32, the same bytes whatever the number of threads; CUDA tensors take gsplat
    (extra `cuda`), which this project has not yet run. Time O(n + pairs of splat and 16×16 tile × c), memory 4 (6 + c)
    bytes a pair for gradients.

    Args:
        means, scales, rotations, opacities: as in `GaussianSplats`; the quaternions may have any length.
        values: what to composite: colours, depths, normals.
        camera: one view.
        blur: as if the picture had been blurred with this variance in square pixels.

    Raises:
        InputError: there is not one camera, or the tensors' device has no rasteriser.
    """
    if len(camera) != 1:
        raise InputError(f"splats are composited for one camera at a time, but {len(camera)} were given")
    device = means.device.type
    if device == "cuda":
        from worldstereo.geometry.splat_rasterizer_gsplat import composite_with_gsplat

        return composite_with_gsplat(means, scales, rotations, opacities, values, camera, blur=blur)
    if device != "cpu":
        raise InputError(f"splats can be drawn on the CPU or on CUDA, not on {device}")
    return _composite_on_cpu(means, scales, rotations, opacities, values, camera, blur, available_threads())


def render_splats(
    splats: GaussianSplats, cameras: Cameras, *, background: Float[Tensor, "3"] | None = None, blur: float = BLUR
) -> SplatRender:
    """Pictures, coverage and depth, without gradients (`composite_splats` says how they are drawn).

    Args:
        splats: to draw.
        cameras: the views; on the CPU several are drawn at once.
        background: RGB of what the splats leave uncovered; black if not given.
        blur: as in `composite_splats`.
    """
    frames, height, width = len(cameras), cameras.height, cameras.width
    device = splats.means.device
    rgb = torch.empty(frames, 3, height, width, device=device)
    coverage, depth = (torch.empty(frames, height, width, device=device) for _ in range(2))
    behind = torch.zeros(3, device=device) if background is None else background.to(device)

    def render_one(f: int) -> None:
        camera = cameras[f]
        z = camera.project(splats.means)[1][0]
        values = torch.cat([splats.colors, z[:, None]], dim=1)
        with torch.no_grad():
            if device.type == "cpu":
                shape = (splats.means, splats.scales, splats.rotations, splats.opacities)
                image = _composite_on_cpu(*shape, values, camera, blur, threads=1)
            else:
                image = composite_splats(
                    splats.means, splats.scales, splats.rotations, splats.opacities, values, camera, blur=blur
                )
        rgb[f] = (image.values[:3] + (1 - image.coverage) * behind[:, None, None]).clamp(0, 1)
        coverage[f] = image.coverage
        depth[f] = torch.where(image.coverage > 0.5, image.values[3] / image.coverage.clamp(min=0.5), 0.0)

    if device.type == "cpu":
        for_each_camera(render_one, frames, _WORKSPACE_PER_SPLAT * len(splats))
    else:
        for f in range(frames):
            render_one(f)
    return SplatRender(rgb, coverage, depth)


_WORKSPACE_PER_SPLAT = 8  # of a rendered splat in units of a point's, which `for_each_camera` counts in


def available_threads() -> int:
    """How many threads loops on the CPU may take."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


def _composite_on_cpu(
    means: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    values: Tensor,
    camera: Cameras,
    blur: float,
    threads: int,
) -> SplatImage:
    pixels, conics, depths = _Projection.apply(means, scales, rotations, camera, blur, threads)
    out, coverage, drawn = _Compositing.apply(pixels, conics, depths, opacities, values, camera, threads)
    return SplatImage(out, coverage, pixels, drawn)


class _Projection(torch.autograd.Function):
    """Centres in pixels [n,2], conics [n,3] and, without gradient, depths [n] (0 = not drawn)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        from worldstereo.geometry import splat_kernels as kernels

        *tensors, camera, blur, threads = inputs
        shape = [_array(tensor) for tensor in tensors]
        view = (_array(camera.cam_from_world[0]), _array(camera.intrinsics[0]))
        size = (np.float32(camera.width), np.float32(camera.height))
        n = len(shape[0])
        pixels, conics, depths = np.empty((n, 2), np.float32), np.empty((n, 3), np.float32), np.empty(n, np.float32)
        options = (np.float32(blur), np.float32(NEAREST_Z))

        def work(first: int, last: int) -> None:
            kernels.project(first, last, *shape, *view, *size, *options, pixels, conics, depths)

        _share_out(work, np.linspace(0, n, threads + 1).astype(int), threads)
        ctx.saved = (shape, view, size, conics, depths, threads)
        order = torch.from_numpy(depths)
        ctx.mark_non_differentiable(order)
        return torch.from_numpy(pixels), torch.from_numpy(conics), order

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        from worldstereo.geometry import splat_kernels as kernels

        shape, view, size, conics, depths, threads = ctx.saved
        to_pixels, to_conics = (_array(gradient) for gradient in upstream[:2])
        results = [np.empty_like(value) for value in shape]

        def work(first: int, last: int) -> None:
            kernels.project_backward(first, last, *shape, *view, *size, conics, depths, to_pixels, to_conics, *results)

        _share_out(work, np.linspace(0, len(depths), threads + 1).astype(int), threads)
        return (*(torch.from_numpy(result) for result in results), None, None, None)


class _Compositing(torch.autograd.Function):
    """Values [c,h,w], coverage [h,w] and, without gradient, which splats were drawn [n]."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        from worldstereo.geometry import rasterizer_kernels
        from worldstereo.geometry import splat_kernels as kernels

        *tensors, camera, threads = inputs
        pixels, conics, depths, opacities, values = (_array(tensor) for tensor in tensors)
        width, height = camera.width, camera.height
        columns, rows = -(-width // kernels.TILE), -(-height // kernels.TILE)
        index = kernels.drawn_splats(pixels, conics, depths, opacities, width, height)
        index = index[rasterizer_kernels.stable_depth_order(depths[index])]
        packed, packed_values, boxes = kernels.packed_splats(index, pixels, conics, opacities, values, width, height)
        start, ranks = kernels.tile_lists(boxes, columns, rows)
        out = np.empty((values.shape[1], height, width), np.float32)
        coverage = np.empty((height, width), np.float32)
        lists = (start, ranks, packed, packed_values)

        def work(first: int, last: int) -> None:
            kernels.composite(first, last, *lists, out, coverage)

        _share_out(work, _tile_borders(start, threads), threads)
        drawn = torch.zeros(len(depths), dtype=torch.bool)
        drawn[torch.from_numpy(index).long()] = True
        ctx.saved = (lists, index, out, coverage, len(depths), threads)
        ctx.mark_non_differentiable(drawn)
        return torch.from_numpy(out), torch.from_numpy(coverage), drawn

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        from worldstereo.geometry import splat_kernels as kernels

        lists, index, out, coverage, n, threads = ctx.saved
        start, ranks = lists[:2]
        to_out, to_coverage = (_array(gradient) for gradient in upstream[:2])
        channels = len(out)
        gradients = np.empty((len(ranks), kernels.SHAPE_GRADIENTS + channels), np.float32)

        def work(first: int, last: int) -> None:
            kernels.composite_backward(first, last, *lists, out, coverage, to_out, to_coverage, gradients)

        _share_out(work, _tile_borders(start, threads), threads)
        results = [np.zeros(size, np.float32) for size in ((n, 2), (n, 3), (n,), (n, channels))]
        kernels.sum_pairs(ranks, gradients, index, *results)
        to_pixels, to_conics, to_opacities, to_values = (torch.from_numpy(result) for result in results)
        return to_pixels, to_conics, None, to_opacities, to_values, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def _tile_borders(start: np.ndarray, threads: int) -> np.ndarray:
    """Where to cut the tiles so that the parts have about as many pairs."""
    parts = threads * _CHUNKS_PER_THREAD if threads > 1 else 1
    borders = np.searchsorted(start, np.linspace(0, start[-1], parts + 1))
    borders[0], borders[-1] = 0, len(start) - 1
    return borders


def _share_out(work: Callable[[int, int], None], borders: np.ndarray, threads: int) -> None:
    """Run `work(first, last)` for all parts, in threads."""
    parts = [(int(first), int(last)) for first, last in pairwise(borders) if first < last]
    if threads == 1:
        for part in parts:
            work(*part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: work(*part), parts))
