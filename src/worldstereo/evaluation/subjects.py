"""What evaluations start from: one picture of a scene of which more is known."""

from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.data.captures import Capture, find_captures, picture_files
from worldstereo.data.procedural import ProceduralScene
from worldstereo.errors import InputError
from worldstereo.evaluation.ladder_clips import FIRST_SEED
from worldstereo.evaluation.protocol import PROCEDURAL_SOURCE, file_names, fingerprint
from worldstereo.images import fit_picture, load_picture, working_size

PROCEDURAL = "procedural, held out"
CAPTURES = "captures"
PHOTOS = "photos"

_SIZE = (832, 480)  # of pictures of procedural scenes
_SHORT_SIDE = 480  # of pictures of captures, at most


@dataclass(frozen=True, eq=False)
class Subject:
    """A picture, and what is known of its scene.

    Attributes:
        name: fit for a file.
        source: what tells its data from others' of that name; see `Item.source`.
        group: the set that its figures belong to.
        picture: RGB in [0, 1].
        camera: of the picture, in the scene's world; none for photos.
        depth: z-depth of the picture, 0 = unknown.
        sky: where the picture is known to show sky.
        scene: the procedural scene, which can be seen from anywhere.
        capture: what the picture is the first frame of.
    """

    name: str
    source: str
    group: str
    picture: Float[Tensor, "3 h w"]
    camera: Cameras | None
    depth: Float[Tensor, "h w"]
    sky: Bool[Tensor, "h w"]
    scene: ProceduralScene | None = None
    capture: Capture | None = None

    @property
    def has_depth(self) -> bool:
        """Whether something of the depth is known."""
        return bool((self.depth > 0).any())

    def fitted(self, width: int, height: int) -> "Subject":
        """The same, cropped in the middle and resized; depth takes the nearest pixel, never mixing two surfaces."""
        fitted = fit_picture(self.picture, width, height)
        camera = None if self.camera is None else fitted.follow(self.camera)
        maps = torch.stack([self.depth, self.sky.float()])[None]
        depth, sky = F.interpolate(fitted.fit.crop(maps), size=(height, width), mode="nearest-exact")[0]
        return replace(self, picture=fitted.rgb, camera=camera, depth=depth, sky=sky > 0.5)


def procedural_subject(number: int, width: int = _SIZE[0], height: int = _SIZE[1], device: str = "cpu") -> Subject:
    """A view of a scene that training never sees."""
    seed = FIRST_SEED + number
    scene = ProceduralScene.sample(seed, device=device)
    camera = scene.sample_cameras(1, seed, width, height)
    render = scene.render(camera)
    picture = (render.rgb[0].clamp(0, 1) * 255).round().cpu() / 255
    maps = render.depth[0].cpu(), render.sky[0].cpu()
    return Subject(f"procedural-{seed}", PROCEDURAL_SOURCE, PROCEDURAL, picture, camera.to("cpu"), *maps, scene=scene)


def capture_subject(name: str, capture: Capture, frame: int = 0) -> Subject:
    """A frame of a capture, by default the first.

    Raises:
        InputError: its picture or depth cannot be read.
    """
    own = capture.video.cameras
    width, height = working_size(own.width, own.height, min(_SHORT_SIDE, min(own.width, own.height) // 16 * 16))
    loaded = capture.video.load([frame], width, height)
    picture, depth = loaded.frames[0].float() / 255, loaded.depth[0]
    nowhere = torch.zeros_like(depth, dtype=torch.bool)
    source = fingerprint(*capture.video.identity())
    return Subject(name, source, CAPTURES, picture, loaded.cameras, depth, nowhere, capture=capture)


def photo_subject(name: str, path: Path) -> Subject:
    """A photograph of which nothing is known.

    Raises:
        InputError: it cannot be read.
    """
    rgb = load_picture(path).rgb
    width, height = working_size(rgb.shape[2], rgb.shape[1], _SHORT_SIDE)
    picture = fit_picture(rgb, width, height).rgb
    nothing = torch.zeros(height, width)
    return Subject(name, fingerprint(path.read_bytes()), PHOTOS, picture, None, nothing, nothing > 0)


def find_subjects(data: Path | None, scenes: int, device: str = "cpu", *, photos: bool = False) -> list[Subject]:
    """Views of procedural scenes, the first frames of all captures in a folder and, where asked for, its photos.

    Raises:
        InputError: there is nothing, or something cannot be read.
    """
    subjects = [procedural_subject(number, device=device) for number in range(scenes)]
    if data is not None:
        pictures = picture_files(data) if photos else []
        captures = {} if pictures else find_captures(data)
        subjects += starmap(photo_subject, zip(file_names(path.stem for path in pictures), pictures, strict=True))
        subjects += starmap(capture_subject, zip(file_names(captures), captures.values(), strict=True))
    if not subjects:
        raise InputError(f"--scenes {scenes}: there is nothing to evaluate; give scenes or --data")
    return subjects
