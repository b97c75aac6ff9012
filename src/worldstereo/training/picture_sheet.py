"""Pictures beside each other, to see at a glance how a training goes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def picture_sheet(rows: Sequence[Float[Tensor, "_ 3 _ _"]], columns: int) -> Float[Tensor, "3 h w"]:
    """One row of pictures for each stack: `columns` of its pictures, evenly spread, the first and the last among them.

    Rows may differ in size; the room that narrower ones leave is white.
    """
    stripes = []
    for pictures in rows:
        chosen = torch.linspace(0, len(pictures) - 1, min(columns, len(pictures))).round().long()
        stripes.append(torch.cat([picture.float().cpu() for picture in pictures[chosen]], dim=2).clamp(0, 1))
    width = max(stripe.shape[2] for stripe in stripes)
    return torch.cat([F.pad(stripe, (0, width - stripe.shape[2]), value=1.0) for stripe in stripes], dim=1)
