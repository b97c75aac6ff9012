"""The loss of a stage of the video model: flow matching on clips, some of whose conditions are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldstereo.geometry.inpainting import pull_push
from worldstereo.pipelines.keyframe_video import KeyframeVideoPipeline
from worldstereo.training.flow_matching import TIME_STEPS, draw_time, noised, velocity_loss
from worldstereo.training.stages import STAGES, Condition
from worldstereo.training.training_clip import TrainingClip, collate
from worldstereo.training.video_config import VideoTrainingConfig

_GREY = 0.5


@dataclass(frozen=True)
class Draw:
    """What chance decides about one sample.

    Attributes:
        time: see `draw_time`.
        missing: conditions that it goes without.
        noise: unit normal.
    """

    time: float
    missing: frozenset[Condition]
    noise: Float[Tensor, "c f h w"]


class FlowObjective:
    """The loss of a stage, on clips."""

    def __init__(self, config: VideoTrainingConfig, pipeline: KeyframeVideoPipeline) -> None:
        """
        Args:
            pipeline: with the network that is trained; makes its conditions.
        """
        self._config = config
        self._pipeline = pipeline
        self._drops = {name: getattr(config, f"drop_{name}") for name in STAGES[config.stage].drops}
        prompts = (config.prompt, pipeline.clip_format.negative_prompt)
        self._text: Float[Tensor, "2 t d"] = pipeline.encode_prompts(prompts).to(pipeline.device)

    def draw(self, number: int, shape: Sequence[int]) -> Draw:
        """Of the sample with that number in the run; its latents have this shape."""
        config = self._config
        rng = np.random.default_rng((config.seed, 1, number))
        time = draw_time(rng, config.time_mean, config.time_std, config.uniform_time)
        missing = frozenset(name for name, share in self._drops.items() if rng.random() < share)
        random = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return Draw(time, missing, torch.randn(tuple(shape), generator=random))

    def loss(self, network: nn.Module, clips: Sequence[TrainingClip], first: int) -> Float[Tensor, ""]:
        """Mean over the clips, the first of which has the number `first` in the run."""
        pipeline = self._pipeline
        batch = collate(clips)
        holes = batch["hole_mask"].to(pipeline.device, torch.float32)
        clean = pipeline.encode(batch.pop("frames"))
        draws = [self.draw(first + place, clean.shape[1:]) for place in range(len(clips))]
        drop_conditions(batch, draws)
        conditions = pipeline.prepare_batch(batch)
        noise = torch.stack([draw.noise for draw in draws]).to(clean)
        time = torch.tensor([draw.time for draw in draws], device=clean.device)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=self._config.mixed_precision == "bf16"):
            velocity = network(
                torch.cat([noised(clean, noise, time), conditions.pop("first_frame")], dim=1),
                time * TIME_STEPS,
                encoder_hidden_states=self._text[[int("text" in draw.missing) for draw in draws]].to(clean),
                encoder_hidden_states_image=self._image_tokens(batch["image"]),
                return_dict=False,
                **conditions,
            )[0]
        weight = 1 + self._config.hole_weight * nn.functional.avg_pool2d(holes, pipeline.codec.spatial_factor)
        residual = pipeline.network.backbone.config.prediction == "residual"
        return velocity_loss(velocity.float(), clean, noise, time, weight, residual).mean()

    def _image_tokens(self, images: Float[Tensor, "b 3 y x"]) -> Tensor | None:
        tokens = [self._pipeline.encode_image(image, 1) for image in images]
        return None if tokens[0] is None else torch.cat([token for token in tokens if token is not None])


def drop_conditions(batch: dict[str, Tensor], draws: Sequence[Draw]) -> None:
    """Take from the clips of a batch what they go without, in place.

    Without its render, a clip shows holes and mid-grey in all frames but the first, which is the picture it begins
    with; without rays, they are zero; without pointmaps, nothing says where references lie: the pointmaps are mid-grey,
    as where the cloud is empty, and holes are filled from their surroundings alone. The text is not in the batch.
    """
    for place, draw in enumerate(draws):
        if "pointmaps" in draw.missing:
            batch["target_pointmaps"][place] = _GREY
            batch["reference_pointmaps"][place] = _GREY
            known = ~batch["hole_mask"][place][:, None]
            batch["filled"][place] = pull_push(batch["render"][place], known, known.float())
        if "render" in draw.missing:
            batch["hole_mask"][place, 1:] = True
            batch["render"][place, 1:] = _GREY
            batch["filled"][place, 1:] = _GREY
        if "rays" in draw.missing:
            batch["rays"][place] = 0
