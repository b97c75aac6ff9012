"""The generator with a network: what the memories know, turned into a clip by a `KeyframeVideoPipeline`."""

from collections.abc import Callable
from dataclasses import asdict, replace

from jaxtyping import Float
from torch import Tensor

from worldstereo.cameras import Cameras
from worldstereo.errors import InputError
from worldstereo.geometry.rendering import PointRender
from worldstereo.memory.global_geometric import GlobalGeometricMemory
from worldstereo.models.paper import PaperTransformer
from worldstereo.pipelines.clip_inputs import (
    CameraConvention,
    camera_inputs,
    memory_inputs,
    render_guidance,
    stereo_inputs,
)
from worldstereo.pipelines.generator import ClipConditions
from worldstereo.pipelines.generator_options import GeneratorOptions
from worldstereo.pipelines.keyframe_video import ClipFormat, KeyframeInputs, KeyframeVideoPipeline


class NetworkGenerator:
    """Makes clips with a network of either layout."""

    is_baseline = False

    def __init__(
        self,
        name: str,
        pipeline: KeyframeVideoPipeline,
        cameras: CameraConvention,
        options: GeneratorOptions,
        licence: str,
    ) -> None:
        """
        Args:
            name: what `--model` was.
            cameras: how the network was shown cameras and the cloud.
            options: what it was loaded with.
            licence: of the weights, for people.
        """
        self.name = name
        self._pipeline = pipeline
        self._cameras = cameras
        self.options = asdict(options)
        self.licence = licence
        self._filled_background = options.render_background == "filled"
        self._prompts = options.prompt, options.negative_prompt

    @property
    def clip_format(self) -> ClipFormat:
        """What the network's clips look like."""
        return self._pipeline.clip_format

    @property
    def frames(self) -> int:
        """Per clip."""
        return self.clip_format.frames

    @property
    def uses_reference_depth(self) -> bool:
        """If it has a stereo branch with pointmaps, and holes are filled before it sees them."""
        network, mode = self._pipeline.network, self._pipeline.clip_format.condition_mode
        stereo = network.stereo if isinstance(network, PaperTransformer) else None
        return stereo is not None and stereo.config.pointmaps and mode == "filled_render"

    def clip_size(self, width: int, height: int, short_side: int | None) -> tuple[int, int]:
        """(width, height): the model's size nearest in shape, of those with that short side if one is asked for.

        Raises:
            InputError: the model has no size with that short side.
        """
        clip_format = self.clip_format
        if short_side is not None:
            fitting = tuple(size for size in clip_format.sizes if min(size) == short_side)
            if not fitting:
                known = ", ".join(f"{w}×{h}" for h, w in clip_format.sizes)
                raise InputError(f"--short-side {short_side}: {self.name} makes clips of {known}; leave the option out")
            clip_format = clip_format.only(fitting)
        rows, columns = clip_format.size_for(width, height)
        return columns, rows

    def render_guidance(self, memory: GlobalGeometricMemory, cameras: Cameras) -> PointRender:
        """As the network was shown it."""
        return render_guidance(memory, cameras, self._cameras)

    def generate(self, conditions: ClipConditions, on_progress: Callable[[int, int], None]) -> Float[Tensor, "f 3 h w"]:
        """Frames along the path; the first one is the given image."""
        frames = self._pipeline(self._inputs(conditions), *self._prompts, seed=conditions.seed, on_step=on_progress)
        frames[0] = conditions.image
        return frames

    def _inputs(self, conditions: ClipConditions) -> KeyframeInputs:
        network = self._pipeline.network
        if isinstance(network, PaperTransformer) and network.stereo is not None:
            inputs = stereo_inputs(conditions, self._cameras, network.stereo.config.pointmaps)
        elif not isinstance(network, PaperTransformer) and network.config.memory:
            inputs = memory_inputs(conditions, self._cameras)
        else:
            inputs = camera_inputs(conditions, self._cameras)
        if self.clip_format.condition_mode == "filled_render":
            filled = conditions.remembered_render() if self.uses_reference_depth else conditions.filled_render()
            inputs = replace(inputs, filled=filled)
        if self._filled_background:
            inputs = replace(inputs, render=conditions.filled_render())
        return inputs
