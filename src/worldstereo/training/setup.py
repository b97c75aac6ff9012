"""What runs of the video model begin with: the device and the network on it."""

from pathlib import Path

import torch
from accelerate import Accelerator

from worldstereo.devices import find_device
from worldstereo.models.hub import ModelFiles, ModelSource
from worldstereo.pipelines.generator_options import GeneratorOptions, Placement
from worldstereo.pipelines.keyframe_video import KeyframeVideoPipeline
from worldstereo.pipelines.loading import load_pipeline
from worldstereo.training.remembered_latents import RememberingCodec
from worldstereo.training.video_config import VideoTrainingConfig


def start_accelerator(config: VideoTrainingConfig) -> Accelerator:
    """What places networks on the device, or on those of several processes.

    Raises:
        InputError: there is no such device.
    """
    wanted = find_device(config.device)
    if wanted.type == "cuda" and wanted.index is not None:
        torch.cuda.set_device(wanted)
    return Accelerator(cpu=wanted.type == "cpu", gradient_accumulation_steps=config.accumulation)


def load_for_training(folder: Path, config: VideoTrainingConfig, device: str) -> KeyframeVideoPipeline:
    """The pipeline of a model folder with its weights in float32, which samples with the steps of picture sheets.

    Raises:
        InputError: a file is missing or wrong.
    """
    options = GeneratorOptions(dtype="float32", steps=config.sheet_steps)
    pipeline, _ = load_pipeline(ModelFiles(ModelSource(folder), offline=True), options, Placement(device=device))
    for parameter in pipeline.network.parameters():
        parameter.data = parameter.data.clone()  # those of files lie anywhere in memory, on which rounding depends
    if torch.device(device).type == "cpu":
        pipeline.codec = RememberingCodec(pipeline.codec)
    if config.gradient_checkpointing:
        for part in pipeline.network.children():
            part.enable_gradient_checkpointing()
    return pipeline
