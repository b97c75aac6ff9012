"""One clip from its conditions: the steps that the camera, memory and distilled variants share.

text_tokens -> encode_image -> prepare_conditions -> denoise -> decode
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from worldstereo.errors import InputError
from worldstereo.models.keyframe_codec import KeyframeCodec
from worldstereo.models.paper import PaperTransformer
from worldstereo.models.transformer import ClipCache

ConditionMode = Literal["full_vae", "first_frame_only", "filled_render"]
OnStep = Callable[[int, int], None]

_MASK_CHANNELS = 4


@dataclass(frozen=True)
class KeyframeInputs:
    """What steers a clip, at its size; pictures are RGB in [0, 1].

    Attributes:
        image: the first frame.
        render: the point cloud along the path; its first frame is `image`.
        hole_mask: where the render shows nothing.
        rays: Plücker rays of normalised cameras.
        filled: the render with its holes filled, for models whose condition latents are made of it.
        references: distinct frames of the spatial-stereo memory.
        reference_index: memory models: the target that first asked for each reference, minus 1.
        target_poses, reference_poses: memory models: `pose_vectors` of jointly normalised cameras.
        reference_of_target: paper layout: each target's reference, -1 where none is useful.
        target_pointmaps, reference_pointmaps: paper layout with pointmaps.
    """

    image: Float[Tensor, "3 h w"]
    render: Float[Tensor, "f 3 h w"]
    hole_mask: Bool[Tensor, "f h w"]
    rays: Float[Tensor, "f 6 h w"]
    filled: Float[Tensor, "f 3 h w"] | None = None
    references: Float[Tensor, "r 3 h w"] | None = None
    reference_index: Int[Tensor, " r"] | None = None
    target_poses: Float[Tensor, "f 7"] | None = None
    reference_poses: Float[Tensor, "r 7"] | None = None
    reference_of_target: Int[Tensor, " f"] | None = None
    target_pointmaps: Float[Tensor, "f 3 h w"] | None = None
    reference_pointmaps: Float[Tensor, "r 3 h w"] | None = None


@runtime_checkable
class Scheduler(Protocol):
    """A sampler of diffusers, or `FewStepFlowScheduler`."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device) -> None:
        """Choose the time steps and forget the last clip."""
        ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Any:
        """The latents after a step, as `.prev_sample`."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How latents are drawn.

    Attributes:
        steps: number of network passes.
        guidance: of the prompt over the negative prompt; 1 = no second context.
    """

    scheduler: Scheduler
    steps: int
    guidance: float


@dataclass(frozen=True)
class ClipFormat:
    """What a model's clips look like.

    Attributes:
        frames: per clip.
        sizes: (height, width) pairs; a picture goes to the nearest height-to-width ratio.
        condition_mode: how the first frame's condition latents are made: of [image, grey, grey, ...] as one video
            ("full_vae"), or each frame on its own ("first_frame_only"); or of the filled
            render, with the known share of each latent's pixels as its mask ("filled_render").
        negative_prompt: where the user gives none.
    """

    frames: int
    sizes: tuple[tuple[int, int], ...]
    condition_mode: ConditionMode
    negative_prompt: str = ""

    def only(self, sizes: tuple[tuple[int, int], ...]) -> "ClipFormat":
        """The same with fewer sizes."""
        return replace(self, sizes=sizes)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the clips of a picture: the nearest ratio, the first of equals."""
        return min(self.sizes, key=lambda size: abs(size[0] / size[1] - height / width))


def contexts(prompt: str, negative_prompt: str, guidance: float) -> tuple[str, ...]:
    """The prompts that a network sees: under guidance the negative one, too."""
    return (prompt, negative_prompt) if guidance > 1 else (prompt,)


PromptEncoder = Callable[[Sequence[str]], Float[Tensor, "n t d"]]
ImageEncoder = Callable[[Float[Tensor, "3 h w"]], Float[Tensor, "1 m d"]]


class KeyframeVideoPipeline:
    """Makes clips with one network. Which conditions the network takes follows from its kind alone."""

    def __init__(
        self,
        network: nn.Module,
        codec: KeyframeCodec,
        sampling: Sampling,
        clip_format: ClipFormat,
        encode_prompts: PromptEncoder,
        encode_image: ImageEncoder | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            network: a `PublishedTransformer` or a `PaperTransformer`.
            encode_prompts: text tokens of prompts; called once for every new pair of prompts.
            encode_image: image tokens of the first frame; none for a network without image tokens.
            device: where the network runs.
        """
        self.network: Any = network
        self.codec = codec
        self.sampling = sampling
        self.clip_format = clip_format
        self.device = torch.device(device)
        self.encode_prompts = encode_prompts
        self._encode_image = encode_image
        self._prompt_tokens: tuple[tuple[str, ...], Tensor] | None = None

    @torch.no_grad()
    def __call__(
        self,
        inputs: KeyframeInputs,
        prompt: str = "",
        negative_prompt: str | None = None,
        noise: Float[Tensor, "c f h w"] | None = None,
        seed: int = 0,
        on_step: OnStep = lambda done, total: None,
    ) -> Float[Tensor, "f 3 h w"]:
        """Frames of the clip, RGB in [0, 1].

        Args:
            negative_prompt: the model's own if none.
            noise: to start from; drawn from `seed`, on the CPU, if none.
            on_step: called as (steps done, steps in all).

        Raises:
            InputError: a condition that the network needs is missing, or the clip has not the model's format.
        """
        return self.decode(self.sample(inputs, prompt, negative_prompt, noise, seed, on_step))

    @torch.no_grad()
    def sample(
        self,
        inputs: KeyframeInputs,
        prompt: str = "",
        negative_prompt: str | None = None,
        noise: Float[Tensor, "c f h w"] | None = None,
        seed: int = 0,
        on_step: OnStep = lambda done, total: None,
    ) -> Float[Tensor, "c f h w"]:
        """Latents of the clip; arguments as for a call."""
        self._check(inputs)
        negative = self.clip_format.negative_prompt if negative_prompt is None else negative_prompt
        text = self.text_tokens(prompt, negative)
        image = self.encode_image(inputs.image, len(text))
        conditions = self.prepare_conditions(inputs)
        if noise is None:
            shape = (self.codec.latent_channels, *conditions["first_frame"].shape[2:])
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return self.denoise(noise, text, image, conditions, on_step)

    def text_tokens(self, prompt: str, negative_prompt: str) -> Float[Tensor, "k t d"]:
        """Text tokens of the prompt and, under guidance, of the negative prompt; kept until other prompts come."""
        prompts = contexts(prompt, negative_prompt, self.sampling.guidance)
        if self._prompt_tokens is None or self._prompt_tokens[0] != prompts:
            self._prompt_tokens = (prompts, self.encode_prompts(prompts).to(self.device))
        return self._prompt_tokens[1]

    def encode_image(self, image: Float[Tensor, "3 h w"], contexts: int) -> Float[Tensor, "k m i"] | None:
        """Image tokens of the first frame, the same for every context."""
        if self._encode_image is None:
            return None
        return self._encode_image(image).to(self.device).repeat(contexts, 1, 1)

    def prepare_conditions(self, inputs: KeyframeInputs) -> dict[str, Tensor]:
        """What the network takes beside noisy latents, time and tokens, by the names of its arguments;
        `first_frame` holds mask and condition latent, which go behind the noisy latents."""
        conditions = self.prepare_batch({n: value[None] for n, value in vars(inputs).items() if value is not None})
        if not isinstance(self.network, PaperTransformer) and self.network.config.memory:
            return conditions | self._memory_conditions(inputs)
        return conditions

    def prepare_batch(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`prepare_conditions` of several clips of one size.

        Args:
            batch: the fields of `KeyframeInputs`, with a leading dimension, as the training's `collate` gives them;
                those of the published memory models apart, of which there is no batch.

        Raises:
            InputError: a condition that the network needs is missing.
        """
        conditions = {"first_frame": self._first_frame(batch)}
        paper = isinstance(self.network, PaperTransformer)
        if not paper or self.network.control is not None:
            conditions |= {
                "render_latent": self.encode(batch["render"]),
                "render_mask": batch["hole_mask"].to(self.device, torch.float32)[:, None],
                "camera_embedding": batch["rays"].to(self.device).transpose(1, 2),
            }
        return conditions | self._stereo_conditions(batch) if paper else conditions

    def denoise(
        self,
        noise: Float[Tensor, "c f h w"],
        text: Float[Tensor, "k t d"],
        image: Float[Tensor, "k m i"] | None,
        conditions: dict[str, Tensor],
        on_step: OnStep,
    ) -> Float[Tensor, "c f h w"]:
        """Latents from noise. The network makes one pass a step for all contexts; the branches run once in it."""
        scheduler, cache = self.sampling.scheduler, ClipCache()
        scheduler.set_timesteps(self.sampling.steps, device=self.device)
        arguments = {name: value for name, value in conditions.items() if name != "first_frame"}
        latents = noise[None].to(self.device, torch.float32)
        for index, timestep in enumerate(scheduler.timesteps):
            velocity = self.network(
                torch.cat([latents, conditions["first_frame"]], dim=1),
                timestep.to(torch.float32).expand(1),
                encoder_hidden_states=text,
                encoder_hidden_states_image=image,
                cache=cache,
                **arguments,
            ).sample.float()
            if len(velocity) > 1:
                wanted, unwanted = velocity.chunk(2)
                velocity = unwanted + self.sampling.guidance * (wanted - unwanted)
            latents = scheduler.step(velocity, timestep, latents).prev_sample
            on_step(index + 1, self.sampling.steps)
        return latents[0]

    def encode(self, frames: Float[Tensor, "b n 3 y x"]) -> Float[Tensor, "b c n h w"]:
        """Latents of pictures, RGB in [0, 1], each on its own; there may be none (n = 0)."""
        clips, count = frames.shape[:2]
        if count == 0:
            factor = self.codec.spatial_factor
            size = (self.codec.latent_channels, 0, frames.shape[3] // factor, frames.shape[4] // factor)
            return torch.zeros(clips, *size, device=self.device)
        latents = self.codec.encode(frames.flatten(0, 1).to(self.device)).float()
        return latents.unflatten(0, (clips, count)).transpose(1, 2)

    def decode(self, latents: Float[Tensor, "c f h w"]) -> Float[Tensor, "f 3 y x"]:
        """Frames of latents, RGB in [0, 1], on the CPU."""
        return self.codec.decode(latents.transpose(0, 1)).float().cpu()

    def _check(self, inputs: KeyframeInputs) -> None:
        frames, (height, width) = len(inputs.render), inputs.image.shape[1:]
        if frames != self.clip_format.frames:
            raise InputError(f"the clip has {frames} frames but this model makes {self.clip_format.frames}")
        if (height, width) not in self.clip_format.sizes:
            known = ", ".join(f"{w}×{h}" for h, w in self.clip_format.sizes)
            raise InputError(f"the clip is {width}×{height} but this model makes {known}")

    def _first_frame(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "b c f h w"]:
        """Mask and condition latent; see `ClipFormat.condition_mode`. Of the first two modes: 1 at the first frame, and
        the image followed by mid-grey."""
        if self.clip_format.condition_mode == "filled_render":
            return self._filled_render(batch)
        image, frames = batch["image"], batch["render"].shape[1]
        grey = torch.full_like(image, 0.5)
        if self.clip_format.condition_mode == "full_vae":
            videos = torch.stack([image, *[grey] * (4 * (frames - 1))], dim=1).to(self.device)
            latents = [self.codec.encode_video(video) for video in videos]  # type: ignore[attr-defined]
            latent = torch.stack(latents).transpose(1, 2).float()
        else:
            first, rest = self.encode(torch.stack([image, grey], dim=1)).split(1, dim=2)
            latent = torch.cat([first, rest.expand(-1, -1, frames - 1, -1, -1)], dim=2)
        mask = torch.zeros_like(latent[:, :_MASK_CHANNELS])
        mask[:, :, 0] = 1
        return torch.cat([mask, latent], dim=1)

    def _filled_render(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "b c f h w"]:
        latent = self.encode(_needed(batch, "filled"))
        known = (~batch["hole_mask"]).to(self.device, torch.float32)
        share = torch.nn.functional.avg_pool2d(known, self.codec.spatial_factor)
        return torch.cat([share[:, None].expand(-1, _MASK_CHANNELS, -1, -1, -1), latent], dim=1)

    def _memory_conditions(self, inputs: KeyframeInputs) -> dict[str, Tensor]:
        names = ("references", "reference_index", "target_poses", "reference_poses")
        references, index, targets, poses = (_needed(vars(inputs), name) for name in names)
        clean = self.encode(references[None])
        return {
            "reference_latent": torch.cat([clean, torch.ones_like(clean[:, :_MASK_CHANNELS]), clean], dim=1),
            "ref_index": index.to(self.device),
            "camera_qt": targets[None].to(self.device),
            "camera_qt_ref": poses[None].to(self.device),
        }

    def _stereo_conditions(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stereo = self.network.stereo
        if stereo is None:
            return {}
        conditions = {
            "reference_latent": self.encode(_needed(batch, "references")),
            "reference_of_target": _needed(batch, "reference_of_target"),
        }
        if stereo.config.pointmaps:
            conditions["target_pointmap_latent"] = self.encode(_needed(batch, "target_pointmaps"))
            conditions["reference_pointmap_latent"] = self.encode(_needed(batch, "reference_pointmaps"))
        return conditions


def _needed(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    value = inputs.get(name)
    if value is None:
        raise InputError(f"this model needs the condition '{name}', which is missing")
    return value
