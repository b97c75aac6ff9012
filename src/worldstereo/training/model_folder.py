"""The model folder that a run works on: complete and loadable from the run's first moment to its last."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from worldstereo.errors import InputError
from worldstereo.files import read_json, write_json
from worldstereo.models.autoencoder import KeyframeAutoencoder
from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.patches import zeroed
from worldstereo.models.pretrained import load_complete
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.text_encoder import save_prompt_embeddings
from worldstereo.models.transformer import KeyframeTransformer
from worldstereo.pipelines.loading import Fields, read_clip_format
from worldstereo.training.beginning import Beginning
from worldstereo.training.stages import STAGES
from worldstereo.training.video_config import VideoTrainingConfig

_MASK_CHANNELS = 4
_PROMPT_TOKENS = 4
_NO_PROMPT = "nothing"
_BRANCHES: dict[str, type[ControlBranch] | type[StereoBranch]] = {"control": ControlBranch, "stereo": StereoBranch}


def begin_model(config: VideoTrainingConfig) -> Path:
    """The folder `model` in the run folder, in the layout that generators load; made if it is not there.

    It holds the parts of the stage: those that `config.start` has, and new ones. A new backbone that predicts
    residuals gives zeros at first; new branches' patch embeddings start as copies of the backbone's, where as wide.
    The model's config.json follows the configuration also when the run goes on.

    Raises:
        InputError: `start` lacks a part that the stage needs, a config is wrong, or the run is another stage's or began
            with another model.
    """
    folder, stage = config.run_folder / "model", STAGES[config.stage]
    if folder.is_dir():
        if lacking := [part for part in stage.parts if not (folder / part).is_dir()]:
            raise InputError(f"{folder}: has no {lacking[0]}/, it belongs to another stage; choose another run folder")
        if kept := Beginning.kept(config.run_folder):
            kept.require_same(_beginning(config), config.run_folder)
            if read_json(folder / "config.json") != (values := _model_fields(config)):
                write_json(folder / "config.json", values)
        return folder
    values = _model_fields(config)
    config.run_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.run_folder, prefix=".writing-") as temporary:
        made = Path(temporary) / "model"
        if config.start is None:
            _begin_empty(made, config, values["negative_prompt"])
        else:
            _copy_start(made, config.start, stage.parts)
        write_json(made / "config.json", values)
        torch.manual_seed(config.seed)
        for part in stage.parts:
            if not (made / part).is_dir():
                if part in stage.needs:
                    raise InputError(f"start: {config.start} has no {part}/, which the stage {stage.name} needs")
                write_part(made / part, _new_part(part, made, config), config.largest_file)
        _beginning(config).keep(config.run_folder)  # first, so that no model is without
        os.replace(made, folder)
    return folder


def write_part(folder: Path, part: ModelMixin, largest_file: str, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a network in float16, in the layout of diffusers, file by file so that each is either old or new.

    Args:
        largest_file: such as "15MB"; larger weights become several files.
        weights: to be written instead of its own.
    """
    fields = {name: value for name, value in part.config.items() if name != "_name_or_path"}  # of this machine
    copy = type(part).from_config(fields).half()
    copy.load_state_dict(part.state_dict() if weights is None else dict(weights))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        copy.save_pretrained(temporary, max_shard_size=largest_file)
        for file in Path(temporary).iterdir():
            os.replace(file, folder / file.name)


def _beginning(config: VideoTrainingConfig) -> Beginning:
    folders = {"start": config.start} if config.start else {"autoencoder": config.autoencoder}
    return Beginning.of(config.stage, folders, {part: getattr(config, part) for part in STAGES[config.stage].parts})


def _model_fields(config: VideoTrainingConfig) -> dict[str, Any]:
    """Of the model's config.json.

    Raises:
        InputError: they are none of a model's clips, or `start` is no model folder.
    """
    if config.start is None:
        fields = {"model_type": "worldstereo-paper", "negative_prompt": _NO_PROMPT} | config.model
    elif (config.start / "config.json").is_file():
        fields = read_json(config.start / "config.json") | config.model
    else:
        raise InputError(f"start: {config.start} is no model folder, it has no config.json")
    read_clip_format(Fields(fields, "model"))
    return fields


def _begin_empty(folder: Path, config: VideoTrainingConfig, negative_prompt: str) -> None:
    assert config.autoencoder is not None  # checked by the config
    if not (config.autoencoder / "config.json").is_file():
        raise InputError(f"autoencoder: {config.autoencoder} is no autoencoder's folder, it has no config.json")
    shutil.copytree(config.autoencoder, folder / "autoencoder")
    text_dim = config.backbone.get("text_dim", 4096)
    if not isinstance(text_dim, int) or text_dim < 1:
        raise InputError(f"backbone: text_dim is {text_dim!r} but must be a whole number of at least 1")
    given = torch.randn(_PROMPT_TOKENS, text_dim, generator=torch.Generator().manual_seed(config.seed))
    prompts = [config.prompt, negative_prompt]
    save_prompt_embeddings(folder / "prompt_embeds.safetensors", torch.stack([given, 0 * given]), prompts)


def _copy_start(folder: Path, start: Path, parts: tuple[str, ...]) -> None:
    folder.mkdir()
    for name in ("autoencoder", *parts):
        if (start / name).is_dir():
            shutil.copytree(start / name, folder / name)
    for file in start.glob("*.safetensors"):
        shutil.copy(file, folder / file.name)


def _new_part(name: str, folder: Path, config: VideoTrainingConfig) -> ModelMixin:
    fields: dict[str, Any] = getattr(config, name)
    if not fields:
        raise InputError(f"{name} is missing: the stage {config.stage} makes this part new and needs its config fields")
    try:
        return _new_backbone(folder, fields) if name == "backbone" else _new_branch(name, folder, fields)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: no such network can be made ({error})") from error


def _new_backbone(folder: Path, fields: dict[str, Any]) -> KeyframeTransformer:
    latents = KeyframeAutoencoder.load_config(folder / "autoencoder")["latent_channels"]
    known = {"in_channels": 2 * latents + _MASK_CHANNELS, "out_channels": latents}
    backbone = KeyframeTransformer(**(known | {"image_dim": None, "added_kv_proj_dim": None} | fields))
    if backbone.config.prediction == "residual":
        zeroed(backbone.proj_out)
    return backbone


def _new_branch(name: str, folder: Path, fields: dict[str, Any]) -> ModelMixin:
    backbone = load_complete(KeyframeTransformer, folder / "backbone")
    width, latents = backbone.width, backbone.config.out_channels
    known = {"conv_out_dim": width, "time_embed_dim": width, "out_channels": width}
    known["in_channels"] = backbone.config.in_channels
    if name == "stereo":
        known["latent_channels"] = latents
    branch = _BRANCHES[name](patch_size=backbone.config.patch_size, **(known | fields))
    embedding = getattr(branch, "controlnet_patch_embedding" if name == "control" else "patch_embedding")
    if embedding.weight.shape == backbone.patch_embedding.weight.shape:
        embedding.load_state_dict(backbone.patch_embedding.state_dict())
    return branch
