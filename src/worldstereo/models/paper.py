"""The networks of the paper: a backbone steered by branches that it need not know of.

Source: WorldStereo (arXiv 2603.02049). The control branch carries the global-geometric memory and the cameras, the
stereo branch the spatial-stereo memory. Both only add to the backbone's tokens, so they work with another backbone of
the same width, a distilled one for example: `PaperTransformer(distilled, model.control, model.stereo)`.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldstereo.models.control_branch import ControlBranch
from worldstereo.models.pretrained import load_complete
from worldstereo.models.stereo_branch import StereoBranch
from worldstereo.models.transformer import ClipCache, KeyframeTransformer


class PaperTransformer(nn.Module):
    """Backbone, control branch and stereo branch; without a branch its conditions have no effect.

    Args:
        backbone: makes the video.
        control: brings in the render of the point cloud and the cameras.
        stereo: brings in reference frames.

    Raises:
        ValueError: a branch does not fit the backbone.
    """

    def __init__(
        self, backbone: KeyframeTransformer, control: ControlBranch | None = None, stereo: StereoBranch | None = None
    ) -> None:
        super().__init__()
        widths = {"out_channels": backbone.width, "time_embed_dim": backbone.width}
        latents = {"in_channels": backbone.config.in_channels, "latent_channels": backbone.config.out_channels}
        for name, branch, fields in (("control", control, widths), ("stereo", stereo, widths | latents)):
            if branch is not None:
                _check(name, branch, backbone, fields)
        self.backbone, self.control, self.stereo = backbone, control, stereo

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, " b"] | Int[Tensor, " b"],
        encoder_hidden_states: Float[Tensor, "k n t"],
        encoder_hidden_states_image: Float[Tensor, "k m i"] | None = None,
        render_latent: Float[Tensor, "b l f h w"] | None = None,
        render_mask: Float[Tensor, "b 1 g y x"] | None = None,
        camera_embedding: Float[Tensor, "b 6 g y x"] | None = None,
        reference_latent: Float[Tensor, "b l r h w"] | None = None,
        reference_of_target: Int[Tensor, "b f"] | None = None,
        target_pointmap_latent: Float[Tensor, "b l f h w"] | None = None,
        reference_pointmap_latent: Float[Tensor, "b l r h w"] | None = None,
        cache: ClipCache | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Velocity of the latents.

        Args:
            hidden_states: noisy latent, first-frame mask, condition latent.
            timestep: in [0, 1000].
            encoder_hidden_states: text tokens; k = b, or a multiple of b for several contexts (guidance), for all of
                which the branches run once.
            encoder_hidden_states_image: image tokens, as many samples as text.
            render_latent: latent of the point-cloud render.
            render_mask: 1 = hole, 0 = rendered, at pixel resolution.
            camera_embedding: Plücker rays at pixel resolution; needed unless the control branch takes a mask only.
            reference_latent: clean latents of the distinct references; there may be none (r = 0).
            reference_of_target: which of its sample's references each target is paired with; -1 for none.
            target_pointmap_latent, reference_pointmap_latent: pointmaps, encoded like frames; needed unless the
                stereo branch is one without them.
            cache: of this clip.

        Returns:
            [k, out_channels, f, h, w], as `.sample` or in a tuple.

        Raises:
            ValueError: a condition that a branch needs is missing, or the latents cannot be cut into whole patches.
        """
        self.backbone.grid(hidden_states)
        cache = ClipCache() if cache is None else cache

        def additions(embedding: Tensor) -> Iterator[Tensor]:
            parts: list[Iterator[Tensor]] = []
            if self.control is not None:
                render, mask = _given("control", render_latent=render_latent, render_mask=render_mask)
                if self.control.config.add_channels > 1:
                    _given("control", camera_embedding=camera_embedding)
                noisy = self.backbone.config.out_channels
                parts.append(self.control(hidden_states, render, mask, camera_embedding, embedding, cache, noisy))
            if self.stereo is not None:
                references = _given(
                    "stereo", reference_latent=reference_latent, reference_of_target=reference_of_target
                )
                pointmaps = target_pointmap_latent, reference_pointmap_latent
                parts.append(self.stereo(hidden_states, *references, *pointmaps, embedding, cache))
            return (_sum(changes).to(self.backbone.dtype_at_work) for changes in zip_longest(*parts))

        return self.backbone(
            hidden_states,
            timestep,
            encoder_hidden_states,
            encoder_hidden_states_image,
            additions,
            cache,
            return_dict,
        )

    def train_only(self, *parts: str) -> None:
        """Let gradients reach these parts ("backbone", "control", "stereo") and no others.

        Raises:
            ValueError: there is no such part.
        """
        children = dict(self.named_children())
        if unknown := set(parts) - set(children):
            raise ValueError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(children)}")
        for name, part in children.items():
            part.requires_grad_(name in parts)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write each part, in the layout of diffusers, to the subfolder of its name.

        Args:
            folder: made if it does not exist.
            options: of diffusers' own method.
        """
        for name, part in (("backbone", self.backbone), ("control", self.control), ("stereo", self.stereo)):
            if part is not None:
                part.save_pretrained(Path(folder) / name, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> "PaperTransformer":
        """Read what `save_pretrained` wrote, in evaluation mode; a branch without a subfolder is left out.

        Args:
            folder: on this computer.
            options: of diffusers' own method, for example `torch_dtype`.

        Raises:
            OSError: there is no backbone, or a part's files are incomplete.
            ValueError: a branch does not fit the backbone.
        """
        folders = {name: Path(folder) / name for name in ("backbone", "control", "stereo")}
        return cls.from_folders({n: f for n, f in folders.items() if n == "backbone" or f.is_dir()}, **options)

    @classmethod
    def from_folders(cls, folders: Mapping[str, Path], **options: Any) -> "PaperTransformer":
        """The same of parts that lie anywhere: "backbone" and perhaps "control" and "stereo".

        Raises:
            InputError: the weights of a part lack a tensor.
        """
        control, stereo = (
            load_complete(part, folders[name], **options) if name in folders else None
            for name, part in (("control", ControlBranch), ("stereo", StereoBranch))
        )
        return cls(load_complete(KeyframeTransformer, folders["backbone"], **options), control, stereo).eval()


def _check(name: str, branch: Any, backbone: KeyframeTransformer, fields: dict[str, int]) -> None:
    """Raise a ValueError unless the branch's config has these values, the backbone's patches and no more blocks."""
    expected: dict[str, Any] = fields | {"patch_size": tuple(backbone.config.patch_size)}
    for field, value in expected.items():
        found = tuple(branch.config[field]) if field == "patch_size" else branch.config[field]
        if found != value:
            raise ValueError(f"{field} of the {name} branch is {found}, but this backbone needs {value}")
    if branch.config.num_layers > backbone.config.num_layers:
        raise ValueError(
            f"num_layers of the {name} branch is {branch.config.num_layers}, "
            f"but this backbone has only {backbone.config.num_layers}"
        )


def _sum(changes: tuple[Tensor | None, ...]) -> Tensor:
    """The sum of those that there are: one branch may have more blocks than another."""
    return reduce(torch.add, (change for change in changes if change is not None))


def _given(branch: str, **conditions: Tensor | None) -> tuple[Tensor, ...]:
    """The conditions, none of which may be missing."""
    if missing := [name for name, condition in conditions.items() if condition is None]:
        raise ValueError(f"the {branch} branch needs {' and '.join(missing)}")
    return tuple(condition for condition in conditions.values() if condition is not None)
