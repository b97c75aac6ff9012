"""From a model's files to a generator. What decides a clip is read from the model's own configuration; a field that is
missing there is an error, never a guess."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.files import read_json
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.checkpoints import load_published
from worldstereo.models.hub import ModelFiles
from worldstereo.models.image_encoder import encode_image
from worldstereo.models.keyframe_codec import KeyframeCodec
from worldstereo.models.low_memory import offload, quantizer, store_in_float8
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.pretrained import load_complete
from worldstereo.models.wan_codec import WanKeyframeCodec
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, PUBLISHED_CAMERAS, CameraConvention
from worldstereo.pipelines.generator import VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement, Precision
from worldstereo.pipelines.keyframe_video import (
    ClipFormat,
    ConditionMode,
    KeyframeVideoPipeline,
    PromptEncoder,
    Sampling,
    contexts,
)
from worldstereo.pipelines.network import NetworkGenerator
from worldstereo.pipelines.prompts import GivenEmbeddings, TextEncoder
from worldstereo.pipelines.sharp_network import SharpGenerator
from worldstereo.schedulers.few_step import FewStepFlowScheduler
from worldstereo.schedulers.published_unipc import PublishedUniPC

_PUBLISHED = {"worldstereo-camera": "camera", "worldstereo-memory": "memory", "worldstereo-memory-dmd": "memory"}
_DISTILLED = "worldstereo-memory-dmd"
_PAPER = "worldstereo-paper"
_STEPS, _GUIDANCE = 40, 5.0  # of the official scripts; the published configs do not say
_OUTPUT = "output_short_side"
_SHIPPED_EMBEDDINGS = "prompt_embeds.safetensors"
_MOST_LAYERS, _LARGEST_SIZE = 1000, 1_000_000
_MOST_STEPS = 1000
_MOST_FRAMES, _SHORTEST_SIDE, _LONGEST_SIDE = 1000, 16, 4096


class LoadedModel:
    """A model whose networks are in memory; its generators share them.

    A published model's folder holds `config.json` and `model.safetensors`; everything else comes from the base model
    that the configuration names. Nothing of the base model's transformer but its configuration is fetched if the
    checkpoint is complete. A model in the paper's layout (`model_type` "worldstereo-paper") is a folder with
    `backbone/`, `control/`, `stereo/` and `autoencoder/`; with `shares_parts` all but the backbone lies in the folder
    above. docs/models.md describes both.
    """

    def __init__(
        self,
        name: str,
        files: ModelFiles,
        precision: Precision,
        placement: Placement,
        expected: Sequence[GeneratorOptions] = (),
    ) -> None:
        """
        Args:
            name: what the user called it.
            precision: with a data type that the device has; also that of all options to come.
            expected: options that generators will be made with, in that order; their prompts are encoded many at a
                time (see `TextEncoder`).

        Raises:
            InputError: a file or field is missing or wrong.
        """
        self.name = name
        self._placement, self._precision = placement, precision
        with _wrong_files(files):
            path = files.file("config.json")
            self._config = config = Fields(read_json(path), str(path))
            self._kind = kind = _kind(files, config)
            self._base = files.base(config["base_model"]) if kind != _PAPER or "base_model" in config.values else None
            self._rest = replace(files, source=files.source.above()) if config.values.get("shares_parts") else files
            self._network, self._codec = self._load(files)
            self._clip_format = read_clip_format(config)
            _check_fit(config, self._clip_format, self._network, self._codec)
            self._short_side = _output_short_side(config)
            self._encode_text = self._text_encoder(expected)
        self._files = files
        self._licence = _licence(name, files)

    def generator(self, options: GeneratorOptions) -> VideoGenerator:
        """The generator with these options; loads no network.

        With the field `output_short_side` the model works at its own size inside a `SharpGenerator`.

        Raises:
            InputError: an option does not go with the model, or a small file that it needs is missing or wrong.
        """
        with _wrong_files(self._files):
            pipeline, cameras = self.pipeline(options)
        options = options.on(self._placement.device)
        generator = NetworkGenerator(self.name, pipeline, cameras, options, self._licence)
        return generator if self._short_side is None else SharpGenerator(generator, self._short_side)

    def pipeline(self, options: GeneratorOptions) -> tuple[KeyframeVideoPipeline, CameraConvention]:
        """The pipeline with these options, and how the model was shown cameras; loads no network.

        Raises:
            ValueError: the model was loaded with another precision.
            InputError: as in `generator`.
        """
        options = options.on(self._placement.device)
        if options.precision != self._precision:
            raise ValueError(f"{self.name} was loaded with {self._precision}, not {options.precision}")
        base = self._base
        pipeline = KeyframeVideoPipeline(
            self._network,
            self._codec,
            _sampling(self._kind, self._config, base, options),
            self._clip_format,
            self._prompt_encoder(options),
            None if base is None else _image_encoder(base, options, self._placement),
            self._placement.device,
        )
        published = replace(PUBLISHED_CAMERAS, ray_grid=options.ray_grid)
        return pipeline, OWN_CAMERAS if self._kind == _PAPER else published

    def _load(self, files: ModelFiles) -> tuple[nn.Module, KeyframeCodec]:
        precision, placement = self._precision, self._placement
        if self._kind == _PAPER:
            network, codec = _paper(files, self._rest, self._base, precision, placement)
        else:
            assert self._base is not None
            network, codec = _published(self._kind, files, self._base, self._config, precision, placement)
        for part in _parts(network):
            if precision.quantize == "float8":
                store_in_float8(part, precision.torch_dtype)
            offload(part, placement.offload, placement.device)
        return network, codec

    def _text_encoder(self, expected: Sequence[GeneratorOptions]) -> TextEncoder | None:
        """That of the base model, which is not loaded yet; none without a base model."""
        if self._base is None:
            return None
        own = self._clip_format.negative_prompt
        prompts = [
            contexts(
                options.prompt,
                own if options.negative_prompt is None else options.negative_prompt,
                _guidance(self._kind, self._config, options),
            )
            for options in expected
            if options.prompt_embeddings is None
        ]
        return TextEncoder(self._base, self._precision.torch_dtype, self._placement.device, prompts)

    def _prompt_encoder(self, options: GeneratorOptions) -> PromptEncoder:
        """Given embeddings, or the base model's text encoder, or those that a model without text encoder ships."""
        width = _backbone(self._network).config.text_dim
        if options.prompt_embeddings is not None:
            return GivenEmbeddings(Path(options.prompt_embeddings), width, knows_texts=False)
        return self._encode_text or GivenEmbeddings(self._rest.file(_SHIPPED_EMBEDDINGS), width, knows_texts=True)


def load_pipeline(
    files: ModelFiles,
    options: GeneratorOptions = GeneratorOptions(),  # noqa: B008 (frozen)
    placement: Placement = Placement(),  # noqa: B008 (frozen)
) -> tuple[KeyframeVideoPipeline, CameraConvention]:
    """The pipeline of a model's files, and how the model was shown cameras.

    Raises:
        InputError: a file or field is missing or wrong, or an option does not go with the model.
    """
    precision = options.on(placement.device).precision
    return LoadedModel(str(files.source), files, precision, placement).pipeline(options)


@dataclass(frozen=True)
class Fields:
    """A configuration whose missing fields are errors."""

    values: dict[str, Any]
    name: str

    def __getitem__(self, field: str) -> Any:
        if field not in self.values:
            raise InputError(f"{self.name}: the field '{field}' is missing; take the config that came with the weights")
        return self.values[field]


def read_clip_format(config: Fields) -> ClipFormat:
    """The clips of a model's configuration.

    Raises:
        InputError: a field is missing, or holds what no model's clips have.
    """
    frames, sizes, mode = config["nframe"], config["scale_map"], config["latent_cond_mode"]
    if not _is_between(frames, 2, _MOST_FRAMES):
        raise InputError(
            f"{config.name}: the field 'nframe' is {frames!r} but must be a whole number from 2 to {_MOST_FRAMES}"
        )
    if not isinstance(sizes, list) or not sizes or not all(_is_size(size) for size in sizes):
        raise InputError(
            f"{config.name}: the field 'scale_map' is {sizes!r} but must list [height, width] pairs of whole numbers "
            f"from {_SHORTEST_SIDE} to {_LONGEST_SIDE}"
        )
    if mode not in (modes := get_args(ConditionMode)):
        raise InputError(
            f"{config.name}: the field 'latent_cond_mode' is {mode!r} but must be one of {', '.join(modes)}"
        )
    if not isinstance(negative := config.values.get("negative_prompt", ""), str):
        raise InputError(f"{config.name}: the field 'negative_prompt' is {negative!r} but must be a text")
    return ClipFormat(frames, tuple((y, x) for y, x in sizes), mode, negative)


def _check_fit(config: Fields, clip_format: ClipFormat, network: nn.Module, codec: KeyframeCodec) -> None:
    """Refuse clips that the networks cannot make."""
    if clip_format.condition_mode == "full_vae" and not isinstance(codec, WanKeyframeCodec):
        raise InputError(
            f"{config.name}: the field 'latent_cond_mode' is 'full_vae', which needs Wan's autoencoder; use another "
            f"mode with this model's own"
        )
    _, rows, columns = (codec.spatial_factor * size for size in _backbone(network).config.patch_size)
    if misfits := [[y, x] for y, x in clip_format.sizes if y % rows or x % columns]:
        raise InputError(
            f"{config.name}: the field 'scale_map' has {misfits[0]}, but this network's heights are multiples of "
            f"{rows} and its widths of {columns}"
        )


def _is_size(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(_is_between(side, _SHORTEST_SIDE, _LONGEST_SIDE) for side in value)


def _is_between(value: Any, least: int, most: int) -> bool:
    """Whether it is a whole number of that range."""
    return type(value) is int and least <= value <= most


@contextlib.contextmanager
def _wrong_files(files: ModelFiles) -> Iterator[None]:
    """Turn what the libraries raise about a model's files into one sentence.

    Raises:
        InputError: the block raised an error other than of memory.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # errors of configurations, files and shapes share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"model {files.source}: its files are damaged or of another kind of model ({type(error).__name__}: "
            f"{reason}); fetch the model again"
        ) from error


def _check_sizes(path: Path) -> None:
    """Refuse a network's configuration that would fill the memory before its weights are looked at.

    Raises:
        InputError: it is no JSON object, or a size in it is beyond any network's.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a JSON object; fetch the model again")
    for field, value in values.items():
        largest = _MOST_LAYERS if "layers" in field or "blocks" in field else _LARGEST_SIZE
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, (int, float)) and not abs(number) <= largest:
                raise InputError(f"{path}: the field '{field}' is {number}, beyond any network; fetch the model again")


def _licence(name: str, files: ModelFiles) -> str:
    stated = files.licence()
    return f"{name}: licence {stated}" if stated else f"{name}: states no licence; ask its makers"


def _output_short_side(config: Fields) -> int | None:
    """Of the clips that are made around the network's; none where the network's are the clips."""
    short_side = config.values.get(_OUTPUT)
    if short_side is None:
        return None
    if type(short_side) is not int or short_side < 64 or short_side % 16:
        raise InputError(f"{config.name}: the field '{_OUTPUT}' is {short_side!r} but must be a multiple of 16 from 64")
    return short_side


def _kind(files: ModelFiles, config: Fields) -> str:
    """The name of the kind of model: said by the config, or by its folder as in the official release."""
    kind = config.values.get("model_type") or str(files.source).replace(":", "/").rstrip("/").rsplit("/", 1)[-1]
    if kind not in (*_PUBLISHED, _PAPER):
        known = ", ".join((*_PUBLISHED, _PAPER))
        raise InputError(f"{config.name}: the field 'model_type' is {kind!r} but must be one of {known}")
    return kind


def _published(
    kind: str, files: ModelFiles, base: ModelFiles, config: Fields, precision: Precision, placement: Placement
) -> tuple[nn.Module, KeyframeCodec]:
    dtype, device = precision.torch_dtype, placement.device
    network = load_published(
        {
            "kind": _PUBLISHED[kind],
            "transformer": read_json(base.component("transformer", config_only=True) / "config.json"),
            "controlnet_cfg": config["controlnet_cfg"],
        },
        files.file("model.safetensors"),
        base_weights=lambda: sorted(base.component("transformer").glob("*.safetensors")),
        dtype=dtype,
        device=device if placement.offload == "none" else "cpu",
        on_module=quantizer(precision.quantize),
    ).network
    return network, _wan_codec(base, dtype, device, placement)


def _paper(
    files: ModelFiles, rest: ModelFiles, base: ModelFiles | None, precision: Precision, placement: Placement
) -> tuple[nn.Module, KeyframeCodec]:
    """Of the backbone among `files` and of all that is among the `rest`."""
    dtype, device = precision.torch_dtype, placement.device
    parts = {name: rest.component(name) for name in ("control", "stereo") if rest.has(name)}
    parts["backbone"] = files.component("backbone")
    for folder in parts.values():
        _check_sizes(folder / "config.json")
    network = PaperTransformer.from_folders(parts, torch_dtype=dtype).requires_grad_(False)
    if quantize := quantizer(precision.quantize):
        for module in [m for m in network.modules() if type(m).__name__ in ("TransformerBlock", "ModulatedBlock")]:
            quantize(module)
    if placement.offload == "none":
        network = network.to(device)
    if not rest.has("autoencoder"):
        if base is None:
            raise InputError(f"{rest.source}: has neither the folder autoencoder/ nor a base_model in config.json")
        return network, _wan_codec(base, dtype, device, placement)
    autoencoder = rest.component("autoencoder")
    _check_sizes(autoencoder / "config.json")
    return network, load_complete(KeyframeAutoencoder, autoencoder).to(device).eval()


def _wan_codec(base: ModelFiles, dtype: torch.dtype, device: str, placement: Placement) -> WanKeyframeCodec:
    folder = base.component("vae").parent
    return WanKeyframeCodec.from_pretrained(
        folder, dtype=dtype, device=device, local_files_only=True, tiled=placement.offload != "none"
    )


def _image_encoder(
    base: ModelFiles, options: GeneratorOptions, placement: Placement
) -> Callable[[Float[Tensor, "3 h w"]], Float[Tensor, "1 m d"]]:
    dtype = options.precision.torch_dtype

    def encode(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 m d"]:
        folders = base.component("image_encoder"), base.component("image_processor")
        return encode_image(image, *folders, options.pixel_scale, dtype, placement.device)

    return encode


def _sampling(kind: str, config: Fields, base: ModelFiles | None, options: GeneratorOptions) -> Sampling:
    if _is_distilled(kind, config):
        steps = config["dmd_steps"]
        if options.steps not in (None, steps) or options.guidance not in (None, 1.0):
            raise InputError(f"{config.name}: a model of {steps} steps without guidance; leave both options out")
        start, end, shift = (float(config[name]) for name in ("dmd_start_steps", "dmd_end_steps", "gen_shift"))
        return Sampling(FewStepFlowScheduler(start, end, steps, shift), steps, 1.0)
    if kind == _PAPER:
        steps, values = config["num_inference_steps"], config["scheduler"]
        if not _is_between(steps, 1, _MOST_STEPS):
            raise InputError(
                f"{config.name}: the field 'num_inference_steps' is {steps!r} but must be a whole number from 1 to "
                f"{_MOST_STEPS}"
            )
        if not isinstance(values, dict) or not values.get("use_flow_sigmas"):
            raise InputError(
                f"{config.name}: the field 'scheduler' is {values!r} but must be an object of UniPC's settings with "
                f"'use_flow_sigmas': true"
            )
        scheduler = PublishedUniPC.from_config(values)
    else:
        assert base is not None
        steps = _STEPS
        values = read_json(base.component("scheduler") / "scheduler_config.json")
        if values.get("_class_name") != "UniPCMultistepScheduler" or not values.get("use_flow_sigmas"):
            raise InputError(f"{base.source}: its scheduler is not the UniPC over flow sigmas that {kind} was made for")
        scheduler = PublishedUniPC.from_config(values)
    return Sampling(scheduler, options.steps or steps, _guidance(kind, config, options))


def _guidance(kind: str, config: Fields, options: GeneratorOptions) -> float:
    if _is_distilled(kind, config):
        return 1.0
    if options.guidance is not None:
        return options.guidance
    return float(config["guidance_scale"]) if kind == _PAPER else _GUIDANCE


def _is_distilled(kind: str, config: Fields) -> bool:
    return kind == _DISTILLED or (kind == _PAPER and "dmd_steps" in config.values)


def _backbone(network: nn.Module) -> Any:
    """The `KeyframeTransformer` that a network is or holds."""
    return network.backbone if isinstance(network, PaperTransformer) else network


def _parts(network: nn.Module) -> list[nn.Module]:
    """The networks that a network consists of."""
    if isinstance(network, PaperTransformer):
        return [part for part in (network.backbone, network.control, network.stereo) if part is not None]
    return [network]
