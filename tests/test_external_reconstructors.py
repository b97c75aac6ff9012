"""Reconstructors from elsewhere, through stand-ins with their packages' interfaces: their networks were never run here.

A stand-in refuses what the package would refuse or ignore. It draws the box room from the very cameras that it is
given and compares it with the pictures that it is given, so that a wrong convention, crop or half pixel is seen.
"""

import sys
import types
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from typer.testing import CliRunner

from box_room import look, predicted, see_room
from conftest import run_command
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import write_transforms
from worldstereo.cameras.rotations import quaternion_from_matrix
from worldstereo.cli import app
from worldstereo.errors import InputError
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.images import save_png
from worldstereo.memory.lifting import lift_picture
from worldstereo.reconstruction.external import ExternalViews, create_reconstructor, is_external, predict_jointly
from worldstereo.reconstruction.external.frame_size import depth_at_size, fit_network
from worldstereo.reconstruction.posed_frames import PosedFrames
from worldstereo.reconstruction.reconstruct import ReconstructionSettings, reconstruct_frames

TURN = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
SHIFT, UNIT = torch.tensor([1.0, 2, 3]), 0.25
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def standing_at(x: float, y: float, z: float, yaw: float) -> Cameras:
    camera = look(0.0, yaw)
    pose = camera.cam_from_world.clone()
    pose[0, :3, 3] = -pose[0, :3, :3] @ torch.tensor([float(x), y, z])
    return camera.with_poses(pose)


CAMERAS = Cameras.cat(
    [
        standing_at(0, 0, 0, 0),
        standing_at(0.4, -0.2, 0.1, -6),
        standing_at(-0.4, 0.1, 0.2, 5),
        standing_at(0, 0.3, 0, 2),
    ]
)


def theirs(cameras: Cameras) -> Cameras:
    """The cameras in the frame and unit of a network."""
    return cameras.transformed(TURN, SHIFT, UNIT)


def require_same_view(pictures: torch.Tensor, cameras: Cameras) -> torch.Tensor:
    """The room's depth in these cameras, if the pictures show the room as they see it."""
    shown, depth = see_room(cameras)
    assert pictures.shape == shown.shape
    assert float((pictures - shown).abs().median()) < 2e-3
    assert float((pictures - shown).abs().quantile(0.97 if pictures.numel() < 2**24 else 0.5)) < 0.03
    return depth


class Loaded:
    """What every network can do."""

    cameras = CAMERAS
    lost = 0  # frames of which nothing is said

    def to(self, device):
        assert str(device) == "cpu"
        return self

    def eval(self):
        return self

    def damaged(self, depth):
        """Depth in the network's unit, in one corner not a number."""
        depth = UNIT * depth
        depth[:, :6, :6] = torch.nan
        return self.kept(depth)

    def kept(self, values):
        return values[: len(values) - self.lost]


class DepthAnything3(Loaded):
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path):
        return cls()

    def inference(self, image, extrinsics=None, intrinsics=None, align_to_input_ext_scale=True, process_res=504):
        """Resizes the whole pictures: the longer side to `process_res`, the other to the nearest multiple of 14."""
        assert all(picture.dtype.name == "uint8" for picture in image)
        height, width = image[0].shape[:2]
        given = Cameras(torch.from_numpy(extrinsics), torch.from_numpy(intrinsics), width, height)
        pictures = torch.stack([torch.from_numpy(picture) for picture in image]).permute(0, 3, 1, 2) / 255
        require_same_view(pictures, given)
        assert width > height
        _, depth = see_room(given.resized(process_res, round(height / width * process_res / 14) * 14))
        poses = self.kept(theirs(given).cam_from_world[:, :3])
        return types.SimpleNamespace(depth=self.damaged(depth).numpy(), extrinsics=poses.numpy())


class VGGT(Loaded):
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        enable_camera=True,
        enable_point=True,
        enable_depth=True,
        enable_track=True,
    ):
        assert enable_camera
        assert enable_depth
        return cls()

    def __call__(self, images, query_points=None):
        batch, frames, channels, height, width = images.shape
        assert (batch, channels, height % 14, width % 14, max(height, width)) == (1, 3, 0, 0, 518)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        seen = self.cameras.resized(width, height)
        depth = require_same_view(images[0], seen)
        confidence = torch.full((frames, height, width), 7.0)
        confidence[:, -6:] = 1.2
        pose = theirs(seen).cam_from_world
        quaternion = quaternion_from_matrix(pose[:, :3, :3])
        encoded = torch.cat([pose[:, :3, 3], quaternion[:, [1, 2, 3, 0]], torch.ones(frames, 2)], dim=1)
        return {
            "pose_enc": self.kept(encoded)[None],
            "depth": self.damaged(depth)[None, ..., None],
            "depth_conf": self.kept(confidence)[None],
            "images": images,
        }


def pose_encoding_to_extri_intri(
    pose_encoding, image_size_hw=None, pose_encoding_type="absT_quaR_FoV", build_intrinsics=True
):
    """Translation, quaternion (x, y, z, w) and fields of view to camera-from-world 3×4 and intrinsics."""
    assert tuple(pose_encoding.shape[2:]) == (9,)
    assert len(image_size_hw) == 2
    x, y, z, w = pose_encoding[..., 3:7].unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), pose_encoding[..., 0]],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), pose_encoding[..., 1]],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), pose_encoding[..., 2]],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2), torch.eye(3)


class MapAnything(Loaded):
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path):
        return cls()

    def infer(
        self, views, memory_efficient_inference=False, use_amp=True, amp_dtype="bf16", apply_mask=True, mask_edges=True
    ):
        """The keywords that all versions have; keys as the package checks them."""
        allowed = {"img", "data_norm_type", "depth_z", "ray_directions", "intrinsics", "camera_poses"}
        given = []
        for view in views:
            assert set(view) <= allowed | {"is_metric_scale", "true_shape", "idx", "instance"}
            assert not {"intrinsics", "ray_directions"} <= set(view)
            assert view["data_norm_type"] == ["dinov2"]
            assert view["is_metric_scale"].tolist() == [False]
            height, width = view["img"].shape[-2:]
            assert (height % 14, width % 14, max(height, width)) == (0, 0, 518)
            rays = view["ray_directions"]
            torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, height, width))
            k = intrinsics_of(rays[0])
            given.append(Cameras(torch.linalg.inv(view["camera_poses"]), k[None], width, height))
        pictures = torch.cat([view["img"] for view in views]) * DEVIATION[:, None, None] + MEAN[:, None, None]
        depth = self.damaged(require_same_view(pictures, Cameras.cat(given)))
        depth[:, -6:] *= 0 if apply_mask else 1
        poses = theirs(Cameras.cat(given)).world_from_cam
        return [
            {"depth_z": one[None, ..., None], "camera_poses": pose[None], "conf": torch.ones_like(one)[None]}
            for one, pose in zip(depth, poses, strict=False)
        ]


def intrinsics_of(rays: torch.Tensor) -> torch.Tensor:
    """Of the camera whose rays through the pixel centres (at +0.5) these are."""
    height, width = rays.shape[:2]
    across, down = rays[0, :, 0] / rays[0, :, 2], rays[:, 0, 1] / rays[:, 0, 2]
    fx, fy = (width - 1) / (across[-1] - across[0]), (height - 1) / (down[-1] - down[0])
    return torch.tensor([[fx, 0, 0.5 - fx * across[0]], [0, fy, 0.5 - fy * down[0]], [0, 0, 1]])


class WorldMirror(Loaded):
    sides = (518,)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *, enable_cam=True, enable_pts=True, enable_depth=True, enable_norm=True,
        enable_gs=True,
    ):  # fmt: skip
        assert enable_cam
        assert enable_depth
        return cls()

    def __call__(self, views, cond_flags=(0, 0, 0), is_inference=True):
        assert list(cond_flags) == [1, 0, 1]
        assert set(views) == {"img", "camera_poses", "camera_intrs"}
        height, width = views["img"].shape[-2:]
        assert (height % 14, width % 14) == (0, 0)
        assert max(height, width) in self.sides
        relative = views["camera_poses"][0]
        torch.testing.assert_close(relative[0], torch.eye(4), atol=1e-5, rtol=0)
        poses = torch.linalg.inv(relative) @ self.cameras.cam_from_world[0]
        given = Cameras(poses, views["camera_intrs"][0], width, height)
        depth = require_same_view(views["img"][0], given)
        confidence = torch.full_like(depth, 3.0)
        confidence[:, -height // 12 :] = 1.01
        return {
            "depth": self.damaged(depth)[None, ..., None],
            "depth_conf": self.kept(confidence)[None],
            "camera_poses": self.kept(theirs(given).world_from_cam)[None],
        }


class WorldMirror2(WorldMirror):
    """The pipeline's way to the network, and the network."""

    sides = (126, 714, 826)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path="tencent/HY-World-2.0", *, subfolder="HY-WorldMirror-2.0", config_path=None,
        ckpt_path=None, use_fsdp=False, enable_bf16=False, fsdp_cpu_offload=False, disable_heads=None,
    ):  # fmt: skip
        assert subfolder == "HY-WorldMirror-2.0"
        assert set(disable_heads) <= {"normal", "points", "gs"}
        return types.SimpleNamespace(model=cls())

    def __call__(self, views, cond_flags=(0, 0, 0), is_inference=True, sp_size=1, sp_group=None):
        """Sure everywhere, but that the lowest rows are no depth."""
        found = super().__call__(views, cond_flags, is_inference)
        confidence = torch.full_like(found["depth_conf"], 3.0)
        logits = torch.full_like(confidence, 2.0)
        logits[:, :, -(logits.shape[2] // 12) :] = -1.0
        return found | {"depth_conf": confidence, "depth_mask_logits": logits, "depth_mask": logits.sigmoid()}


NETWORKS = {
    "da3": (DepthAnything3, "depth_anything_3.api", "DepthAnything3"),
    "vggt": (VGGT, "vggt.models.vggt", "VGGT"),
    "map-anything": (MapAnything, "mapanything.models", "MapAnything"),
    "world-mirror": (WorldMirror, "src.models.models.worldmirror", "WorldMirror"),
    "world-mirror-2": (WorldMirror2, "hyworld2.worldrecon.pipeline", "WorldMirrorPipeline"),
}


def put_module(monkeypatch, path: str, **content) -> None:
    """A module in `sys.modules`, and its packages."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if not isinstance(sys.modules.get(package), types.ModuleType):
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    module = types.ModuleType(path)
    for name, value in content.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, path, module)


def install(monkeypatch, kind: str) -> type[Loaded]:
    network, path, name = NETWORKS[kind]
    put_module(monkeypatch, path, **{name: network})
    if kind == "vggt":
        put_module(monkeypatch, "vggt.utils.pose_enc", pose_encoding_to_extri_intri=pose_encoding_to_extri_intri)
    return network


@pytest.fixture(scope="module")
def room():
    images, depth = see_room(CAMERAS)
    return images, depth


@pytest.mark.parametrize("kind", NETWORKS)
def test_depth_comes_back_in_our_unit_and_at_our_size(kind, monkeypatch, room):
    images, depth = room
    install(monkeypatch, kind)
    found = predict_jointly(create_reconstructor(kind), images, CAMERAS)
    assert [one.depth.shape for one in found] == [one.shape for one in depth]
    for one, truth in zip(found, depth, strict=True):
        error = (one.depth / truth - 1).abs()[one.valid]
        assert float(error.quantile(0.9)) < 1e-4  # creases and edges between walls are the rest
        assert float(one.depth[0, 0]) == 0  # was not a number
        assert float(one.valid[2:-8].float().mean()) > 0.99
        assert one.source == create_reconstructor(kind).name


@pytest.mark.parametrize("kind", ["vggt", "map-anything", "world-mirror", "world-mirror-2"])
def test_what_the_network_is_unsure_of_is_unknown(kind, monkeypatch, room):
    install(monkeypatch, kind)
    found = predict_jointly(create_reconstructor(kind), room[0], CAMERAS)
    assert all(not bool(one.valid[-1].any()) for one in found)


@pytest.mark.parametrize("kind", NETWORKS)
def test_another_number_of_frames_is_refused(kind, monkeypatch, room):
    monkeypatch.setattr(install(monkeypatch, kind), "lost", 1)
    with pytest.raises(InputError, match=f"{kind}:.*3 depths and 3 poses for 4 frames"):
        predict_jointly(create_reconstructor(kind), room[0], CAMERAS)


@pytest.mark.parametrize(
    ("spec", "licence"),
    [
        ("da3", "Apache-2.0"),
        ("map-anything", "Apache-2.0"),
        ("map-anything:facebook/map-anything", "CC BY-NC 4.0"),
        ("vggt", "CC BY-NC 4.0"),
        ("vggt:facebook/VGGT-1B-Commercial", "commercial use allowed"),
        ("world-mirror", "HunyuanWorld-Mirror Community Licence (not granted in the EU"),
        ("world-mirror-2", "HY-WORLD 2.0 Community Licence (not granted in the EU"),
        ("vggt:my/own", "model card"),
    ],
)
def test_licences_are_those_of_the_weights(spec, licence, monkeypatch):
    install(monkeypatch, spec.partition(":")[0])
    network = create_reconstructor(spec)
    assert is_external(spec)
    assert licence in network.licence
    assert network.name.startswith(spec)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_missing_package_is_named_with_where_it_is(kind, monkeypatch):
    path = NETWORKS[kind][1]
    monkeypatch.setitem(sys.modules, path.split(".")[0], None)
    with pytest.raises(InputError, match=rf"^--depth {kind}:.*needs the package '{path.split('.')[0]}.*github\.com/"):
        create_reconstructor(kind)


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_that_cannot_be_loaded_are_named(kind, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no such model")

    monkeypatch.setattr(install(monkeypatch, kind), "from_pretrained", fail)
    with pytest.raises(InputError, match=rf"^--depth {kind}:no/such: cannot be loaded \(OSError: no such model\)"):
        create_reconstructor(f"{kind}:no/such")


def test_unknown_names_and_devices_are_refused(monkeypatch):
    with pytest.raises(InputError, match="known: da3, map-anything, vggt, world-mirror, world-mirror-2"):
        create_reconstructor("colmap")
    install(monkeypatch, "vggt")
    with pytest.raises(InputError, match="--device somewhere"):
        create_reconstructor("vggt", "somewhere")


class Runs:
    """A network without a package that answers each run of frames in another frame and unit."""

    name, licence = "runs", "none"

    def __init__(self, most_frames, room_for=100):
        self.most_frames, self.room_for = most_frames, room_for
        self.asked = []

    def views(self, images, cameras):
        self.asked.append(len(images))
        if len(images) > self.room_for:
            raise torch.OutOfMemoryError("too much")
        unit = 0.1 * len(self.asked)
        _, depth = see_room(cameras)
        return ExternalViews(unit * depth, cameras.transformed(TURN, SHIFT, unit).cam_from_world)


@pytest.mark.parametrize(
    ("network", "asked"),
    [(Runs(3), [2, 2]), (Runs(4), [4]), (Runs(9, room_for=2), [4, 2, 2])],
    ids=["runs", "all", "memory"],
)
def test_more_frames_than_fit_go_in_runs_of_one_unit(network, asked, room):
    images, depth = room
    found = predict_jointly(network, images, CAMERAS)
    assert network.asked == asked
    for one, truth in zip(found, depth, strict=True):
        torch.testing.assert_close(one.depth, truth, atol=0, rtol=1e-4)


def test_a_frame_too_large_for_the_memory_is_refused(room):
    with pytest.raises(InputError, match="runs: one frame of 128×80 is too much"):
        predict_jointly(Runs(4, room_for=0), room[0], CAMERAS)


def test_one_frame_keeps_the_unit_of_the_network(room):
    images, depth = room
    found = predict_jointly(Runs(4), images[:1], CAMERAS[0])
    torch.testing.assert_close(found[0].depth, 0.1 * depth[0], atol=0, rtol=1e-4)


def test_poses_that_are_not_finite_are_refused(room):
    class Lost(Runs):
        def views(self, images, cameras):
            views = super().views(images, cameras)
            return replace(views, cam_from_world=views.cam_from_world * torch.nan)

    with pytest.raises(InputError, match="poses that are not finite"):
        predict_jointly(Lost(4), room[0], CAMERAS)


@pytest.mark.parametrize(("height", "width"), [(480, 720), (322, 518), (96, 64), (350, 200), (1, 1)])
def test_a_plane_keeps_its_depth_at_every_size(height, width):
    """z = 1 / (a + b·x + c·y) of a slanted plane, at the pixel centres, to 1e-4 everywhere, the border included."""

    def plane(rows: int, columns: int) -> torch.Tensor:
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        return (1 / (0.2 + 0.3 * x + 0.15 * y))[None]

    found = depth_at_size(plane(322, 518), height, width)
    assert float((found / plane(height, width) - 1).abs().max()) < 1e-4


def test_depth_is_never_mixed_across_an_edge_or_with_the_unknown():
    depth = torch.full((1, 7, 14), 2.0)
    depth[:, :, 7:] = 4.0
    depth[:, 3] = 0.0
    found = depth_at_size(depth, 40, 90)
    nearest = torch.tensor([0.0, 2.0, 4.0])[(found[..., None] - torch.tensor([0.0, 2.0, 4.0])).abs().argmin(dim=-1)]
    torch.testing.assert_close(found, nearest)
    assert float((found == 0).float().mean()) == pytest.approx(1 / 7, abs=0.02)


@pytest.mark.parametrize(
    ("width", "height", "fitted"), [(720, 480, (518, 350)), (480, 720, (350, 518)), (90, 30, (518, 168))]
)
def test_frames_are_fitted_whole_with_their_cameras(width, height, fitted):
    camera = Cameras.from_fov(60.0, width, height)
    images, seen = fit_network(torch.rand(1, 3, height, width), camera, long_side=518, multiple=14)
    assert (seen.width, seen.height) == fitted
    assert tuple(images.shape[2:]) == (fitted[1], fitted[0])
    corners = torch.tensor([[-0.5, -0.4, 1.0], [0.3, 0.2, 1.0]])
    before, after = camera.project(corners)[0], seen.project(corners)[0]
    share = torch.tensor([fitted[0] / width, fitted[1] / height])
    torch.testing.assert_close(after, before * share)


@pytest.mark.parametrize(("width", "fitted"), [(720, 714), (1280, 826)])
def test_world_mirror_2_is_given_frames_at_their_size_up_to_826(width, fitted, monkeypatch):
    install(monkeypatch, "world-mirror-2")
    cameras = CAMERAS[:2].resized(width, width * 5 // 8)
    views = create_reconstructor("world-mirror-2").views(see_room(cameras)[0], cameras)
    assert views.depth.shape[2] == fitted


def test_a_scene_is_reconstructed_from_what_a_network_says(monkeypatch, tmp_path, room):
    images, depth = room
    install(monkeypatch, "da3")
    levels = (images * 255).round().to(torch.uint8)
    frames = PosedFrames(
        cameras=CAMERAS,
        clips=("a",) * len(CAMERAS),
        names=tuple(f"f{n}" for n in range(len(CAMERAS))),
        cloud=lift_picture(images[0], predicted(depth[0]), CAMERAS[0]).cloud,
        sky=PointCloud.empty(),
        read=lambda index: levels[index],
    )
    settings = ReconstructionSettings(refine=False, mesh=False, splats=None)
    result = reconstruct_frames(frames, tmp_path / "r", create_reconstructor("da3"), settings)
    points = result.cloud.points
    low, high = torch.tensor([-3.0, -1.5, -2.0]), torch.tensor([3.0, 1.5, 5.0])
    to_walls = torch.minimum((points - low).abs(), (points - high).abs()).amin(dim=1)
    box_low, box_high = torch.tensor([-0.6, 0.2, 2.0]), torch.tensor([0.5, 1.5, 3.0])
    off_box = (torch.maximum(box_low - points, points - box_high)).clamp(min=0).norm(dim=1)
    assert len(points) > 5_000
    assert float(torch.minimum(to_walls, off_box).quantile(0.95)) < 0.02


def posed_folder(folder):
    images, _ = see_room(CAMERAS)
    names = [f"{n}.png" for n in range(len(CAMERAS))]
    for name, image in zip(names, images, strict=True):
        save_png(folder / name, image)
    write_transforms(folder / "transforms.json", CAMERAS, names)
    return folder


@pytest.mark.skipif(find_spec("vggt") is not None, reason="vggt is installed here")
def test_the_command_says_in_one_sentence_which_package_is_missing(tmp_path):
    (tmp_path / "capture").mkdir()
    done = run_command("reconstruct", posed_folder(tmp_path / "capture"), "--depth", "vggt", "--quiet")
    assert done.returncode == 2
    assert "needs the package 'vggt'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "capture.reconstruction").exists()


def test_the_command_says_the_licence_of_the_weights(tmp_path, monkeypatch):
    (tmp_path / "capture").mkdir()
    folder = posed_folder(tmp_path / "capture")
    monkeypatch.setattr(install(monkeypatch, "map-anything"), "cameras", CAMERAS)
    options = ["--depth", "map-anything", "--no-refine", "--no-mesh", "--splats", "0", "--quiet"]
    done = CliRunner().invoke(app, ["reconstruct", str(folder), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "weights under Apache-2.0" in done.output
    assert (tmp_path / "capture.reconstruction" / "point_cloud.ply").is_file()
