"""Splats while they are being optimised: one table of numbers, Adam's memory beside it, rows that come and go."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldstereo.cameras.rotations import matrix_from_quaternion
from worldstereo.geometry.splats import GaussianSplats

COLUMNS = (3, 3, 4, 1, 3)
"""Columns of the table: mean, logarithm of the scales, quaternion, logit of the opacity, colour."""

WIDTH = sum(COLUMNS)
_SHAPE = sum(COLUMNS[:3])
_BETAS = (0.9, 0.999)
_EPSILON = 1e-15
_LEAST_OPACITY, _MOST_OPACITY = 1e-4, 0.995
_SHRINK = 1.6


@dataclass(frozen=True, eq=False)
class SplatState:
    """What an optimisation needs to go on.

    Attributes:
        table: a row per splat, `COLUMNS`.
        unit: the length in which each splat's centre moves: its width at the start.
        sky: which splats are of the sky; they keep place and shape, are never split and never removed.
        first, second: Adam's running means of the gradient and of its square.
        updates: how often each row was updated.
        pull: sum, over the pictures since the last densification, of how strongly the picture pulls at the centre.
        seen: number of these pictures.
    """

    table: Float[Tensor, "n 14"]
    unit: Float[Tensor, " n"]
    sky: Bool[Tensor, " n"]
    first: Float[Tensor, "n 14"]
    second: Float[Tensor, "n 14"]
    updates: Float[Tensor, " n"]
    pull: Float[Tensor, " n"]
    seen: Float[Tensor, " n"]

    @classmethod
    def of(cls, surface: GaussianSplats, sky: GaussianSplats) -> "SplatState":
        """The state at the start."""
        splats = GaussianSplats.cat([surface, sky])
        opacity = splats.opacities.clamp(_LEAST_OPACITY, _MOST_OPACITY)
        columns = [splats.means, splats.scales.log(), splats.rotations, opacity.logit()[:, None], splats.colors]
        table = torch.cat(columns, dim=1)
        zeros = table.new_zeros(len(table))
        return cls(
            table=table,
            unit=splats.scales.amax(dim=1),
            sky=torch.arange(len(table), device=table.device) >= len(surface),
            first=torch.zeros_like(table),
            second=torch.zeros_like(table),
            updates=zeros,
            pull=zeros.clone(),
            seen=zeros.clone(),
        )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def splats(self) -> GaussianSplats:
        """The splats that the table stands for."""
        mean, scale, rotation, opacity, color = self.table.split(COLUMNS, dim=1)
        turned = torch.nn.functional.normalize(rotation, dim=1)
        return GaussianSplats(mean, scale.exp(), turned, opacity[:, 0].sigmoid(), color.clamp(0, 1))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def step(
        self, gradient: Float[Tensor, "n 14"], drawn: Bool[Tensor, " n"], rates: Float[Tensor, "14"]
    ) -> "SplatState":
        """One step of Adam (Kingma & Ba, 2015) for the rows that were drawn; the others rest.

        Rates are per column; that of the centre is in the splat's `unit`. As the steps of a row are counted for itself,
        a row that came late is treated as any other at its start.
        """
        moved = drawn[:, None].to(gradient)
        updates = self.updates + drawn.to(gradient)
        first = torch.addcmul(self.first, gradient - self.first, moved, value=1 - _BETAS[0])
        second = torch.addcmul(self.second, gradient.square() - self.second, moved, value=1 - _BETAS[1])
        count = updates.clamp(min=1)[:, None]
        change = (first / (1 - _BETAS[0] ** count)) / ((second / (1 - _BETAS[1] ** count)).sqrt() + _EPSILON)
        change *= rates * moved
        change[:, :3] *= self.unit[:, None]
        change[:, :_SHAPE] *= (~self.sky)[:, None]
        return replace(self, table=self.table - change, first=first, second=second, updates=updates)

    def noted(self, pull: Float[Tensor, " n"], drawn: Bool[Tensor, " n"]) -> "SplatState":
        """With one more picture's pull."""
        return replace(self, pull=self.pull + torch.where(drawn, pull, 0.0), seen=self.seen + drawn)

    def to(self, device: torch.device | str) -> "SplatState":
        """The same with tensors on `device`."""
        return SplatState(**{name: value.to(device) for name, value in self.tensors().items()})

    def rows(self, index: Int[Tensor, " k"] | Bool[Tensor, " n"]) -> "SplatState":
        """Some rows."""
        return SplatState(**{name: value[index] for name, value in self.tensors().items()})

    def without_faint(self, least_opacity: float) -> "SplatState":
        """Without surface splats of less opacity, or wider than is any use."""
        keep = (self.table[:, 10].sigmoid() >= least_opacity) | self.sky
        return self.rows(keep)

    def densified(self, least_pull: float, most: int, generator: torch.Generator) -> "SplatState":
        """At most `most` more splats, where the mean pull is largest and at least `least_pull`.

        A splat wider than its unit is split: two of 1/1.6 of its size at places drawn from it; a narrower one is
        doubled (Kerbl et al., SIGGRAPH 2023, §5.2). New rows start with an empty memory. What was noted is forgotten.
        """
        mean_pull = torch.where(self.sky, 0.0, self.pull / self.seen.clamp(min=1))
        order = torch.sort(mean_pull, descending=True, stable=True).indices[: max(most, 0)]
        chosen = order[mean_pull[order] >= least_pull]
        clear = replace(self, pull=torch.zeros_like(self.pull), seen=torch.zeros_like(self.seen))
        if len(chosen) == 0:
            return clear
        new = clear.rows(chosen)
        table = new.table.clone()
        wide = table[:, 3:6].exp().amax(dim=1) > new.unit
        axes = matrix_from_quaternion(table[:, 6:10]) * table[:, None, 3:6].exp()
        draw = torch.randn(2, len(chosen), 3, generator=generator).to(table)
        offset = torch.where(wide[:, None], torch.einsum("nij,knj->kni", axes, draw), 0.0)
        table[:, 3:6] = table[:, 3:6] - torch.where(wide[:, None], table.new_tensor(_SHRINK).log(), 0.0)
        old_table = clear.table.clone()
        old_table[chosen] = table
        old_table[chosen, :3] += offset[0]
        table[:, :3] += offset[1]
        empty = {name: torch.zeros_like(getattr(new, name)) for name in ("first", "second", "updates")}
        unit = torch.minimum(new.unit, table[:, 3:6].exp().amax(dim=1))
        added = replace(new, table=table, unit=unit, **empty).tensors()
        old = replace(clear, table=old_table).tensors()
        return SplatState(**{name: torch.cat([old[name], added[name]]) for name in old})
