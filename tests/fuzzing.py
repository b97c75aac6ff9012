"""Damaged files for every reader: whatever is in a file, a reader gives a result or an `InputError` that names it."""

import gzip
import json
import random
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tiny_networks import write_paper_model
from worldstereo.cameras import Cameras
from worldstereo.cameras.files import (
    Observations,
    read_cameras,
    read_colmap_points,
    read_official_scene,
    write_colmap_binary,
    write_colmap_text,
    write_official,
    write_official_bank,
    write_realestate10k,
    write_transforms,
    write_world_mirror,
)
from worldstereo.data.captures import read_capture
from worldstereo.data.rgbd import read_rgbd_folder
from worldstereo.depth.file import FileDepth
from worldstereo.depth.nano import load_depth_network
from worldstereo.errors import InputError
from worldstereo.evaluation.surfaces import read_points
from worldstereo.exporters.glb import read_glb, write_glb
from worldstereo.exporters.gltf_splats import read_gltf_splats, write_gltf_splats
from worldstereo.exporters.ply import read_ply_with_normals, write_ply
from worldstereo.exporters.splat_ply import read_splat_ply, write_splat_ply
from worldstereo.exporters.spz import read_spz, write_spz
from worldstereo.exporters.world_parts import mesh_of, splats_of
from worldstereo.files import write_tensors
from worldstereo.geometry.point_cloud import PointCloud
from worldstereo.geometry.splats import GaussianSplats
from worldstereo.geometry.triangle_mesh import TriangleMesh
from worldstereo.images import load_picture, load_png
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.models.checkpoints import load_published, load_uni3c
from worldstereo.models.depth_network import DepthNetwork, DepthNetworkConfig
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.models.text_encoder import load_prompt_embeddings, save_prompt_embeddings
from worldstereo.models.weight_files import read_weights
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.loading import LoadedModel
from worldstereo.pipelines.scene_list import read_scenes
from worldstereo.pipelines.world_folder import ClipPlan, Manifest, Request, World
from worldstereo.reconstruction.folder import ReconstructionFolder

_PARITY = Path(__file__).parent / "data" / "parity"

WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"nan",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"99999999999999999999",
    b"\xff\xfe",
    b"true",
    b" ",
)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FC00000, 0x7F800000)


@dataclass(frozen=True)
class Target:
    """A reader and a file for it.

    Attributes:
        make: writes the files into a folder and gives those to damage, one at a time.
        read: reads them; is given the damaged file.
        packed: whether the file is gzip, whose content is damaged as often as the file itself.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    packed: bool = False


@dataclass
class Outcome:
    """What became of the damaged files of one reader."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0


def fuzz(name: str, count: int, seed: int, folder: Path) -> Outcome:
    """Read `count` damaged files with the reader `name`.

    Raises:
        AssertionError: something other than a result or an `InputError` naming the file came out; the message tells
            the seed, and the damaged file is kept as `folder`/failed.
    """
    target, outcome = TARGETS[name], Outcome()
    samples = [(path, path.read_bytes()) for path in target.make(folder)]
    for path, _ in samples:
        target.read(path)
    for number in range(count):
        generator = random.Random(f"{name}/{seed}/{number}")
        path, good = generator.choice(samples)
        path.write_bytes(damaged(good, generator, target.packed and generator.random() < 0.5))
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read(path)
            outcome.read += 1
        except InputError as error:
            outcome.refused += 1
            if str(folder) not in str(error):
                raise AssertionError(f"{name}, seed {seed}, number {number}: no file is named: {error}") from error
        except Exception as error:
            (folder / "failed").write_bytes(path.read_bytes())
            raise AssertionError(f"{name}, seed {seed}, number {number}: {type(error).__name__}: {error}") from error
        outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
        path.write_bytes(good)
    return outcome


def damaged(good: bytes, generator: random.Random, inside: bool) -> bytes:
    """The content with one to four places changed; of the unpacked content if `inside`."""
    content = bytearray(gzip.decompress(good) if inside else good)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        # Headers are short and decide most; half of the changes happen there.
        place = generator.randrange(min(len(content), 400) if generator.random() < 0.5 else len(content) or 1)
        match generator.randrange(7):
            case 0:
                content[place : place + 1] = bytes([generator.randrange(256)])
            case 1:
                content[place : place + 1] = bytes([content[place] ^ 1 << generator.randrange(8)])
            case 2:
                content[place : place + 4] = struct.pack("<I", generator.choice(NUMBERS))
            case 3:
                del content[place : place + generator.randrange(1, 60)]
            case 4:
                end = place
                while end < len(content) and chr(content[end]).isalnum():
                    end += 1
                content[place:end] = generator.choice(WORDS)
            case 5:
                content[place:place] = content[place : place + generator.randrange(1, 60)]
            case 6:
                del content[place:]
        content = content or bytearray(b"\0")
    return gzip.compress(bytes(content), 1) if inside else bytes(content)


def _cameras() -> Cameras:
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.arange(3.0)
    return Cameras.from_fov(70.0, 64, 48).with_poses(poses)


def _points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, generator=generator), torch.rand(12, 3, generator=generator)


def _splats() -> GaussianSplats:
    points, colors = _points()
    turns = torch.nn.functional.normalize(torch.cat([points, colors[:, :1]], dim=1), dim=1)
    return GaussianSplats(points, colors + 0.01, turns, colors[:, 0] * 0.9 + 0.05, colors)


def _written(name: str, write: Callable[[Path], object]) -> Callable[[Path], list[Path]]:
    """Makes the one file `name` by `write`."""

    def make(folder: Path) -> list[Path]:
        write(folder / name)
        return [folder / name]

    return make


def _colmap(write: Callable[..., None]) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        seen = Observations(torch.tensor([0, 1]), torch.tensor([4, 4]), torch.ones(2, 2))
        write(folder / "model", _cameras(), ["a.png", "b.png", "c.png"], *_points(), seen)
        return sorted((folder / "model").iterdir())

    return make


def _read_colmap(path: Path) -> object:
    return read_colmap_points(path.parent) if path.stem == "points3D" else read_cameras(path.parent)


def _frames(path: Path) -> None:
    k = [[50, 0, 32], [0, 50, 24], [0, 0, 1]]
    frame = {"image": "a.png", "w2c": np.eye(4).tolist(), "K": k, "width": 64, "height": 48}
    path.write_text(json.dumps({"convention": "w2c OpenCV", "frames": [frame, frame]}))


def _ascii_ply(path: Path) -> None:
    properties = "".join(f"property float {name}\n" for name in "xyz") + "property uchar red\n"
    path.write_text(
        f"ply\nformat ascii 1.0\ncomment a\nelement vertex 3\n{properties}end_header\n1 2 3 4\n" + "5 6 7 8\n" * 2
    )


def _manifest(path: Path) -> None:
    request = Request(
        picture_sha256="0", projection="perspective", depth="nano", camera="", model="warp", options={"steps": 4},
        trajectories=("pan-left:4",), seed=0, frames=4, size=(64, 48), squeeze=False, default_fov=60.0, software="0",
    )  # fmt: skip
    clip = ClipPlan("000-pan-left-4", "pan-left:4", 1.0, "input")
    manifest = Manifest(request, "a.jpg", 64, 48, "nano", False, "60°", 2.0, (0.0, -1.0, 0.0), (clip,))
    path.parent.mkdir(parents=True, exist_ok=True)
    World.create(path.parent, manifest)


def _open_world(path: Path) -> object:
    world = World(path.parent)
    return world.clips, world.is_done, float(world.manifest.radius), world.manifest.width * world.manifest.height


def _picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (72, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _depth(path: Path) -> None:
    depth = np.linspace(1, 2, 72 * 80, dtype=np.float32).reshape(72, 80)
    if path.suffix == ".npz":
        np.savez(path, depth=depth)
    elif path.suffix == ".npy":
        np.save(path, depth)
    else:
        Image.fromarray((depth * 1000).astype(np.uint16)).save(path)


def _memory(path: Path) -> None:
    GlobalGeometricMemory(PointCloud(*_points()), PointCloud.empty()).save(path)


def _mesh() -> TriangleMesh:
    return TriangleMesh(_points()[0], torch.tensor([[0, 1, 2], [3, 4, 5]]), _points()[1])


def _reconstructed_mesh(path: Path) -> None:
    _manifest(path.parents[1] / "world.json")
    ReconstructionFolder(path.parent).write_mesh(_mesh())


def _reconstructed_splats(path: Path) -> None:
    _manifest(path.parents[1] / "world.json")
    write_tensors(path, vars(_splats()))


def _camera_json(write: Callable[..., None], *arguments: object) -> Callable[[Path], list[Path]]:
    return _written("camera.json", lambda path: write(path, _cameras(), *arguments))


def _scene_list(path: Path) -> None:
    """Lines of `worldstereo batch`."""
    scene = {"picture": "a.jpg", "trajectory": ["orbit-right:20", "pan-left:4"], "fov": 60.0, "steps": 4, "seed": 1}
    lines = [scene | {"out": name, "squeeze": True, "prompt": "a room"} for name in ("one", "two", "three")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _official_scene(folder: Path) -> list[Path]:
    """A panorama's bank of crops, one view with captions, and what was judged of it."""
    bank, view = folder / "scene" / "pano_bank", folder / "scene" / "view0"
    (bank / "images").mkdir(parents=True)
    (view / "traj0").mkdir(parents=True)
    for name in NAMES:
        _picture(bank / "images" / name)
    _picture(view / "start_frame.png")
    write_official_bank(bank / "cameras.json", _cameras(), NAMES)
    write_official(view / "traj0" / "camera.json", _cameras())
    (view / "traj0" / "traj_caption.json").write_text(json.dumps({"long caption": "a room", "prompt": "room"}))
    (view / "valid_analysis.json").write_text(json.dumps({"valid": "yes"}))
    return sorted(folder.rglob("*.json"))


def _seven_scenes(folder: Path) -> list[Path]:
    for name, pose in zip(NAMES, _cameras().world_from_cam, strict=True):
        stem = f"frame-00000{NAMES.index(name)}"
        _picture(folder / f"{stem}.color.png")
        _depth(folder / f"{stem}.depth.png")
        np.savetxt(folder / f"{stem}.pose.txt", pose.numpy())
    return sorted(folder.glob("*.pose.txt"))


def _tum_rgbd(folder: Path) -> list[Path]:
    _picture(folder / "a.png")
    _depth(folder / "d.png")
    stamps = [1305031452.0 + k for k in range(3)]
    for name, picture in (("rgb", "a.png"), ("depth", "d.png")):
        (folder / f"{name}.txt").write_text("# list\n" + "".join(f"{stamp} {picture}\n" for stamp in stamps))
    (folder / "groundtruth.txt").write_text("".join(f"{stamp} {k} 0 0 0 0 0 1\n" for k, stamp in enumerate(stamps)))
    return sorted(folder.glob("*.txt"))


def _posed_depth(folder: Path) -> list[Path]:
    """One frame with depth, one without, and points."""
    _frames(folder / "cameras.json")
    listing = json.loads((folder / "cameras.json").read_text())
    for frame in listing["frames"]:
        frame |= {"width": 80, "height": 72}
    listing["frames"][0]["depth"] = "d.png"
    (folder / "cameras.json").write_text(json.dumps(listing))
    _picture(folder / "a.png")
    Image.fromarray(np.full((72, 80), 2000, np.uint16)).save(folder / "d.png")
    _points_npz(folder / "points.npz")
    return sorted(folder.iterdir())


def _dtu(folder: Path) -> list[Path]:
    scan, calibration = folder / "Rectified" / "scan1", folder / "Calibration" / "cal18"
    scan.mkdir(parents=True)
    calibration.mkdir(parents=True)
    cameras = _cameras()
    projections = cameras.intrinsics @ cameras.cam_from_world[:, :3]
    for position, projection in enumerate(projections.numpy(), 1):
        _picture(scan / f"rect_{position:03d}_max.png")
        np.savetxt(calibration / f"pos_{position:03d}.txt", projection)
    return sorted(calibration.iterdir())


def _coded_depth(folder: Path) -> list[Path]:
    (folder / "rgb").mkdir()
    (folder / "depth").mkdir()
    (folder / "meta.json").write_text(
        json.dumps({"width": 64, "height": 48, "K": [[50, 0, 32], [0, 50, 24], [0, 0, 1]]})
    )
    _picture(folder / "rgb" / "7.jpg")
    Image.fromarray(np.full((72, 80), 99, np.uint8)).save(folder / "depth" / "7.png")
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _rgbd_of(path: Path) -> object:
    """The RGB-D frames of the folder around one of its files."""
    return read_rgbd_folder(path.parent.parent if path.parent.name in ("rgb", "depth") else path.parent)


def _tanks_and_temples(folder: Path) -> list[Path]:
    scene = folder / "Barn"
    scene.mkdir()
    log = ""
    for k, pose in enumerate(_cameras().world_from_cam.tolist()):
        _picture(scene / NAMES[k])
        log += f"{k} {k} 0\n" + "".join(" ".join(map(str, row)) + "\n" for row in pose)
    (scene / "Barn_COLMAP_SfM.log").write_text(log)
    np.savetxt(scene / "Barn_trans.txt", np.diag([2.0, 2, 2, 1]))
    return [scene / "Barn_COLMAP_SfM.log", scene / "Barn_trans.txt"]


def _scene_of(path: Path) -> object:
    """The official scene around one of its files."""
    return read_official_scene(next(folder for folder in path.parents if folder.name == "scene"))


def _points_npz(path: Path) -> None:
    np.savez(path, xyz=_points()[0].numpy())


def _weights(path: Path) -> None:
    tensors = {"weight": _points()[0], "bias": _points()[1]}
    if path.suffix == ".pth":
        torch.save(tensors, path)
    else:
        write_tensors(path, tensors)


def _prompt_embeddings(path: Path) -> None:
    save_prompt_embeddings(path, torch.rand(2, 3, 4), ["a room", "ugly"], "some")


def _depth_network(folder: Path) -> list[Path]:
    config = DepthNetworkConfig((8,) * 5, (0, 0, 0, 0, 0), 0, (8,) * 4)
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    write_tensors(folder / "model.safetensors", DepthNetwork(config).state_dict())
    return [folder / "config.json", folder / "model.safetensors"]


def _model(folder: Path) -> list[Path]:
    write_paper_model(folder / "tiny")
    return sorted(path for path in (folder / "tiny").rglob("*") if path.suffix in (".json", ".safetensors"))


def _load_model(path: Path) -> object:
    """The model around one of its files."""
    folder = next(folder for folder in path.parents if folder.name == "tiny")
    options, placement = GeneratorOptions(), Placement()
    precision = options.on(placement.device).precision
    return LoadedModel("tiny", ModelFiles(ModelSource(folder)), precision, placement).generator(options)


def _published(folder: Path) -> list[Path]:
    names = ("memory_static.config.json", "memory_static.weights.safetensors")
    return [Path(shutil.copy(_PARITY / name, folder)) for name in names]


def _load_published(path: Path) -> object:
    """The network of the two files, of which one is given."""
    config, weights = (path.with_name(f"memory_static.{what}") for what in ("config.json", "weights.safetensors"))
    return load_published(config, weights)


def _uni3c(folder: Path, suffix: str) -> list[Path]:
    tensors = load_file(_PARITY / "memory_static.weights.safetensors")
    entries = {name: x for name, x in tensors.items() if name.startswith("controlnet.")}
    theirs = {k.removeprefix("controlnet.") if "_embedding." in k else k: x for k, x in entries.items()}
    path = folder / f"controlnet{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs, path)
    return [path]


NAMES = ("a.png", "b.png", "c.png")
TARGETS: dict[str, Target] = {
    "camera.json": Target(_camera_json(write_official), read_cameras),
    "bank cameras.json": Target(_camera_json(write_official_bank, NAMES), read_cameras),
    "WorldMirror cameras.json": Target(_camera_json(write_world_mirror, NAMES), read_cameras),
    "transforms.json": Target(_camera_json(write_transforms, NAMES, "cloud.ply"), read_cameras),
    "frames JSON": Target(_written("camera.json", _frames), read_cameras),
    "RealEstate10K text": Target(
        _written("camera.txt", lambda path: write_realestate10k(path, _cameras(), "https://a.example/v")),
        lambda path: read_cameras(path, width=64, height=48),
    ),
    "COLMAP text": Target(_colmap(write_colmap_text), _read_colmap),
    "COLMAP binary": Target(_colmap(write_colmap_binary), _read_colmap),
    "PLY": Target(
        _written("a.ply", lambda path: write_ply(path, PointCloud(*_points()), _points()[1])), read_ply_with_normals
    ),
    "PLY text": Target(_written("a.ply", _ascii_ply), read_ply_with_normals),
    "splat PLY": Target(_written("a.ply", lambda path: write_splat_ply(path, _splats())), read_splat_ply),
    "SPZ": Target(_written("a.spz", lambda path: write_spz(path, _splats())), read_spz, packed=True),
    "GLB": Target(_written("a.glb", lambda path: write_glb(path, _mesh())), read_glb),
    "glTF splats": Target(_written("a.glb", lambda path: write_gltf_splats(path, _splats())), read_gltf_splats),
    "world.json": Target(_written("w/world.json", _manifest), _open_world),
    "PNG": Target(_written("a.png", _picture), load_picture),
    "JPEG": Target(_written("a.jpg", _picture), load_picture),
    "WebP": Target(_written("a.webp", _picture), load_picture),
    "frame PNG": Target(_written("a.png", _picture), load_png),
    "depth npy": Target(_written("a.npy", _depth), FileDepth),
    "depth npz": Target(_written("a.npz", _depth), FileDepth),
    "depth PNG": Target(_written("a.png", _depth), lambda path: FileDepth(path, 0.001)),
    "memory": Target(_written("m.safetensors", _memory), GlobalGeometricMemory.load),
    "reconstructed mesh": Target(
        _written("reconstruction/mesh.safetensors", _reconstructed_mesh), lambda path: mesh_of(World(path.parents[1]))
    ),
    "reconstructed splats": Target(
        _written("reconstruction/splats.safetensors", _reconstructed_splats),
        lambda path: splats_of(World(path.parents[1])),
    ),
    "list.jsonl": Target(_written("list.jsonl", _scene_list), read_scenes),
    "official scene": Target(_official_scene, _scene_of),
    "7-Scenes": Target(_seven_scenes, lambda path: read_capture(path.parent)),
    "TUM RGB-D": Target(_tum_rgbd, lambda path: read_capture(path.parent)),
    "DTU": Target(_dtu, lambda path: read_capture(path.parents[2] / "Rectified" / "scan1")),
    "posed pictures": Target(_posed_depth, lambda path: read_capture(path.parent)),
    "RGB-D, posed": Target(_posed_depth, _rgbd_of),
    "RGB-D, coded": Target(_coded_depth, _rgbd_of),
    "Tanks and Temples": Target(_tanks_and_temples, lambda path: read_capture(path.parent)),
    "points npz": Target(_written("points.npz", _points_npz), read_points),
    "weights pth": Target(_written("a.pth", _weights), read_weights),
    "weights safetensors": Target(_written("a.safetensors", _weights), read_weights),
    "prompt embeddings": Target(_written("a.safetensors", _prompt_embeddings), load_prompt_embeddings),
    "depth network": Target(_depth_network, lambda path: load_depth_network(path.parent)),
    "model": Target(_model, _load_model),
    "published network": Target(_published, _load_published),
    "Uni3C safetensors": Target(partial(_uni3c, suffix=".safetensors"), partial(load_uni3c, num_heads=2)),
    "Uni3C pth": Target(partial(_uni3c, suffix=".pth"), partial(load_uni3c, num_heads=2)),
}
