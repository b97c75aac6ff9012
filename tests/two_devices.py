"""A second device on any machine: its tensors compute on the CPU, but refuse to meet the CPU's own, as CUDA's do."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("cpu", 1)


class Elsewhere(Tensor):
    """A tensor of that device."""


class TwoDevices(TorchFunctionMode):
    """While it is on, tensors can be put on `ELSEWHERE`; a RuntimeError follows where they meet others.

    Tensors without dimensions may meet any, and `Tensor.to`, `Tensor.cpu` and `device=` move and make them.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        away = any(isinstance(leaf, Elsewhere) for leaf in leaves)
        if function == Tensor.device.__get__:
            return ELSEWHERE if away else torch.device("cpu")
        here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere) and leaf.ndim]
        wanted = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        if away and here and not wanted:
            raise RuntimeError(f"{function.__name__}: tensors on two devices")
        with torch._C.DisableTorchFunctionSubclass():
            plain = [
                tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, Elsewhere) else x, a) for a in (args, kwargs)
            ]
            result = function(*plain[0], **(plain[1] or {}))
            goes_away = wanted[0] == ELSEWHERE if wanted else away and function is not Tensor.cpu
            if not goes_away:
                return result
            return tree_map(lambda x: x.as_subclass(Elsewhere) if isinstance(x, Tensor) else x, result)
