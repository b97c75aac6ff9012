"""Procedural scenes: exact geometry against closed forms, agreement between cameras, determinism, free cameras."""

from math import pi

import numpy as np
import pytest
import torch

from worldstereo.cameras.cameras import Cameras
from worldstereo.data.procedural import ProceduralScene, render_scenes
from worldstereo.data.procedural.building import Builder, Material, rotation
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.daylight import Daylight
from worldstereo.data.procedural.noise import fractal_noise, hashed, smooth_noise
from worldstereo.data.procedural.solids import BOX, Solids, pad_and_stack
from worldstereo.data.procedural.textures import TEXTURES, pulse
from worldstereo.data.procedural.tracing import Beams, Pairs, nearest_hit, touching_pairs, unblocked
from worldstereo.errors import InputError

KINDS = ("room", "hall", "street", "garden")
GREY = Material("plain", ((0.5, 0.5, 0.5),) * 3, noise=0.0)


def _scene(build) -> ProceduralScene:
    """A scene of hand-placed solids in daylight."""
    builder = Builder(Chance(0))
    build(builder)
    light = Daylight(Chance(1)).packed(False)
    return ProceduralScene("garden", 0, builder.solids(), light, torch.tensor([[[-1.0, -2, -1], [1, -1, 1]]]))


def _posed(position, yaw=0.0, pitch=0.0, roll=0.0, width=40, height=24, fov=70.0) -> Cameras:
    camera = Cameras.from_fov(fov, width, height)
    turn = torch.from_numpy(rotation(yaw, pitch, roll)).float()
    pose = torch.eye(4)[None]
    pose[0, :3, :3] = turn.T
    pose[0, :3, 3] = -turn.T @ torch.tensor(position).float()
    return camera.with_poses(pose)


def _looking_at(centers: torch.Tensor, targets: torch.Tensor) -> Cameras:
    """Cameras of one pixel whose ray goes exactly through the targets."""
    forward = torch.nn.functional.normalize((targets - centers).double(), dim=1)
    helper = torch.where(forward[:, 1:2].abs() > 0.9, torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])).double()
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, forward), dim=1)
    turn = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    pose = torch.eye(4, dtype=torch.float64).repeat(len(centers), 1, 1)
    pose[:, :3, :3] = turn
    pose[:, :3, 3] = -(turn @ centers.double()[..., None])[..., 0]
    intrinsics = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]).repeat(len(centers), 1, 1)
    return Cameras(pose.float(), intrinsics, 1, 1)


def _rays(camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    origin = camera.centers[0].double().numpy()
    turn = camera.cam_from_world[0, :3, :3].double().numpy()
    return origin, camera.pixel_rays()[0].double().numpy() @ turn


def test_nothing_of_a_tube_that_widens_upwards_is_cut_off():
    for top in (1.15, 1.6, 2.5):
        scene = _scene(lambda b, top=top: b.tube((0.03, -0.5, 3.0), (0.5, 1.0, 0.5), GREY, top=top))
        camera = Cameras.from_fov(60.0, 256, 144)
        direction = camera.pixel_rays()[0]
        tube = Pairs(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 0)
        rays = direction.view(1, -1, 3).transpose(1, 2)
        distance, _ = nearest_hit(camera.centers, rays, pad_and_stack([scene.solids]), tube)
        assert torch.equal(scene.render(camera).sky[0], torch.isinf(distance).view(144, 256))


def test_rays_are_taken_in_pieces_on_any_device():
    index = torch.zeros(5, dtype=torch.int64, device="meta")
    assert [len(bundle) for _, bundle, _ in Pairs(index, index, 2).chunks(64)] == [2, 3]


class TestClosedForms:
    def test_ground_plane(self):
        scene = _scene(lambda b: b.box((0, -1, 0), (1000, 1, 1000), GREY))
        camera = _posed((0.3, -1.6, 0.2), yaw=0.4, pitch=-0.35, roll=0.05)
        render = scene.render(camera)
        _, direction = _rays(camera)
        expected = torch.from_numpy(1.6 / direction[..., 1])
        below = (expected > 0) & (expected < 200)
        assert below.any()
        torch.testing.assert_close(render.depth[0][below].double(), expected[below], rtol=1e-5, atol=0)
        up = render.normals[0, :, below]
        torch.testing.assert_close(up, torch.tensor([0.0, -1, 0])[:, None].expand_as(up))
        assert bool(render.sky[0][torch.from_numpy(direction[..., 1] < 0)].all())

    def test_sphere(self):
        scene = _scene(lambda b: b.ball((0.5, 0.8, 4.0), (2.0, 2.0, 2.0), GREY))
        camera = _posed((0.1, -1.5, 0.0), yaw=0.1)
        render = scene.render(camera)
        origin, d = _rays(camera)
        center = np.array([0.5, -1.8, 4.0])
        a, b = (d * d).sum(-1), (d * (origin - center)).sum(-1)
        disc = b * b - a * (((origin - center) ** 2).sum() - 1.0)
        inner = torch.from_numpy(disc > 1e-3)
        expected = torch.from_numpy((-b - np.sqrt(np.maximum(disc, 0))) / a)
        assert inner.sum() > 50
        torch.testing.assert_close(render.depth[0][inner].double(), expected[inner], rtol=2e-5, atol=0)
        assert bool(render.sky[0][torch.from_numpy(disc < -1e-3)].all())
        points = camera.unproject(render.depth)[0]
        outward = points - torch.from_numpy(center).float()
        torch.testing.assert_close(render.normals[0].permute(1, 2, 0)[inner], outward[inner], rtol=0, atol=1e-4)

    def test_turned_box_from_outside_and_inside(self):
        size, place, turn = (2.0, 1.2, 3.0), (0.4, 0.5, 5.0), rotation(0.5, 0.3, -0.2)
        scene = _scene(lambda b: b.box(place, size, GREY, yaw=0.5, pitch=0.3, roll=-0.2))
        center = np.array([0.4, -(0.5 + 0.6), 5.0])
        for position in ((0.0, -1.5, 0.0), tuple(center + 0.1)):
            camera = _posed(position, yaw=0.1)
            render = scene.render(camera)
            origin, direction = _rays(camera)
            o, d, half = turn.T @ (origin - center), direction @ turn, np.array(size) / 2
            first = np.full(d.shape[:2], np.inf)
            for axis in range(3):
                for sign in (-1, 1):
                    t = (sign * half[axis] - o[axis]) / d[..., axis]
                    point = o + t[..., None] * d
                    others = [k for k in range(3) if k != axis]
                    on = (np.abs(point[..., others]) <= half[others]).all(-1) & (t > 0)
                    first = np.where(on & (t < first), t, first)
            hit = torch.from_numpy(np.isfinite(first))
            assert ((render.depth[0] > 0) == hit).float().mean() > 0.995
            both = hit & (render.depth[0] > 0)
            assert both.sum() > 50
            close = (render.depth[0][both].double() / torch.from_numpy(first)[both] - 1).abs() < 1e-4
            assert close.float().mean() > 0.99

    @pytest.mark.parametrize("top", [0.0, 0.4, 1.0, 1.6])
    def test_cone_surface(self, top):
        """Hit points satisfy the cone's equation, and nothing of the cone lies before them."""
        scene = _scene(lambda b: b.tube((0, 0.5, 4), (1.6, 2.0, 1.6), GREY, top=top))
        camera = _posed((0.3, -2.9, 0.0), pitch=-0.25)
        depth = scene.render(camera).depth[0].double().numpy()
        origin, d = _rays(camera)

        def excess(points):
            """Negative inside the frustum, positive outside."""
            height = -points[..., 1] - 0.5
            radius = 0.8 * (1 + (top - 1) * height / 2.0)
            side = np.hypot(points[..., 0], points[..., 2] - 4) - radius
            return np.maximum(side, np.maximum(-height, height - 2.0))

        hit = depth > 0
        assert hit.sum() > 60
        assert np.abs(excess(origin + depth[..., None] * d))[hit].max() < 2e-4
        for share in np.linspace(0.05, 0.999, 40):
            assert excess(origin + share * np.where(hit, depth, 12.0)[..., None] * d).min() > -2e-4

    def test_distance(self):
        def build(b):
            b.box((0, 0, 0), (2, 2, 2), GREY)
            b.ball((5, 1, 0), (2, 2, 2), GREY)
            b.tube((-5, 0, 0), (2, 4, 2), GREY)

        points = torch.tensor([[0, -4.0, 0], [2, -3, 2], [0, -1, 0], [5, -5, 0], [5, -2, 0], [-5, -1, 3], [-8, -8, 0]])
        expected = torch.tensor([2.0, 3**0.5, -1.0, 2.0, -1.0, 2.0, (2**2 + 4**2) ** 0.5])
        torch.testing.assert_close(_scene(build).distance(points), expected)

    def test_shadow(self):
        """The ground is darker where a ball hides the sun than beside it."""
        ground = lambda b: b.box((0, -1, 0), (200, 1, 200), GREY)  # noqa: E731
        scene = _scene(lambda b: (ground(b), b.ball((0, 4, 6), (1.6, 1.6, 1.6), GREY)))
        assert float(scene.light.sun_color.max()) > 0
        sun = scene.light.sun
        dark = torch.tensor([0.0, -4.8, 6.0]) - sun * (-4.8 / sun[1])
        light = dark + torch.tensor([3.0, 0, 0])
        cameras = _looking_at((dark + torch.tensor([2.0, -3.0, -2.0])).repeat(2, 1), torch.stack([dark, light]))
        rgb = scene.render(cameras).rgb[..., 0, 0]
        assert float(rgb[0].mean()) < 0.8 * float(rgb[1].mean())


class TestCulling:
    @pytest.mark.parametrize("kind", KINDS)
    def test_no_hit_is_lost(self, kind):
        """Rays tested against every solid give the same first hits, shadows and distances as the culled ones."""
        scene = ProceduralScene.sample(3, kind)
        solids = pad_and_stack([scene.solids])
        camera = scene.sample_cameras(1, 0, 64, 32)
        render = scene.render(camera)
        count = len(scene.solids.shape)
        order = torch.argsort(scene.solids.shape != BOX, stable=True)
        boxes = int((scene.solids.shape == BOX).sum())
        every = Pairs(torch.zeros(count, dtype=torch.int64), order, boxes)
        direction = torch.einsum("ji,hwj->ihw", camera.cam_from_world[0, :3, :3], camera.pixel_rays()[0]).flatten(1)
        t, _ = nearest_hit(camera.centers, direction[None], solids, every)
        expected = torch.where(torch.isfinite(t), t, 0.0).view(32, 64)
        torch.testing.assert_close(render.depth[0], expected, rtol=1e-5, atol=1e-5)

        normals = render.normals[0].permute(1, 2, 0)
        start = (camera.unproject(render.depth)[0] + 1e-3 * normals).reshape(32, 64, 3).transpose(1, 2)[None]
        use = (~render.sky)[0][None]
        sun = scene.light.sun
        beams = Beams.around_points(start, use, 0.0).along(sun[None])
        few = touching_pairs(beams, beams, solids, solids.radius)
        path = (300 * sun)[None, :, None].expand(32, 3, 64)
        culled = unblocked(start[0], path, solids, few)
        full = Pairs(
            torch.cat([torch.arange(32).repeat_interleave(boxes), torch.arange(32).repeat_interleave(count - boxes)]),
            torch.cat([order[:boxes].repeat(32), order[boxes:].repeat(32)]),
            32 * boxes,
        )
        assert torch.equal(culled[use[0]], unblocked(start[0], path, solids, full)[use[0]])
        assert len(few.bundle) < 0.7 * len(full.bundle)


class TestCamerasAgree:
    @pytest.mark.parametrize("kind", KINDS)
    def test_panorama_and_perspective(self, kind):
        """A panorama's distances are those of one-pixel perspective cameras along the same directions."""
        scene = ProceduralScene.sample(5, kind)
        camera = scene.sample_cameras(1, 0, 32, 18)
        rig = camera.world_from_cam[0]
        panorama = scene.render_panorama(rig, 32)
        assert panorama.depth.shape == (1, 32, 64)
        generator = torch.Generator().manual_seed(0)
        v, u = torch.randint(0, 32, (60,), generator=generator), torch.randint(0, 64, (60,), generator=generator)
        azimuth, elevation = (u + 0.5) / 64 * 2 * pi - pi, pi / 2 - (v + 0.5) / 32 * pi
        local = torch.stack([elevation.cos() * azimuth.sin(), -elevation.sin(), elevation.cos() * azimuth.cos()], dim=1)
        center = rig[:3, 3].expand(60, 3)
        single = scene.render(_looking_at(center, center + local @ rig[:3, :3].T))
        far, near = panorama.depth[0, v, u], single.depth[:, 0, 0]
        agree = ((far - near).abs() <= 1e-3 * near) & (panorama.sky[0, v, u] == single.sky[:, 0, 0])
        assert agree.float().mean() > 0.95

    @pytest.mark.parametrize("kind", KINDS)
    def test_two_cameras(self, kind):
        """A point that one camera sees lies on the other camera's ray, or behind what that ray hits; same colour."""
        scene = ProceduralScene.sample(6, kind)
        first = scene.sample_cameras(1, 0, 48, 27)
        render = scene.render(first)
        seen = (render.depth[0] > 0) & (render.depth[0] < 40)
        points = first.unproject(render.depth)[0][seen][::7]
        colors = render.rgb[0][:, seen].T[::7]
        center = first.centers + torch.tensor([[0.12, -0.08, 0.1]])
        second = scene.render(_looking_at(center.expand(len(points), 3), points))
        distance = (points - center).norm(dim=1)
        depth = second.depth[:, 0, 0]
        assert bool((depth <= distance * 1.002 + 1e-3).all())
        assert bool((depth > 0).all())
        visible = (depth - distance).abs() < 2e-3 * distance
        assert visible.float().mean() > 0.7
        difference = (second.rgb[visible, :, 0, 0] - colors[visible]).abs().amax(dim=1)
        assert float(difference.median()) < 0.03

    @pytest.mark.parametrize("kind", KINDS)
    def test_normals_sky_and_ranges(self, kind):
        scene = ProceduralScene.sample(8, kind)
        cameras = scene.sample_cameras(3, 1, 48, 27)
        render = scene.render(cameras)
        sky = render.sky
        assert bool(((render.depth == 0) == sky).all())
        assert bool(torch.isfinite(render.rgb).all() and (render.rgb >= 0).all() and (render.rgb <= 1).all())
        length = render.normals.norm(dim=1)
        torch.testing.assert_close(length, (~sky).float(), rtol=0, atol=1e-5)
        direction = torch.einsum("nji,nhwj->nihw", cameras.cam_from_world[:, :3, :3], cameras.pixel_rays())
        assert bool(((render.normals * direction).sum(dim=1)[~sky] <= 1e-6).all())
        points = cameras.unproject(render.depth).permute(0, 3, 1, 2)
        across, down = points[:, :, :-1, 1:] - points[:, :, :-1, :-1], points[:, :, 1:, :-1] - points[:, :, :-1, :-1]
        estimate = torch.nn.functional.normalize(torch.linalg.cross(down, across, dim=1), dim=1)
        inverse = 1 / render.depth.clamp(min=1e-3)
        bend_x = (inverse[:, :-1, 2:] - 2 * inverse[:, :-1, 1:-1] + inverse[:, :-1, :-2]).abs() / inverse[:, :-1, 1:-1]
        bend_y = (inverse[:, 2:, :-1] - 2 * inverse[:, 1:-1, :-1] + inverse[:, :-2, :-1]).abs() / inverse[:, 1:-1, :-1]
        flat = (bend_x[:, 1:] < 1e-4) & (bend_y[:, :, 1:] < 1e-4) & ~sky[:, 1:-1, 1:-1]
        assert flat.float().mean() > 0.1
        cosine = (estimate * render.normals[:, :, :-1, :-1]).sum(dim=1)[:, 1:, 1:][flat]
        assert float((cosine > 0.999).float().mean()) > 0.98


class TestSeeds:
    def test_same_seed_same_bytes(self):
        before = torch.random.get_rng_state()
        for kind in KINDS:
            renders = []
            for _ in range(2):
                scene = ProceduralScene.sample(11, kind)
                renders.append(scene.render(scene.sample_cameras(1, 4, 40, 24)))
            assert torch.equal(renders[0].rgb, renders[1].rgb)
            assert torch.equal(renders[0].depth, renders[1].depth)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_other_seed_other_scene(self):
        first, second = (ProceduralScene.sample(seed, "room") for seed in (1, 2))
        assert first.solids.center.shape != second.solids.center.shape or not torch.equal(
            first.solids.center, second.solids.center
        )
        cameras = [first.sample_cameras(2, seed, 40, 24).cam_from_world for seed in (0, 1)]
        assert not torch.equal(*cameras)

    def test_kind_drawn_from_the_seed(self):
        kinds = [ProceduralScene.sample(seed).kind for seed in range(24)]
        assert set(kinds) == set(KINDS)
        assert kinds[:4] == [ProceduralScene.sample(seed).kind for seed in range(4)]

    def test_batch_is_single(self):
        scenes = [ProceduralScene.sample(seed, kind) for seed, kind in enumerate(KINDS)]
        cameras = [scene.sample_cameras(1 + k % 2, 0, 40, 24) for k, scene in enumerate(scenes)]
        batch = render_scenes(scenes, cameras)
        apart = [scene.render(some) for scene, some in zip(scenes, cameras, strict=True)]
        torch.testing.assert_close(batch.depth, torch.cat([r.depth for r in apart]), rtol=1e-5, atol=1e-5)
        assert torch.equal(batch.sky, torch.cat([r.sky for r in apart]))
        assert float((batch.rgb - torch.cat([r.rgb for r in apart])).abs().mean()) < 1e-4


class TestSampledCameras:
    @pytest.mark.parametrize("kind", KINDS)
    def test_free_upright_and_of_something(self, kind):
        for seed in (21, 22):
            scene = ProceduralScene.sample(seed, kind)
            cameras = scene.sample_cameras(5, 3, 48, 27, (50, 60))
            assert len(cameras) == 5
            assert (cameras.width, cameras.height) == (48, 27)
            assert float(scene.distance(cameras.centers).min()) > 0.34
            assert bool((cameras.centers[:, 1] < -0.8).all() and (cameras.centers[:, 1] > -2.6).all())
            down = cameras.cam_from_world[:, :3, 1]
            assert float(down[:, 1].min()) > 0.85
            assert float(down[:, 0].abs().max()) < 0.15
            fov = torch.rad2deg(2 * torch.atan(24 / cameras.intrinsics[:, 0, 0]))
            assert bool((fov >= 49.99).all() and (fov <= 60.01).all())
            render = scene.render(cameras)
            assert float(render.sky.float().mean(dim=(1, 2)).max()) < 0.75
            assert float((1 * ((render.depth > 0) & (render.depth < 0.5))).float().mean(dim=(1, 2)).max()) < 0.1
            assert float(render.rgb.mean(dim=(1, 2, 3)).min()) > 0.03
            assert float(render.rgb.std(dim=(2, 3)).mean(dim=1).min()) > 0.01


class TestTextures:
    def test_pulse_is_a_box_filter(self):
        x, width = torch.tensor([0.1, 0.45, 3.9, -1.3]), torch.tensor([0.2, 0.7, 0.05, 2.3])
        offsets = (torch.arange(20000) + 0.5) / 20000 - 0.5
        wave = torch.remainder(x[:, None] + width[:, None] * offsets - 0.3, 1) < 0.4
        torch.testing.assert_close(pulse(x, width, 0.3, 0.4), wave.float().mean(dim=1), rtol=0, atol=2e-3)

    def test_noise(self):
        points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * 20
        values = smooth_noise(points)
        assert float(values.abs().max()) <= 1
        assert float(values.std()) > 0.2
        assert float((smooth_noise(points + 1e-3) - values).abs().max()) < 0.02
        torch.testing.assert_close(smooth_noise(points + 32), values, rtol=0, atol=1e-3)
        assert float(fractal_noise(points, torch.full((2000,), 2.0)).abs().max()) == 0

    def test_hash_is_even(self):
        values = hashed(torch.arange(4000.0), torch.full((4000,), 7.0))
        assert torch.histc(values, 4, 0, 1).min() > 900

    def test_every_texture_shows(self):
        """Each texture varies over a wall and stays finite."""
        colors = ((0.2, 0.3, 0.4), (0.8, 0.7, 0.5), (0.1, 0.6, 0.1))
        for name in TEXTURES:
            material = Material(name, colors, period=(0.4, 0.3))
            scene = _scene(lambda b, m=material: b.box((0, 0, 3), (6, 4, 1), m))
            rgb = scene.render(_posed((0.0, -1.5, 0.0), width=32, height=20)).rgb
            assert bool(torch.isfinite(rgb).all()), name
            assert float(rgb.std()) > 0.005, name


class TestBadInput:
    def test_messages(self):
        scene = ProceduralScene.sample(0, "garden")
        with pytest.raises(InputError, match="seed -1"):
            ProceduralScene.sample(-1)
        with pytest.raises(InputError, match="number of cameras 0"):
            scene.sample_cameras(0, 0, 8, 8)
        with pytest.raises(InputError, match="height 0"):
            scene.render_panorama(torch.eye(4), 0)
        with pytest.raises(InputError, match="1 scenes but 0"):
            render_scenes([scene], [])
        with pytest.raises(InputError, match="different image sizes"):
            render_scenes([scene] * 2, [Cameras.from_fov(60.0, 8, 8), Cameras.from_fov(60.0, 16, 8)])


def test_packing_pads_with_nothing():
    """A scene's picture does not change when it is padded to a longer one."""
    small, large = (ProceduralScene.sample(seed, "garden").solids for seed in (2, 5))
    both = pad_and_stack([small, large])
    assert isinstance(both, Solids)
    assert both.shape.shape == (2, max(len(small.shape), len(large.shape)))
    assert bool((both.radius[both.shape < 0] < 0).all())
