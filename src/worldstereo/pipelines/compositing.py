"""A small network's frames at the size of the sharp render: the render where it knows, the network in its holes.

The network's frame is first given the exposure and colour of the render, which costs almost nothing at its own size;
then it is enlarged into the holes and blended over a few pixels at their rims, and the first frame's texture and lines
are continued into it (`Exemplars`). Sky goes on as sky, unless the network sees something else.
All that is spread from known pixels follows `background_importance`: what a near object uncovers takes after what is
behind it.

The obvious alternative, spreading the whole difference at the rim of a hole into it (the membrane of Pérez et al.,
Poisson Image Editing, SIGGRAPH 2003), carries whatever is wrong beside an occluder deep into the hole. docs/models.md
has the figures.
"""

import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from worldstereo.cameras import Cameras
from worldstereo.geometry.exemplars import Exemplars
from worldstereo.geometry.inpainting import background_importance, continued_depth, pull_push, sky_share
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.references import seen_from
from worldstereo.pipelines.hole_filling import add_references

_COARSE = 5  # network pixels: narrower holes are no place for its content
_TEXTURED = 30  # holes narrower than the shorter side divided by this are no place for texture
_REACH = 8  # the exposure is an average over Gaussians of the shorter side divided by this
_USUAL_ERROR = 0.1  # larger differences between frame and render say less about the exposure
_KEYFRAMES, _SMALL_SHARE = 3, 0.004  # frames that are shown to the others, while one has a larger share of holes
_BLUR = 8  # network pixels: so far the content beside a nearer object has something of its colour
_NEAR = 20  # the shorter side divided by this
_NEARER = 0.8  # times the depth of what a hole shows: such surfaces do not go on in it
_SKY = 0.5  # with such a share of it a hole shows sky and nothing else
_UNLIKE_SKY = 0.2  # root mean square difference of colours
_SEAM = 1.2  # network pixels over which the rims of holes are blended


def complete_clip(
    render: PointRender,
    small_render: PointRender,
    content: Float[Tensor, "f 3 m n"],
    image: Float[Tensor, "3 h w"],
    cameras: Cameras,
    seed: int,
) -> Float[Tensor, "f 3 h w"]:
    """Frames of the render's size, RGB in [0, 1], whose holes have the network's content and the image's texture.

    Up to three times the frame with the largest holes is completed and shown to the others, lifted by its continued
    depth: what fills a hole stands still in the scene. What is left is completed frame by frame. The first frame is
    the image; every other known pixel is the render's, exactly.

    Args:
        render: the guidance at the size of the output.
        small_render: the same at the network's size.
        content: what the network made of it.
        image: what the clip begins with, whose texture is continued.
        cameras: of the output.
    """
    height, width = image.shape[1:]
    exemplars, narrow = Exemplars(image), round(min(height, width) / _TEXTURED)
    small_frames = zip(content, small_render.rgb, small_render.hole_mask, small_render.depth, strict=True)
    agreed = [agree_exposure(own, rgb, ~holes, background_importance(z)) for own, rgb, holes, z in small_frames]

    def completed(index: int) -> Float[Tensor, "3 h w"]:
        holes, depth = render.hole_mask[index], render.depth[index]
        behind = uncovered(depth, holes, cameras[index], cameras[0])
        front = in_front(depth, holes, behind)
        smooth = fill_holes(render.rgb[index], holes, front, background_importance(depth), agreed[index])
        sky = continued_sky(render.rgb[index], depth, ~holes)
        shown = shows_sky(depth, holes, front, _enlarged(agreed[index], height, width) - sky)
        smooth = torch.lerp(smooth, sky, shown)
        return exemplars.continue_into(smooth, wide_holes(holes & (shown < _SKY), narrow), front, seed + index)

    for _ in range(_KEYFRAMES):
        shares = torch.stack([wide_holes(holes, narrow).float().mean() for holes in render.hole_mask[1:]])
        if len(shares) == 0 or float(shares.max()) < _SMALL_SHARE:
            break
        key = 1 + int(shares.argmax())
        picture = completed(key)
        depth = continued_depth(render.depth[key], ~render.hole_mask[key])
        render = add_references(render, seen_from(picture, depth, cameras[key], cameras))
        render.rgb[key], render.hole_mask[key], render.depth[key] = picture, False, depth
    return torch.stack([image, *(completed(index) for index in range(1, len(content)))])


def uncovered(
    depth: Float[Tensor, "h w"], holes: Bool[Tensor, "h w"], camera: Cameras, first: Cameras
) -> Float[Tensor, "h w"]:
    """The depth, by `continued_depth`, of holes that show what the first frame has in view but hidden; 0 elsewhere.

    Something nearer hides it there, which does not go on in these holes. Into the others, out of the first frame's
    view, near things may go on: beside a wall that leaves the picture lies more of it, not what is behind it.
    """
    behind = continued_depth(depth, ~holes)
    pixels, z = first.project(camera.unproject(behind[None]).reshape(-1, 3))
    size = pixels.new_tensor([first.width, first.height])
    in_view = (z[0] > 0) & (pixels[0] >= 0).all(dim=-1) & (pixels[0] < size).all(dim=-1)
    return torch.where(holes & in_view.reshape(holes.shape), behind, 0.0)


def in_front(
    depth: Float[Tensor, "h w"], holes: Bool[Tensor, "h w"], behind: Float[Tensor, "h w"]
) -> Bool[Tensor, "h w"]:
    """Known pixels that are nearer by a fifth than what a hole within a twentieth of the shorter side uncovers.

    Args:
        behind: see `uncovered`.
    """
    reach = min(depth.shape) // _NEAR
    farthest = ndimage.maximum_filter(behind.cpu().numpy(), 2 * reach + 1, mode="constant")
    return ~holes & (depth > 0) & (depth < _NEARER * torch.from_numpy(farthest).to(depth))


def agree_exposure(
    content: Float[Tensor, "3 m n"],
    render: Float[Tensor, "3 m n"],
    known: Bool[Tensor, "m n"],
    importance: Float[Tensor, "m n"],
) -> Float[Tensor, "3 m n"]:
    """The content plus a slowly varying colour: the difference that the render has from it where the render knows.

    The difference is averaged over Gaussians of an eighth of the shorter side, in which a pixel counts the less the
    more it differs (it may show another thing), and spread into the holes by `pull_push`. A constant difference
    vanishes; where nothing is known nothing changes. Not clamped.
    """
    difference = render - content
    weight = importance * known / (1 + difference.square().mean(dim=0) / _USUAL_ERROR**2)
    mass = _smoothed(weight[None])
    average = _smoothed(difference * weight) / mass.clamp_min(torch.finfo(mass.dtype).tiny)
    return content + pull_push(average[None], known[None, None], importance[None, None])[0]


def fill_holes(
    render: Float[Tensor, "3 h w"],
    holes: Bool[Tensor, "h w"],
    front: Bool[Tensor, "h w"],
    importance: Float[Tensor, "h w"],
    content: Float[Tensor, "3 m n"],
) -> Float[Tensor, "3 h w"]:
    """The render with enlarged content in its holes, in [0, 1].

    At the rim the content meets the render: their difference there is spread by `pull_push` and falls to nothing
    within 1.2 pixels of the content. Holes narrower than 5 pixels of the content, about which it knows less than their
    rims do, show the `pull_push` of the render. Into wider ones `front` spreads nothing; beside it they show the
    `pull_push` of what is around it, and less and less of that up to 8 pixels of the content away.

    Args:
        front: known pixels of what is nearer than the holes show (`in_front`).
    """
    height, width = holes.shape
    large = _enlarged(content, height, width)
    behind, known = ~(holes | front)[None, None], ~holes[None, None]
    spread = pull_push(torch.cat([render, render - large])[None], behind, importance[None, None])[0]
    smooth, difference = spread[:3], spread[3:]
    pixel = (height * width / content[0].numel()) ** 0.5
    seam = max(2.0, _SEAM * pixel)
    blended = large + difference * (1 - (_distance_from(~holes) - 1) / seam).clamp(0, 1)
    blended = torch.lerp(smooth, blended, (_distance_from(front) / (_BLUR * pixel)).clamp(0, 1))
    filled = pull_push(render[None], known, importance[None, None])[0]
    filled = torch.where(wide_holes(holes, round(_COARSE * pixel)), blended, filled)
    return torch.where(holes, filled.clamp(0, 1), render)


def continued_sky(
    frame: Float[Tensor, "3 h w"], depth: Float[Tensor, "h w"], known: Bool[Tensor, "h w"]
) -> Float[Tensor, "3 h w"]:
    """The colours of a frame's sky, known pixels without depth, spread by `pull_push`; black if there is none."""
    sky = known & (depth <= 0)
    return pull_push(frame[None], sky[None, None], torch.ones_like(depth)[None, None])[0]


def shows_sky(
    depth: Float[Tensor, "h w"],
    holes: Bool[Tensor, "h w"],
    front: Bool[Tensor, "h w"],
    difference: Float[Tensor, "3 h w"],
) -> Float[Tensor, "h w"]:
    """How much of the sky's colours holes take: 1 where sky goes on and the network sees nothing else, 0 elsewhere.

    A small network puts ghosts of a roof into the sky beside it, and a roof spreads its own colours there. But what it
    sees there may be a hill: where its colour is farther than 0.2 from the sky's, in root mean square, a hole takes
    less of it, and none from 0.4 on. It fades in where `sky_share` is between a quarter and a half.

    Args:
        front: see `in_front`.
        difference: the network's content minus the sky's colours.
    """
    share = torch.where(holes, sky_share(depth, ~(holes | front)), 0.0)
    unlike = difference.square().mean(dim=0).sqrt()
    return (2 * share / _SKY - 1).clamp(0, 1) * (2 - unlike / _UNLIKE_SKY).clamp(0, 1)


def wide_holes(holes: Bool[Tensor, "h w"], width: int) -> Bool[Tensor, "h w"]:
    """The pixels of the holes that lie in a square of `width` pixels of a hole; beyond the picture holes go on.

    Args:
        width: rounded up to the next odd number.
    """
    size = 2 * (width // 2) + 1
    narrowed = ndimage.minimum_filter(holes.cpu().numpy(), size, mode="constant", cval=1)
    return torch.from_numpy(ndimage.maximum_filter(narrowed, size, mode="constant", cval=0)).to(holes.device)


def _distance_from(mask: Bool[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """Pixels from the nearest of the mask; infinitely many if there is none."""
    if not bool(mask.any()):
        return torch.full(mask.shape, torch.inf, device=mask.device)
    return torch.from_numpy(ndimage.distance_transform_edt(~mask.cpu().numpy())).to(mask.device, torch.float32)


def _enlarged(content: Float[Tensor, "3 m n"], height: int, width: int) -> Float[Tensor, "3 h w"]:
    return F.interpolate(content[None], (height, width), mode="bicubic", align_corners=False)[0]


def _smoothed(values: Float[Tensor, "c m n"]) -> Float[Tensor, "c m n"]:
    sigma = min(values.shape[1:]) / _REACH
    smooth = ndimage.gaussian_filter(values.cpu().numpy(), sigma, mode="constant", axes=(1, 2))
    return torch.from_numpy(smooth).to(values)
