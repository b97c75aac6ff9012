"""Results to look at: a sheet of frames, and bars for each figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from worldstereo.evaluation.report_table import Mean
from worldstereo.training.picture_sheet import picture_sheet

_COLUMNS = 5
_LABEL_HEIGHT = 16
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_COLOURS = ((150, 150, 150), (31, 119, 180))  # baselines, learned
_LABELS, _BARS, _FIGURES, _ROW, _GAP = 200, 220, 110, 20, 12
_CHARTS_A_ROW = 2


def labelled_sheet(rows: Mapping[str, Float[Tensor, "_ 3 _ _"]]) -> Float[Tensor, "3 h w"]:
    """A stripe of five pictures for each row, the first frame left out, with its name above."""
    stripes = []
    for name, pictures in rows.items():
        stripe = picture_sheet([pictures[1:]], _COLUMNS)
        label = Image.new("RGB", (stripe.shape[2], _LABEL_HEIGHT), _PAPER)
        ImageDraw.Draw(label).text((4, 1), name, fill=_INK, font=_font(12))
        stripes += [_as_tensor(label), stripe]
    return torch.cat(stripes, dim=1)


def bar_chart(title: str, bars: Sequence[tuple[str, bool, Mean]], digits: int) -> Float[Tensor, "3 h w"]:
    """Horizontal bars from 0 with standard errors, one for each (row, whether it is learned, mean)."""
    height = 34 + _ROW * len(bars) + _GAP
    picture = Image.new("RGB", (_LABELS + _BARS + _FIGURES, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((8, 8), title, fill=_INK, font=_font(14))
    longest = max((mean.value + (mean.error or 0) for _, _, mean in bars), default=1.0)
    unit = _BARS / longest if longest > 0 else 0.0
    for number, (name, learned, mean) in enumerate(bars):
        top = 34 + _ROW * number
        right = _LABELS + max(0.0, unit * mean.value)
        draw.text((8, top + 1), name, fill=_INK, font=_font(12))
        draw.rectangle((_LABELS, top + 2, right, top + _ROW - 5), fill=_COLOURS[learned])
        if mean.error is not None:
            middle, reach = top + _ROW // 2 - 2, unit * mean.error
            draw.line((right - reach, middle, right + reach, middle), fill=_INK, width=1)
        draw.text((_LABELS + _BARS + 8, top + 1), mean.text(digits), fill=_INK, font=_font(12))
    return _as_tensor(picture)


def side_by_side(charts: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "3 h w"]:
    """Charts of one width, two in a row."""
    height = max(chart.shape[1] for chart in charts)
    padded = [F.pad(chart, (0, 0, 0, height - chart.shape[1]), value=1.0) for chart in charts]
    if len(padded) % _CHARTS_A_ROW and len(padded) > 1:
        padded.append(torch.ones_like(padded[0]))
    rows = [torch.cat(padded[k : k + _CHARTS_A_ROW], dim=2) for k in range(0, len(padded), _CHARTS_A_ROW)]
    return torch.cat(rows, dim=1)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _as_tensor(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
