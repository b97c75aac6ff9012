"""From a model's files to a generator. What decides a clip is read from the model's own configuration; a field that is
missing there is an error, never a guess."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from worldstereo.models.text_encoder import encode_prompts, load_prompt_embeddings
from worldstereo.models.wan_codec import WanKeyframeCodec
from worldstereo.pipelines.clip_inputs import OWN_CAMERAS, PUBLISHED_CAMERAS, CameraConvention
from worldstereo.pipelines.generator import VideoGenerator
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.keyframe_video import ClipFormat, KeyframeVideoPipeline, PromptEncoder, Sampling
from worldstereo.pipelines.network import NetworkGenerator
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


def load_generator(name: str, files: ModelFiles, options: GeneratorOptions, placement: Placement) -> VideoGenerator:
    """The generator of a model's files; `name` is what the user called it.

    With the field `output_short_side` the model works at its own size inside a `SharpGenerator`.

    Raises:
        InputError: a file or field is missing or wrong, or an option does not go with the model.
    """
    with _wrong_files(files):
        pipeline, cameras = load_pipeline(files, options, placement)
    generator = NetworkGenerator(name, pipeline, cameras, options.on(placement.device), _licence(name, files))
    path = files.file("config.json")
    short_side = read_json(path).get(_OUTPUT)
    if short_side is None:
        return generator
    if type(short_side) is not int or short_side < 64 or short_side % 16:
        raise InputError(f"{path}: the field '{_OUTPUT}' is {short_side!r} but must be a multiple of 16 from 64")
    return SharpGenerator(generator, short_side)


def load_pipeline(
    files: ModelFiles,
    options: GeneratorOptions = GeneratorOptions(),  # noqa: B008 (frozen)
    placement: Placement = Placement(),  # noqa: B008 (frozen)
) -> tuple[KeyframeVideoPipeline, CameraConvention]:
    """A model's pipeline, and how it was shown cameras.

    A published model's folder holds `config.json` and `model.safetensors`; everything else comes from the base model
    that the configuration names. Nothing of the base model's transformer but its configuration is fetched if the
    checkpoint is complete. A model in the paper's layout (`model_type` "worldstereo-paper") is a folder with
    `backbone/`, `control/`, `stereo/` and `autoencoder/`; with `shares_parts` all but the backbone lies in the folder
    above. docs/models.md describes both.

    Raises:
        InputError: a file or field is missing or wrong.
    """
    path = files.file("config.json")
    config = Fields(read_json(path), str(path))
    kind = _kind(files, config)
    options = options.on(placement.device)
    base = files.base(config["base_model"]) if kind != _PAPER or "base_model" in config.values else None
    rest = replace(files, source=files.source.above()) if config.values.get("shares_parts") else files
    if kind == _PAPER:
        network, codec = _paper(files, rest, base, options, placement)
        cameras = OWN_CAMERAS
    else:
        assert base is not None
        network, codec = _published(kind, files, base, config, options, placement)
        cameras = replace(PUBLISHED_CAMERAS, ray_grid=options.ray_grid)
    for part in _parts(network):
        if options.quantize == "float8":
            store_in_float8(part, _dtype(options))
        offload(part, placement.offload, placement.device)
    pipeline = KeyframeVideoPipeline(
        network,
        codec,
        _sampling(kind, config, base, options),
        ClipFormat(
            frames=config["nframe"],
            sizes=tuple((height, width) for height, width in config["scale_map"]),
            condition_mode=config["latent_cond_mode"],
            negative_prompt=config.values.get("negative_prompt", ""),
        ),
        _prompt_encoder(rest, base, options, placement),
        None if base is None else _image_encoder(base, options, placement),
        placement.device,
    )
    return pipeline, cameras


@dataclass(frozen=True)
class Fields:
    """A configuration whose missing fields are errors."""

    values: dict[str, Any]
    name: str

    def __getitem__(self, field: str) -> Any:
        if field not in self.values:
            raise InputError(f"{self.name}: the field '{field}' is missing; take the config that came with the weights")
        return self.values[field]


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


def _dtype(options: GeneratorOptions) -> torch.dtype:
    return getattr(torch, options.dtype)


def _kind(files: ModelFiles, config: Fields) -> str:
    """The name of the kind of model: said by the config, or by its folder as in the official release."""
    kind = config.values.get("model_type") or str(files.source).replace(":", "/").rstrip("/").rsplit("/", 1)[-1]
    if kind not in (*_PUBLISHED, _PAPER):
        known = ", ".join((*_PUBLISHED, _PAPER))
        raise InputError(f"{config.name}: the field 'model_type' is {kind!r} but must be one of {known}")
    return kind


def _published(
    kind: str, files: ModelFiles, base: ModelFiles, config: Fields, options: GeneratorOptions, placement: Placement
) -> tuple[nn.Module, KeyframeCodec]:
    dtype, device = _dtype(options), placement.device
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
        on_module=quantizer(options.quantize),
    ).network
    return network, _wan_codec(base, dtype, device, placement)


def _paper(
    files: ModelFiles, rest: ModelFiles, base: ModelFiles | None, options: GeneratorOptions, placement: Placement
) -> tuple[nn.Module, KeyframeCodec]:
    """Of the backbone among `files` and of all that is among the `rest`."""
    dtype, device = _dtype(options), placement.device
    parts = {name: rest.component(name) for name in ("control", "stereo") if rest.has(name)}
    parts["backbone"] = files.component("backbone")
    for folder in parts.values():
        _check_sizes(folder / "config.json")
    network = PaperTransformer.from_folders(parts, torch_dtype=dtype).requires_grad_(False)
    if quantize := quantizer(options.quantize):
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


def _prompt_encoder(
    files: ModelFiles, base: ModelFiles | None, options: GeneratorOptions, placement: Placement
) -> PromptEncoder:
    """Given embeddings, or the base model's text encoder, or those that a model without text encoder ships."""
    path = None if options.prompt_embeddings is None else Path(options.prompt_embeddings)
    if path is None and base is None:
        path = files.file(_SHIPPED_EMBEDDINGS)
    if path is not None:
        return _given_embeddings(path, options)
    assert base is not None

    def encode(prompts: Sequence[str]) -> Float[Tensor, "n t d"]:
        folders = base.component("tokenizer"), base.component("text_encoder")
        return encode_prompts(prompts, *folders, _dtype(options), placement.device)

    return encode


def _given_embeddings(path: Path, options: GeneratorOptions) -> PromptEncoder:
    embeddings = load_prompt_embeddings(path)

    def look_up(prompts: Sequence[str]) -> Float[Tensor, "n t d"]:
        if embeddings.prompts and options.prompt_embeddings is None:
            if unknown := [prompt for prompt in prompts if prompt not in embeddings.prompts]:
                raise InputError(
                    f"--prompt {unknown[0]!r}: this model has no text encoder and knows only "
                    f"{', '.join(map(repr, embeddings.prompts))}; leave the prompt out"
                )
            return embeddings.embeds[[embeddings.prompts.index(prompt) for prompt in prompts]]
        if len(embeddings.embeds) < len(prompts):
            raise InputError(
                f"{path}: holds {len(embeddings.embeds)} embeddings but guidance needs one for the prompt and one for "
                f"the negative prompt; add one, or use --guidance 1"
            )
        return embeddings.embeds[: len(prompts)]

    return look_up


def _image_encoder(
    base: ModelFiles, options: GeneratorOptions, placement: Placement
) -> Callable[[Float[Tensor, "3 h w"]], Float[Tensor, "1 m d"]]:
    def encode(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 m d"]:
        folders = base.component("image_encoder"), base.component("image_processor")
        return encode_image(image, *folders, options.pixel_scale, _dtype(options), placement.device)

    return encode


def _sampling(kind: str, config: Fields, base: ModelFiles | None, options: GeneratorOptions) -> Sampling:
    if kind == _DISTILLED or (kind == _PAPER and "dmd_steps" in config.values):
        steps = config["dmd_steps"]
        if options.steps not in (None, steps) or options.guidance not in (None, 1.0):
            raise InputError(f"{config.name}: a model of {steps} steps without guidance; leave both options out")
        start, end, shift = (float(config[name]) for name in ("dmd_start_steps", "dmd_end_steps", "gen_shift"))
        return Sampling(FewStepFlowScheduler(start, end, steps, shift), steps, 1.0)
    if kind == _PAPER:
        steps, guidance = config["num_inference_steps"], float(config["guidance_scale"])
        scheduler = PublishedUniPC.from_config(config["scheduler"])
    else:
        assert base is not None
        steps, guidance = _STEPS, _GUIDANCE
        values = read_json(base.component("scheduler") / "scheduler_config.json")
        if values.get("_class_name") != "UniPCMultistepScheduler" or not values.get("use_flow_sigmas"):
            raise InputError(f"{base.source}: its scheduler is not the UniPC over flow sigmas that {kind} was made for")
        scheduler = PublishedUniPC.from_config(values)
    chosen = guidance if options.guidance is None else options.guidance
    return Sampling(scheduler, options.steps or steps, chosen)


def _parts(network: nn.Module) -> list[nn.Module]:
    """The networks that a network consists of."""
    if isinstance(network, PaperTransformer):
        return [part for part in (network.backbone, network.control, network.stereo) if part is not None]
    return [network]
