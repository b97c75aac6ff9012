"""Facts about what references show of a target, and how holes are filled from it."""

import pytest
import torch
from torch import Tensor

from box_room import look, predicted, see_room
from worldstereo.cameras import Cameras
from worldstereo.geometry import PointCloud
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.memory.lifting import lift_picture
from worldstereo.memory.references import References
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.hole_filling import add_references, fill_from_surroundings

PHOTO = look(0.0, 0.0)
REFERENCE = look(1.2, 0.0)
TARGETS = Cameras.cat([PHOTO, look(0.7, 3.0)])


class KnownDepth:
    """Answers with the room's depth, in another scale."""

    name = "known"

    def __init__(self, depth: Tensor) -> None:
        self.depth = depth

    def estimate(self, image, intrinsics=None, hint=None):
        return predicted(self.depth)


def cloud_of_photo() -> PointCloud:
    rgb, depth = see_room(PHOTO)
    return lift_picture(rgb[0], predicted(depth[0]), PHOTO).cloud


def references(for_target: tuple[int, ...] = (-1, 0), exposure: float = 0.0) -> References:
    return References(
        frames=see_room(REFERENCE)[0] + exposure,
        cameras=REFERENCE,
        names=("reference",),
        for_target=torch.tensor(for_target),
        coverage=torch.ones(len(for_target)),
        cloud=cloud_of_photo(),
    )


def conditions(references: References) -> ClipConditions:
    memory = GlobalGeometricMemory(references.cloud, PointCloud.empty())
    rgb, _ = see_room(TARGETS)
    return ClipConditions(TARGETS, rgb[0], memory.render_sharp(TARGETS), references, seed=0)


def psnr(a: Tensor, b: Tensor, where: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean(dim=0)[where].mean()))


def test_a_target_sees_what_its_reference_shows_through_exact_depth() -> None:
    seen = references().completed(see_room(REFERENCE)[1]).seen_by(TARGETS)
    truth, depth = see_room(TARGETS)
    assert seen.hole_mask[0].all()
    assert (~seen.hole_mask[1]).float().mean() > 0.7
    shown = ~seen.hole_mask[1]
    assert psnr(seen.rgb[1], truth[1], shown) > 28
    assert ((seen.depth[1] / depth[1] - 1).abs()[shown] < 0.03).float().mean() > 0.97


@pytest.mark.parametrize("exposure", [0.0, 0.1])
def test_holes_show_what_a_reference_has_seen_in_the_guidance_s_exposure(exposure) -> None:
    given = conditions(references(exposure=exposure).completed(see_room(REFERENCE)[1]))
    truth = see_room(TARGETS)[0][1]
    filled, remembered = given.filled_render(), given.remembered_render()
    seen = given.guidance.hole_mask[1] & ~given.references.seen_by(TARGETS).hole_mask[1]
    assert seen.sum() > 100
    assert psnr(remembered[1], truth, seen) > psnr(filled[1], truth, seen) + 6
    assert torch.equal(remembered[0], given.image)
    known = ~given.guidance.hole_mask[1]
    assert torch.equal(remembered[1][:, known], given.guidance.rgb[1][:, known].clamp(0, 1))


def test_where_references_show_nothing_surroundings_fill() -> None:
    given = conditions(references(for_target=(-1, -1)))
    torch.testing.assert_close(given.remembered_render(), given.filled_render())


def test_a_constant_difference_of_exposure_vanishes_exactly() -> None:
    picture = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    depth = torch.ones(1, 24, 32)
    holes = torch.zeros(1, 24, 32, dtype=torch.bool)
    holes[0, 6:20, 10:25] = True
    guidance = PointRender(torch.where(holes[:, None], 0.5, picture[None]), holes, torch.where(holes, 0.0, depth))
    reference = PointRender(picture[None] - 0.2, torch.zeros_like(holes), depth)
    together = add_references(guidance, reference)
    torch.testing.assert_close(together.rgb[0], picture, atol=1e-5, rtol=0)
    assert not together.hole_mask.any()
    assert torch.equal(together.depth, depth)
    assert (fill_from_surroundings(guidance)[0] - picture).abs().max() > 0.1


def test_depth_of_references_is_the_cloud_s_then_the_estimator_s_in_the_cloud_s_scale() -> None:
    truth = see_room(REFERENCE)[1]
    given = references()
    known = GlobalGeometricMemory(given.cloud, PointCloud.empty()).render_sharp(REFERENCE).depth
    depth = given.with_depth(KnownDepth(3 * truth[0])).depth
    assert torch.equal(depth[known > 0], known[known > 0])
    unknown = known == 0
    assert unknown.float().mean() > 0.05
    assert ((depth / truth - 1).abs()[unknown] < 0.05).float().mean() > 0.95


def test_an_estimate_that_contradicts_the_cloud_is_left_aside() -> None:
    given = references()
    wrong = 1 + 9 * torch.rand(PHOTO.height, PHOTO.width, generator=torch.Generator().manual_seed(0))
    depth = given.with_depth(KnownDepth(wrong)).depth
    torch.testing.assert_close(depth, given._continued(depth_of_cloud(given)))
    assert (depth > 0).all()


def depth_of_cloud(given: References) -> Tensor:
    return GlobalGeometricMemory(given.cloud, PointCloud.empty()).render_sharp(given.cameras).depth


def test_a_cloud_that_shows_nothing_gives_no_depth() -> None:
    empty = References(*(getattr(references(), name) for name in NAMES), cloud=PointCloud.empty())
    assert empty.seen_by(TARGETS).hole_mask.all()


NAMES = ("frames", "cameras", "names", "for_target", "coverage")
