"""Splats from frames with exact cameras: start on the cloud, then improve until they look like the frames."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.errors import InputError
from worldstereo.files import write_tensors
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splat_rasterizer import BLUR, composite_splats, render_splats
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.image_metrics import psnr_of_frames
from worldstereo.reconstruction.consistency import surface_normals
from worldstereo.reconstruction.fusion import FusedCloud
from worldstereo.reconstruction.splat_initialization import splats_from_cloud, splats_from_sky
from worldstereo.reconstruction.splat_losses import depth_loss, normal_loss, picture_loss, shape_loss
from worldstereo.reconstruction.splat_state import COLUMNS, SplatState
from worldstereo.reconstruction.splat_views import SplatViews

OnProgress = Callable[[str, float], None]
"""Called as (what is being done, share of the whole that is done in [0, 1])."""

_FORMAT = "worldstereo-splat-optimization-1"
_RATES = {"mean": 0.15, "scale": 0.04, "rotation": 0.02, "opacity": 0.05, "color": 0.01}
_LAST_RATE = 0.3
_EVERY = 100
_TELL_EVERY = 10
_DENSIFY_FROM, _DENSIFY_UNTIL = 0.15, 0.75
_START_SHARE = 0.7
_GROWTH = 0.1
_LEAST_PULL = 1e-4
_LEAST_OPACITY = 0.02
_MOST_RATIO = 5.0
_SKY_SHARE = 0.1
_CHUNK = 8


@dataclass(frozen=True)
class Stage:
    """Some steps against frames of 1 / `divisor` of their size."""

    divisor: int
    steps: int


@dataclass(frozen=True)
class SplatSettings:
    """How splats are optimised.

    Attributes:
        budget: splats at most, those of the sky apart (a tenth as many).
        stages: coarse to fine.
        held_out_every: every k-th frame is never trained on but measured; 0 for none.
        ssim, depth, normal, shape, sky: weights of the parts of the loss.
        seed: of all randomness.

    Raises:
        InputError: a value out of range.
    """

    budget: int = 100_000
    stages: tuple[Stage, ...] = (Stage(4, 300), Stage(2, 600), Stage(1, 100))
    held_out_every: int = 8
    ssim: float = 0.2
    depth: float = 0.2
    normal: float = 0.0
    shape: float = 0.01
    sky: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise InputError(f"the budget of {self.budget} splats must be positive")
        if not all(stage.divisor >= 1 and stage.steps >= 0 for stage in self.stages):
            raise InputError("the stages of the splats' optimisation need divisors of at least 1 and no negative steps")
        if self.held_out_every < 0 or self.held_out_every == 1:
            raise InputError(f"held_out_every is {self.held_out_every} but must be 0 (none) or at least 2")
        if self.seed < 0:
            raise InputError(f"the seed {self.seed} must not be negative")

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class SplatReport:
    """What came of it.

    Attributes:
        count: splats, those of the sky included.
        steps: of the optimisation.
        seconds: of this run; less than the whole if it went on from a checkpoint.
        held_out: numbers of the frames that were not trained on.
        psnr_before, psnr_after: mean over the held-out frames (over all frames if none), in dB.
    """

    count: int
    steps: int
    seconds: float
    held_out: tuple[int, ...]
    psnr_before: float
    psnr_after: float


def _silent(what: str, share: float) -> None:
    """Report nothing."""


def make_splats(
    views: SplatViews,
    cloud: FusedCloud,
    sky: PointCloud | None = None,
    settings: SplatSettings = SplatSettings(),
    on_progress: OnProgress = _silent,
    *,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[GaussianSplats, SplatReport]:
    """Splats that look like the frames.

    They start on the cloud (`splats_from_cloud`; the sky's on its sphere, where they stay) and are optimised frame by
    frame, in random order, coarse to fine: L1 + SSIM, relative depth, normals, round enough shapes, and no surface in
    front of known sky. While there is budget, splats are split or doubled where the picture pulls most at them; faint
    ones go (`SplatState`). The result is the same for the same input, settings and number of threads.

    On a coarse stage splats are blurred by 1 / divisor² of the usual, so that they stand for the same shapes.

    Args:
        views: frames, cameras, and what is known of their pixels.
        cloud: the surfaces.
        sky: points far behind everything.
        settings: budget, stages, weights.
        on_progress: told after every few steps.
        checkpoint: a file to go on from if it fits (it is ignored if it belongs to other input or settings), written
            every 100 steps, left behind at the end: delete it once the splats are stored.
        device: where to optimise; "cuda" takes the extra `cuda` (and has not yet been run by this project).

    Raises:
        InputError: no points, or a checkpoint that cannot be read or written.
    """
    start = time.perf_counter()
    held_out, trained = _split(len(views), settings.held_out_every)
    cameras = views.cameras.to("cpu")
    surface = splats_from_cloud(cloud, cameras, max(1, int(settings.budget * _START_SHARE)))
    none = PointCloud.empty()
    behind = splats_from_sky(none if sky is None else sky, cameras, max(1, int(settings.budget * _SKY_SHARE)))
    state, views = SplatState.of(surface, behind).to(device), views.to(device)
    judged = views.some(held_out or trained)
    before = _psnr(state.splats, judged)
    done, key = 0, "" if checkpoint is None else _key(views, state, settings)
    if checkpoint is not None and checkpoint.exists():
        done, state = _load(checkpoint, key, device) or (0, state)
    for stage, steps in _remaining(settings.stages, done):
        reduced, blur = views.reduced(stage.divisor), BLUR / stage.divisor**2
        for step in steps:
            state = _step(state, reduced, trained, blur, step, settings)
            count = step + 1
            if count % _EVERY == 0:
                state = _grown(state, count, settings)
                if checkpoint is not None:
                    write_tensors(checkpoint, state.tensors(), {"format": _FORMAT, "key": key, "done": str(count)})
            if count % _TELL_EVERY == 0:
                on_progress(f"splats: {len(state):,}, step {count} of {settings.steps}", count / settings.steps)
    splats = state.splats
    after = _psnr(splats, judged)
    report = SplatReport(
        count=len(splats),
        steps=settings.steps,
        seconds=time.perf_counter() - start,
        held_out=tuple(held_out),
        psnr_before=before,
        psnr_after=after,
    )
    return state.to("cpu").splats, report


def _remaining(stages: tuple[Stage, ...], done: int) -> Iterator[tuple[Stage, range]]:
    """The stages and their steps, numbered through, without the first `done`."""
    first = 0
    for stage in stages:
        steps = range(max(first, done), first + stage.steps)
        if steps:
            yield stage, steps
        first += stage.steps


def _split(count: int, every: int) -> tuple[list[int], list[int]]:
    """Frames held out (from the middle of each `every`), and the others; one frame is never held out."""
    held_out = [i for i in range(count) if every and i % every == every // 2]
    return held_out, [i for i in range(count) if i not in held_out]


def _step(
    state: SplatState, views: SplatViews, trained: list[int], blur: float, step: int, settings: SplatSettings
) -> SplatState:
    """One frame's gradient, one step of Adam."""
    epoch, place = divmod(step, len(trained))
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    frame = trained[int(torch.randperm(len(trained), generator=generator)[place])]
    table = state.table.detach().requires_grad_()
    loss, pixels, drawn = _loss(table, state, views, frame, blur, settings)
    gradient, pull = torch.autograd.grad(loss, [table, pixels])
    scale = max(views.cameras.width, views.cameras.height) / 2
    fade = _LAST_RATE ** (step / max(settings.steps, 1))
    rates = torch.cat([torch.full((n,), rate * fade) for n, rate in zip(COLUMNS, _RATES.values(), strict=True)])
    with torch.no_grad():
        return state.noted(pull.norm(dim=1) * scale, drawn).step(gradient, drawn, rates.to(table))


def _loss(
    table: Tensor,
    state: SplatState,
    views: SplatViews,
    frame: int,
    blur: float,
    settings: SplatSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a frame, the splats' pixels (whose gradient is the pull), and which splats were drawn."""
    camera = views.cameras[frame]
    mean, log_scale, rotation, opacity, color = table.split(COLUMNS, dim=1)
    surface = (~state.sky).to(table)[:, None]
    z = camera.project(mean)[1][0][:, None]
    values = [color, z * surface, surface]
    with_normals = settings.normal > 0 and views.depth is not None
    if with_normals:
        values.append(_normals(mean, log_scale, rotation, camera) * surface)
    image = composite_splats(
        mean, log_scale.exp(), rotation, opacity[:, 0].sigmoid(), torch.cat(values, dim=1), camera, blur=blur
    )
    size = image.coverage.shape
    weight = torch.ones(size).to(table) if views.weight is None else views.weight[frame]
    loss = picture_loss(image.values[:3], views.frames[frame], weight, settings.ssim)
    if views.depth is not None:
        loss = loss + settings.depth * depth_loss(image.values[3], image.values[4], views.depth[frame], weight)
        if with_normals:
            truth = surface_normals(views.depth[frame].cpu(), camera.to("cpu")).to(table)
            loss = loss + settings.normal * normal_loss(image.values[5:8], truth, weight)
    if views.sky is not None:
        loss = loss + settings.sky * (image.values[4] * views.sky[frame]).mean()
    loss = loss + settings.shape * shape_loss(log_scale, _MOST_RATIO)
    return loss, image.pixels, image.drawn


def _normals(mean: Tensor, log_scale: Tensor, rotation: Tensor, camera: Cameras) -> Float[Tensor, "n 3"]:
    """The splats' flattest directions, towards the camera."""
    axes = matrix_from_quaternion(rotation)
    flattest = log_scale.detach().argmin(dim=1)[:, None, None].expand(-1, 3, 1)
    normals = axes.gather(2, flattest)[..., 0]
    towards = ((camera.centers - mean.detach()) * normals.detach()).sum(dim=1, keepdim=True) >= 0
    return torch.where(towards, normals, -normals)


def _grown(state: SplatState, step: int, settings: SplatSettings) -> SplatState:
    """Faint splats removed; more where the picture pulls, in the middle of the optimisation, within the budget."""
    if not _DENSIFY_FROM <= step / settings.steps <= _DENSIFY_UNTIL:
        return state
    state = state.without_faint(_LEAST_OPACITY)
    count = int((~state.sky).sum())
    most = min(settings.budget - count, int(_GROWTH * settings.budget))
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + 500_009 + step)
    return state.densified(_LEAST_PULL, most, generator)


def _psnr(splats: GaussianSplats, views: SplatViews) -> float:
    values: list[float] = []
    for first in range(0, len(views), _CHUNK):
        some = slice(first, first + _CHUNK)
        values += psnr_of_frames(render_splats(splats, views.cameras[some]).rgb, views.frames[some])
    return sum(values) / len(values)


def _key(views: SplatViews, state: SplatState, settings: SplatSettings) -> str:
    """What a checkpoint belongs to."""
    digest = hashlib.sha256(repr(asdict(settings)).encode())
    known = (views.frames, views.cameras.cam_from_world, views.cameras.intrinsics, views.depth, views.weight, views.sky)
    for value in (*known, state.table):
        digest.update(b"none" if value is None else value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, key: str, device: torch.device | str) -> tuple[int, SplatState] | None:
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            if notes.get("format") != _FORMAT or notes.get("key") != key:
                return None
            state = SplatState(**{field.name: file.get_tensor(field.name) for field in fields(SplatState)})
            return int(notes["done"]), state.to(device)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint ({error}); delete it to start anew") from error
