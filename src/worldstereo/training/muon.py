"""Muon: momentum whose matrices are made orthogonal, for the hidden layers of small networks trained from scratch."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration by Jordan et al. 2024."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised (K. Jordan et al., "Muon: an optimizer for hidden layers", 2024).

    Every direction of a weight matrix moves by the same amount, which teaches a network from scratch about twice as
    much per step as Adam did here. Convolutions count as matrices [out, in · kernel]; all parameters must have two or
    more dimensions.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            compute_dtype: in which directions are made orthogonal; bfloat16 is enough for it (2.5 % off), and 2.4 times
                as fast on processors with instructions for it.
        """
        self._compute_dtype = compute_dtype
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                alike.setdefault((direction.shape[0], direction.shape[1]), []).append((parameter, direction))
            for (rows, columns), some in alike.items():
                directions = torch.stack([direction for _, direction in some])
                updates = orthogonalized(directions.to(self._compute_dtype)).to(directions.dtype)
                for (parameter, _), update in zip(some, updates * max(1.0, rows / columns) ** 0.5, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view(parameter.shape), alpha=-group["lr"])


def orthogonalized(matrices: Float[Tensor, "k m n"], iterations: int = 5) -> Float[Tensor, "k m n"]:
    """About the nearest matrices with singular values 1 (they end up between 0.7 and 1.2), by Newton–Schulz."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
