"""What the video model makes of a few clips in the course of its training."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldstereo.images import save_png
from worldstereo.pipelines.keyframe_video import KeyframeVideoPipeline
from worldstereo.training.clip_sources import clip_mixture
from worldstereo.training.loop import Occasion, TrainingLog, TrainingState
from worldstereo.training.picture_sheet import picture_sheet
from worldstereo.training.stages import STAGES
from worldstereo.training.training_clip import TrainingClip
from worldstereo.training.video_config import VideoTrainingConfig

_SHEET_FRAMES = 4


def sample_clips(config: VideoTrainingConfig, device: str) -> list[TrainingClip]:
    """The clips of the picture sheets, the same throughout the run."""
    recipe = STAGES[config.stage].recipe
    mixture = clip_mixture(config.samples or config.sources, recipe, config.sheet_clips, config.seed + 1, device)
    return mixture.batch(0, 0)


def sample_sheets(
    pipeline: KeyframeVideoPipeline, config: VideoTrainingConfig, state: TrainingState, log: TrainingLog, device: str
) -> Occasion:
    """The occasion at which the averaged network's `sample_sheet` goes to the run folder and the log."""
    clips = sample_clips(config, device)

    def show() -> None:
        with state.averaged():
            sheet, figures = sample_sheet(pipeline, clips, config)
        save_png(config.run_folder / "sheets" / f"step_{state.step:07d}.png", sheet)
        log.add(state.step, figures)
        log.add_picture(state.step, "samples", sheet)

    return Occasion(config.sheet_seconds, show)


@torch.no_grad()
def sample_sheet(
    pipeline: KeyframeVideoPipeline, clips: Sequence[TrainingClip], config: VideoTrainingConfig
) -> tuple[Float[Tensor, "3 h w"], dict[str, float]]:
    """Truth, filled render and sample of some clips as one picture, and PSNR of all pixels and of those in holes.

    PSNR is that of the samples, of the filled renders, and of the truth encoded and decoded, which no sample can pass.
    First frames, which are given, do not count.
    """
    text = pipeline.text_tokens(config.prompt, pipeline.clip_format.negative_prompt)
    rows, errors = [], []
    for number, clip in enumerate(clips):
        conditions = pipeline.prepare_conditions(clip.inputs)
        random = torch.Generator().manual_seed(config.seed + number)
        shape = (pipeline.codec.latent_channels, *conditions["first_frame"].shape[2:])
        image = pipeline.encode_image(clip.inputs.image, len(text))
        latents = pipeline.denoise(
            torch.randn(shape, generator=random), text, image, conditions, lambda done, steps: None
        )
        truth, filled, sample = clip.frames.cpu(), clip.inputs.filled, pipeline.decode(latents)
        assert filled is not None  # of every training clip
        rows += [truth, filled.cpu(), sample]
        holes = clip.inputs.hole_mask.cpu()
        coded = pipeline.decode(pipeline.encode(clip.frames[None])[0])
        errors.append([_square_errors(frames, truth, holes) for frames in (sample, filled.cpu(), coded)])
    figures = {}
    for name, of_clips in zip(("sample", "filled", "coded"), zip(*errors, strict=True), strict=True):
        for where, values in zip(("psnr", "psnr_holes"), zip(*of_clips, strict=True), strict=True):
            known = torch.cat(values)
            if len(known):
                figures[f"{name}_{where}"] = float(-10 * known.mean().clamp(min=1e-10).log10())
    return picture_sheet(rows, _SHEET_FRAMES), figures


def _square_errors(
    frames: Float[Tensor, "f 3 h w"], truth: Float[Tensor, "f 3 h w"], holes: Bool[Tensor, "f h w"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " k"]]:
    """Of every pixel after the first frame, and of those in holes."""
    error = (frames - truth).square().mean(dim=1)[1:]
    return error.flatten(), error[holes[1:]]
