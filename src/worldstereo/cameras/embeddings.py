"""Camera embeddings: Plücker rays, normalised poses and pose vectors, as the video models take them."""

import torch
from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras.cameras import Cameras
from worldstereo.cameras.rotations import quaternion_from_matrix
from worldstereo.errors import InputError

PUBLISHED_SCALE = 2.0
_PUBLISHED_MIN_RADIUS = 1e-5
_PUBLISHED_MAX_DISTANCE = 1e6


def plucker_rays(cameras: Cameras) -> Float[Tensor, "n 6 h w"]:
    """Plücker coordinates of the rays through the pixel centres, in the world of `cameras`.

    Channels 0 to 2 are the unit direction d, channels 3 to 5 the moment o × d with the camera centre o
    (in scene units, so normalise the poses first where a network is to read them).
    The result takes 24 bytes a pixel, its intermediates about twice as much.
    """
    rotation = cameras.cam_from_world[:, :3, :3]
    rays = torch.einsum("nji,nhwj->nihw", rotation, cameras.pixel_rays())
    direction = torch.nn.functional.normalize(rays, dim=1)
    origin = cameras.centers[:, :, None, None].expand_as(direction)
    return torch.cat([direction, torch.linalg.cross(origin, direction, dim=1)], dim=1)


def published_plucker_rays(cameras: Cameras) -> Float[Tensor, "n 6 h w"]:
    """Plücker rays on the pixel grid of the official WorldStereo 2.0 release, which its weights were trained with.

    The release takes x = column − 0.5 (y = row + 0.5 is right): every ray is that of the pixel to its left.
    Use it with the published weights only; otherwise `plucker_rays`.
    """
    return plucker_rays(cameras.cropped(left=-1, top=0, width=cameras.width, height=cameras.height))


def normalize_per_clip(
    cam_from_world: Float[Tensor, "n 4 4"], scale: float = PUBLISHED_SCALE
) -> Float[Tensor, "n 4 4"]:
    """The published normalisation of one clip (`camera_center_normalization` of the official release), for its rays.

    It is `normalize_jointly` without references; see there for its steps and instabilities.
    """
    return normalize_jointly(cam_from_world, cam_from_world[:0], scale)[0]


def normalize_jointly(
    targets: Float[Tensor, "n 4 4"], references: Float[Tensor, "r 4 4"], scale: float = PUBLISHED_SCALE
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "r 4 4"]]:
    """The published joint normalisation (`unified_camera_normalization` of the official release), for pose vectors.

    1. The world becomes the frame of target 0.
    2. The world's origin moves to the mean of the target centres, outliers left out: those farther from the
       coordinate-wise median than min(10 · q97 of these distances, 10⁶).
    3. Translations are multiplied by `scale` / |C₀|, C₀ being the centre of target 0 after step 2,
       or by `scale` where |C₀| < 10⁻⁵.

    All statistics come from the targets alone; references only follow.

    Known instabilities, kept because the published weights expect the result: a path that begins near its own mean
    (a figure of eight, a full orbit around the start) is blown up without bound, as |C₀| → 0; the result jumps at
    |C₀| = 10⁻⁵; and the threshold is absolute, so it depends on the unit of length. `normalize_by_extent` has none
    of these.

    Returns:
        Normalised `cam_from_world` of the targets and of the references.

    Raises:
        InputError: there is no target.
    """
    targets, references, centers = _in_centred_frame_of_first(targets, references)
    radius = centers[0].norm()
    factor = torch.where(radius < _PUBLISHED_MIN_RADIUS, torch.full_like(radius, scale), scale / radius)
    return _scaled(targets, factor), _scaled(references, factor)


def normalize_by_extent(
    targets: Float[Tensor, "n 4 4"],
    references: Float[Tensor, "r 4 4"],
    scale: float = PUBLISHED_SCALE,
    min_extent: float = 1e-3,
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "r 4 4"]]:
    """Our normalisation: steps 1 and 2 of `normalize_jointly`, then all target centres fit a ball of radius `scale`.

    Translations are multiplied by `scale` / max(extent, `min_extent`), the extent being the largest distance of a
    target from the origin (outliers included). The result is a continuous function of the path, targets never leave
    the ball, a pure rotation keeps zero translations, and where target 0 is the farthest from the mean it equals the
    published one. Models trained in this project take it; the published weights do not.

    Args:
        targets: `cam_from_world` of the clip.
        references: `cam_from_world` of the reference frames in the same world; may be empty.
        scale: radius of the ball.
        min_extent: in scene units, below which a path counts as standing still.

    Raises:
        InputError: there is no target.
    """
    targets, references, centers = _in_centred_frame_of_first(targets, references)
    factor = scale / centers.norm(dim=1).max().clamp_min(min_extent)
    return _scaled(targets, factor), _scaled(references, factor)


def pose_vectors(cam_from_world: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 7"]:
    """Quaternion (w, x, y, z; w ≥ 0) and translation of `cam_from_world`, as the memory models take them.

    The quaternion's sign flips where a rotation passes 180°, as in the official release.
    """
    return torch.cat([quaternion_from_matrix(cam_from_world[:, :3, :3]), cam_from_world[:, :3, 3]], dim=1)


def _in_centred_frame_of_first(
    targets: Float[Tensor, "n 4 4"], references: Float[Tensor, "r 4 4"]
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "r 4 4"], Float[Tensor, "n 3"]]:
    """Poses in the axes of target 0 with the origin at the mean target, and the target centres there."""
    if len(targets) == 0:
        raise InputError("there is no camera to normalise; a clip needs at least one")
    world_from_first = _inverse(targets[:1])
    targets, references = targets @ world_from_first, references @ world_from_first
    centers = _centers(targets)
    distance = (centers - centers.quantile(0.5, dim=0)).norm(dim=1)
    inlier = distance <= (10 * distance.quantile(0.97)).clamp_max(_PUBLISHED_MAX_DISTANCE)
    mean = centers[inlier].mean(dim=0)
    return _moved(targets, mean), _moved(references, mean), centers - mean


def _moved(poses: Float[Tensor, "k 4 4"], origin: Float[Tensor, "3"]) -> Float[Tensor, "k 4 4"]:
    moved = poses.clone()
    moved[:, :3, 3] += poses[:, :3, :3] @ origin
    return moved


def _scaled(poses: Float[Tensor, "k 4 4"], factor: Float[Tensor, ""]) -> Float[Tensor, "k 4 4"]:
    scaled = poses.clone()
    scaled[:, :3, 3] *= factor
    return scaled


def _inverse(poses: Float[Tensor, "k 4 4"]) -> Float[Tensor, "k 4 4"]:
    inverse = poses.clone()
    inverse[:, :3, :3] = poses[:, :3, :3].mT
    inverse[:, :3, 3] = _centers(poses)
    return inverse


def _centers(poses: Float[Tensor, "k 4 4"]) -> Float[Tensor, "k 3"]:
    return -(poses[:, :3, :3].mT @ poses[:, :3, 3:])[..., 0]
