"""The CUDA back-end: gsplat's rasteriser behind the interface of ours. Not yet run by this project."""

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.geometry.splat_rasterizer import NEAREST_Z, SplatImage

_TILE = 16


def composite_with_gsplat(
    means: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 3"],
    rotations: Float[Tensor, "n 4"],
    opacities: Float[Tensor, " n"],
    values: Float[Tensor, "n c"],
    camera: Cameras,
    *,
    blur: float,
) -> SplatImage:
    """What `composite_splats` gives, by gsplat 1.5 on CUDA.

    Raises:
        InputError: gsplat is not installed, or the camera is skewed, which gsplat does not know.
    """
    try:
        import gsplat
    except ImportError:
        raise MissingExtraError("gsplat", "cuda", "drawing splats on CUDA") from None
    if float(camera.intrinsics[0, 0, 1]) != 0:
        raise InputError("gsplat draws no cameras with skew; draw the splats on the CPU")
    pose, k = camera.cam_from_world.to(means), camera.intrinsics.to(means)
    size = (camera.width, camera.height)
    radii, centres, depths, conics, _ = gsplat.fully_fused_projection(
        means, None, rotations, scales, pose, k, *size, eps2d=blur, near_plane=NEAREST_Z, opacities=opacities
    )
    pixels = centres[0]
    tiles = (-(-size[0] // _TILE), -(-size[1] // _TILE))
    _, pairs, ranks = gsplat.isect_tiles(centres, radii, depths, _TILE, *tiles)
    starts = gsplat.isect_offset_encode(pairs, 1, *tiles)
    shape = (pixels[None], conics, values[None], opacities[None])
    out, coverage = gsplat.rasterize_to_pixels(*shape, *size, _TILE, starts, ranks)
    drawn = (radii[0] > 0).all(dim=-1) if radii.ndim == 3 else radii[0] > 0
    return SplatImage(out[0].permute(2, 0, 1), coverage[0, ..., 0], pixels, drawn)
