"""Drawing splats: closed forms, the plain reference, gradients, invariances, bad input."""

import math

import pytest
import torch
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.cameras.rotations import matrix_from_quaternion, quaternion_from_matrix
from worldstereo.errors import InputError, MissingExtraError
from worldstereo.geometry.splat_rasterizer import BLUR, composite_splats, render_splats
from worldstereo.geometry.splat_rasterizer_reference import composite_splats_reference
from worldstereo.geometry.splats import GaussianSplats

RASTERIZERS = pytest.mark.parametrize("composite", [composite_splats, composite_splats_reference])
CAMERA = Cameras.from_fov(90.0, 20, 16)  # focal 10, centre (10, 8)


def scene(count: int = 50, seed: int = 0) -> list[Tensor]:
    """Splats around a camera, a few of them behind it or outside its view: means to values."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([4.0, 3.0, 4.0]) - torch.tensor([2.0, 1.5, 0.5])
    scales = torch.exp(0.5 * torch.randn(count, 3, generator=generator) - 2)
    rotations = torch.randn(count, 4, generator=generator)
    opacities = torch.rand(count, generator=generator)
    return [means, scales, rotations, opacities, torch.rand(count, 5, generator=generator)]


def one_splat(z: float = 2.0, sigma: float = 0.3, opacity: float = 0.8, value: float = 1.0) -> list[Tensor]:
    """A round splat on the optical axis."""
    upright = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    return [
        torch.tensor([[0.0, 0.0, z]]),
        torch.full((1, 3), sigma),
        upright,
        torch.tensor([opacity]),
        torch.tensor([[value]]),
    ]


def stacked(*splats: list[Tensor]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*splats, strict=True)]


def skewed(width: int, height: int) -> Cameras:
    """A camera away from the origin, turned, with skew and an off-centre principal point."""
    turn = matrix_from_quaternion(torch.tensor([0.98, 0.1, -0.15, 0.05]))
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, torch.tensor([0.2, -0.1, 0.4])
    k = torch.tensor([[25.0, 1.5, 0.55 * width], [0.0, 27.0, 0.4 * height], [0.0, 0.0, 1.0]])
    return Cameras(pose[None], k[None], width, height)


@RASTERIZERS
def test_a_round_splat_on_the_axis_has_the_closed_form(composite):
    image = composite(*one_splat(z=2.0, sigma=0.3, opacity=0.8, value=0.5), CAMERA)
    rows, columns = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    squared = (columns - 10) ** 2 + (rows - 8) ** 2
    alpha = 0.8 * torch.exp(-squared / (2 * ((10 * 0.3 / 2) ** 2 + BLUR)))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    torch.testing.assert_close(image.coverage, alpha, atol=2e-6, rtol=0)
    torch.testing.assert_close(image.values[0], 0.5 * alpha, atol=2e-6, rtol=0)
    torch.testing.assert_close(image.pixels, torch.tensor([[10.0, 8.0]]))
    assert bool((image.coverage == 0).any())


@RASTERIZERS
@pytest.mark.parametrize("near_first", [True, False])
def test_the_nearer_of_two_splats_covers_the_other(composite, near_first):
    near, far = one_splat(z=2.0, opacity=0.6, value=1.0), one_splat(z=3.0, opacity=0.5, value=10.0)
    wide = [near, far] if near_first else [far, near]
    for splat in wide:
        splat[1] = torch.full((1, 3), 100.0)  # flat over the whole picture
    image = composite(*stacked(*wide), CAMERA)
    torch.testing.assert_close(image.values[0], torch.full((16, 20), 0.6 * 1 + 0.4 * 0.5 * 10), atol=2e-3, rtol=0)
    torch.testing.assert_close(image.coverage, torch.full((16, 20), 0.8), atol=1e-3, rtol=0)


@RASTERIZERS
def test_alpha_is_capped_and_what_is_opaque_ends_the_list(composite):
    wide = [one_splat(z=float(z), sigma=1e4, opacity=1.0, value=float(z)) for z in (1, 2, 3)]
    image = composite(*stacked(*wide), CAMERA)
    torch.testing.assert_close(image.coverage, torch.full((16, 20), 0.999), atol=1e-6, rtol=0)
    torch.testing.assert_close(image.values[0], torch.full((16, 20), 0.999), atol=1e-6, rtol=0)


@RASTERIZERS
def test_splats_behind_the_camera_or_too_faint_are_not_drawn(composite):
    image = composite(*stacked(one_splat(z=-2.0), one_splat(z=0.005), one_splat(opacity=1 / 256)), CAMERA)
    assert not bool(image.drawn.any())
    assert float(image.coverage.abs().max()) == 0
    assert float(image.values.abs().max()) == 0


@pytest.mark.parametrize(
    ("width", "height", "seed", "blur"), [(32, 24, 0, 0.3), (33, 17, 1, 0.3), (7, 50, 2, 0.02), (48, 16, 3, 1.0)]
)
def test_equals_the_reference_in_values_and_gradients(width, height, seed, blur):
    camera = skewed(width, height)
    generator = torch.Generator().manual_seed(99)
    upstream = torch.randn(6, height, width, generator=generator)
    results = []
    for composite, dtype in ((composite_splats, torch.float32), (composite_splats_reference, torch.float64)):
        inputs = [value.to(dtype).requires_grad_() for value in scene(150, seed)]
        image = composite(*inputs, camera, blur=blur)
        image.pixels.retain_grad()
        loss = (image.values * upstream[:5].to(dtype)).sum() + (image.coverage * upstream[5].to(dtype)).sum()
        loss.backward()
        results.append([image.values.detach(), image.coverage.detach(), image.pixels.grad, *(v.grad for v in inputs)])
    assert float(results[1][1].max()) > 0.9
    for ours, reference in zip(*results, strict=True):
        scale = float(reference.abs().max())
        assert scale > 0
        torch.testing.assert_close(ours.double() / scale, reference / scale, atol=2e-5, rtol=0)


def test_the_reference_has_the_gradients_of_finite_differences():
    inputs = [value.double().requires_grad_() for value in scene(count=3, seed=4)]
    camera = skewed(6, 5)

    def composited(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        image = composite_splats_reference(*tensors, camera)
        return image.values, image.coverage

    assert torch.autograd.gradcheck(composited, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_the_compiled_gradient_predicts_the_change_of_a_small_step():
    """To some percent: the border at which alpha is cut moves with a splat, and no gradient knows of that."""
    camera = skewed(40, 30)
    inputs = [value.requires_grad_() for value in scene(count=80, seed=5)]
    generator = torch.Generator().manual_seed(1)
    wish = torch.rand(5, 30, 40, generator=generator)

    def loss(tensors: list[Tensor]) -> Tensor:
        return (composite_splats(*tensors, camera).values.double() - wish).square().sum()

    gradients = torch.autograd.grad(loss(inputs), inputs)
    steps = [3e-3 * gradient / gradient.norm() for gradient in gradients]
    for index in range(len(inputs)):
        ahead, behind = ([t.detach().clone() for t in inputs] for _ in range(2))
        ahead[index] += steps[index]
        behind[index] -= steps[index]
        slope = float(loss(ahead) - loss(behind)) / 2
        assert slope == pytest.approx(float((gradients[index] * steps[index]).sum()), rel=0.05)


def test_the_same_bytes_whatever_the_number_of_threads():
    camera = skewed(80, 64)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        inputs = [value.requires_grad_() for value in scene(count=300, seed=6)]
        image = composite_splats(*inputs, camera)
        (image.values.sum() + image.coverage.square().sum()).backward()
        results.append([image.values, image.coverage, *(value.grad for value in inputs)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_turning_and_scaling_the_world_changes_nothing():
    means, scales, rotations, opacities, values = scene(seed=7)
    camera = skewed(40, 30)
    turn, shift, scale = (
        matrix_from_quaternion(torch.tensor([0.5, -0.4, 0.7, 0.2])),
        torch.tensor([3.0, -1.0, 2.0]),
        2.5,
    )
    turned = quaternion_from_matrix(turn @ matrix_from_quaternion(rotations))
    moved = scale * means @ turn.T + shift
    one = composite_splats(means, scales, rotations, opacities, values, camera)
    other = composite_splats(moved, scale * scales, turned, opacities, values, camera.transformed(turn, shift, scale))
    torch.testing.assert_close(one.values, other.values, atol=2e-4, rtol=0)


def test_renders_colours_over_a_background_and_expected_depth():
    means, scales, rotations, opacities, _ = stacked(one_splat(z=2.0), one_splat(z=4.0))
    splats = GaussianSplats(means, scales, rotations, opacities, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    cameras = Cameras.cat([CAMERA, CAMERA])
    background = torch.tensor([0.1, 0.2, 0.9])
    render = render_splats(splats, cameras, background=background)
    image = composite_splats(
        means, scales, rotations, opacities, torch.cat([splats.colors, means[:, 2:]], dim=1), CAMERA
    )
    blended = image.values[:3] + (1 - image.coverage) * background[:, None, None]
    assert torch.equal(render.rgb[0], blended)
    assert torch.equal(render.rgb[0], render.rgb[1])
    middle = (8, 10)
    assert 2 < float(render.depth[0][middle]) < 4
    assert float(render.depth[0][middle]) == pytest.approx(float(image.values[3][middle] / image.coverage[middle]))
    assert float(render.depth[0, 0, 0]) == 0
    assert torch.equal(render.rgb[0, :, 0, 0], background)


def test_no_splats_draw_nothing():
    empty = GaussianSplats(*(torch.zeros(0, n) if n > 1 else torch.zeros(0) for n in (3, 3, 4, 1, 3)))
    assert float(render_splats(empty, CAMERA).rgb.abs().max()) == 0
    inputs = [value[:0].requires_grad_() for value in scene()]
    image = composite_splats(*inputs, CAMERA)
    image.values.sum().backward()
    assert inputs[0].grad.shape == (0, 3)


def test_a_splat_may_be_far_larger_than_the_picture_or_pass_beside_the_camera():
    huge = stacked(one_splat(z=0.02, sigma=5.0), one_splat(z=0.5, sigma=50.0))
    huge[0][:, 0] = torch.tensor([3.0, -40.0])
    inputs = [value.requires_grad_() for value in huge]
    image = composite_splats(*inputs, CAMERA)
    image.values.sum().backward()
    assert all(bool(torch.isfinite(value.grad).all()) for value in inputs)
    assert math.isfinite(float(image.values.detach().sum()))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="one camera at a time, but 2"):
        composite_splats(*scene(), Cameras.cat([CAMERA, CAMERA]))
    with pytest.raises(InputError, match="not on meta"):
        composite_splats(*(value.to("meta") for value in scene()), CAMERA)


def test_without_gsplat_the_error_names_the_extra():
    try:
        import gsplat  # noqa: F401
    except ImportError:
        from worldstereo.geometry.splat_rasterizer_gsplat import composite_with_gsplat

        with pytest.raises(MissingExtraError, match=r"worldstereo\[cuda\]"):
            composite_with_gsplat(*scene(), CAMERA, blur=BLUR)
