"""Equirectangular panoramas and rigs of perspective cameras at their centre.

A panorama is `height` × `width` with width = 2 · height. The centre of column `u` looks at the azimuth
`(u + 0.5) / width · 2π − π` (0 is forward, +z; right, +x, is positive), the centre of row `v` at the elevation
`π/2 − (v + 0.5) / height · π` (up, −y, is positive). The panorama's axes are OpenCV's, its centre is the origin.
"""

from collections.abc import Sequence
from math import atan, cos, degrees, log2, pi, radians, sin, tan

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError

PUBLISHED_AZIMUTHS = tuple(40.0 * step for step in range(9))
PUBLISHED_ELEVATION = degrees(atan(0.5))
_PUBLISHED_ORDER = [0, 9, 18, *range(1, 9), *range(10, 18), *range(19, 27)]


def equirect_directions(width: int, height: int, device: torch.device | str = "cpu") -> Float[Tensor, "h w 3"]:
    """Unit directions through the pixel centres of a panorama."""
    azimuth = (torch.arange(width, dtype=torch.float64) + 0.5) / width * (2 * pi) - pi
    elevation = pi / 2 - (torch.arange(height, dtype=torch.float64) + 0.5) / height * pi
    level = elevation.cos()[:, None]
    x = level * azimuth.sin()
    y = -elevation.sin()[:, None].expand(height, width)
    z = level * azimuth.cos()
    return torch.stack([x, y, z], dim=-1).float().to(device)


def equirect_pixels(directions: Float[Tensor, "*b 3"], width: int, height: int) -> Float[Tensor, "*b 2"]:
    """Panorama pixels (column, row) of directions of any length; pixel centres at +0.5. Inverse of the above."""
    x, y, z = directions.unbind(-1)
    azimuth = torch.atan2(x, z)
    elevation = torch.atan2(-y, torch.hypot(x, z))
    return torch.stack([(azimuth + pi) / (2 * pi) * width, (pi / 2 - elevation) / pi * height], dim=-1)


def sample_equirect(panorama: Float[Tensor, "c h w"], cameras: Cameras) -> Float[Tensor, "n c hc wc"]:
    """What cameras at the panorama's centre see (their positions are ignored).

    Bilinear; wraps at the seam and clamps at the poles. Where a camera's pixel covers more than one pixel of the
    panorama, the value comes from a pyramid of halved panoramas, interpolated between levels.
    """
    rotation = cameras.cam_from_world[:, :3, :3]
    directions = torch.einsum("nji,nhwj->nhwi", rotation, cameras.pixel_rays())
    footprint = _pixel_pitch(cameras) / (2 * pi / panorama.shape[2])
    level = footprint.log2().clamp(min=0, max=max(0.0, log2(panorama.shape[1] / 4)))
    highest = float(level.max())
    out = torch.zeros(
        len(cameras), len(panorama), cameras.height, cameras.width, device=panorama.device, dtype=panorama.dtype
    )
    source = panorama
    for step in range(int(highest) + 2):
        weight = (1 - (level - step).abs()).clamp(min=0)
        if bool((weight > 0).any()):
            out += weight[:, None] * _bilinear_wrapped(source, directions)
        if step >= highest:
            break
        source = _halved(source)
    return out


def _pixel_pitch(cameras: Cameras) -> Float[Tensor, "n h w"]:
    """Angle between neighbouring pixels in radians: the square root of a pixel's solid angle."""
    focal2 = cameras.intrinsics[:, 0, 0] * cameras.intrinsics[:, 1, 1]
    length = cameras.pixel_rays().norm(dim=-1)
    return (focal2[:, None, None] * length**3).rsqrt()


def _bilinear_wrapped(panorama: Float[Tensor, "c h w"], directions: Float[Tensor, "n hc wc 3"]) -> Tensor:
    _, height, width = panorama.shape
    padded = torch.cat([panorama[:, :, -1:], panorama, panorama[:, :, :1]], dim=2)
    pixels = equirect_pixels(directions, width, height)
    grid = torch.stack([(pixels[..., 0] + 1) / (width + 2), pixels[..., 1] / height], dim=-1) * 2 - 1
    return F.grid_sample(
        padded[None].expand(len(grid), -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _halved(panorama: Float[Tensor, "c h w"]) -> Float[Tensor, "c h2 w2"]:
    _, height, width = panorama.shape
    return F.adaptive_avg_pool2d(panorama[None], (max(1, height // 2), max(1, width // 2)))[0]


def rig(
    azimuths: Sequence[float], elevations: Sequence[float], fov_x: float, fov_y: float, width: int, height: int
) -> Cameras:
    """Upright cameras at the origin: for each elevation, all azimuths.

    Args:
        azimuths: degrees, 0 forward (+z), positive to the right.
        elevations: degrees, positive up, within ±90.
        fov_x, fov_y: fields of view in degrees, below 180.

    Raises:
        InputError: an angle is out of its range.
    """
    if not (0 < fov_x < 180 and 0 < fov_y < 180):
        raise InputError(f"the field of view {fov_x}° × {fov_y}° must lie between 0 and 180 degrees")
    if any(abs(elevation) > 90 for elevation in elevations):
        raise InputError(f"the elevations {list(elevations)} must lie within ±90 degrees")
    poses = torch.eye(4, dtype=torch.float64).repeat(len(azimuths) * len(elevations), 1, 1)
    for number, (elevation, azimuth) in enumerate((e, a) for e in elevations for a in azimuths):
        poses[number, :3, :3] = torch.tensor(_look_rotation(radians(azimuth), radians(elevation)))
    k = torch.tensor(
        [
            [width / (2 * tan(radians(fov_x) / 2)), 0, width / 2],
            [0, height / (2 * tan(radians(fov_y) / 2)), height / 2],
            [0, 0, 1],
        ]
    )
    return Cameras(poses.float(), k.float().expand(len(poses), 3, 3).clone(), width, height)


def _look_rotation(azimuth: float, elevation: float) -> list[list[float]]:
    """Camera from world: rows are the camera's right, down and forward axes in the world."""
    ca, sa, ce, se = cos(azimuth), sin(azimuth), cos(elevation), sin(elevation)
    return [[ca, 0.0, -sa], [se * sa, ce, se * ca], [ce * sa, -se, ce * ca]]


def rig_cameras(width: int = 832, height: int = 480) -> Cameras:
    """The 27 crops with which the official release fills its memory from a panorama, in its order.

    9 azimuths every 40° × elevations 0, +26.6° and −26.6° (atan 0.5), 120° × 90°: first the front at the three
    elevations, then the other azimuths rightwards, level, up, down.
    """
    elevations = (0.0, PUBLISHED_ELEVATION, -PUBLISHED_ELEVATION)
    return rig(PUBLISHED_AZIMUTHS, elevations, 120.0, 90.0, width, height)[_PUBLISHED_ORDER]


def camera_pixels(directions: Float[Tensor, "h w 3"], camera: Cameras) -> tuple[Tensor, Tensor]:
    """Where one camera at the origin sees world directions.

    Returns:
        pixels: [h, w, 2] (column, row) in the camera's image; arbitrary where not seen.
        seen: [h, w] whether the direction is in front of the camera and inside its image.
    """
    axes = directions @ camera.cam_from_world[0, :3, :3].T
    front = axes[..., 2] > 1e-6
    z = axes[..., 2:].clamp(min=1e-6)
    pixels = (axes / z) @ camera.intrinsics[0, :2].T
    size = pixels.new_tensor([camera.width, camera.height])
    return pixels, front & ((pixels >= 0) & (pixels <= size)).all(dim=-1)
