"""The frame of our pages: one file that needs nothing from the network, and the bits of HTML that pages share."""

import base64
import io
import json
from html import escape
from importlib.resources import files
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

_PICTURE_LIMIT = 1600  # pixels of the longer side

# The browser itself enforces that the page fetches nothing.
_POLICY = (
    "default-src 'none'; img-src data: blob:; media-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def page(title: str, body: str) -> str:
    """A complete HTML document around `body` (trusted HTML), style and script inlined; `title` is plain text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="worldstereo">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
{body}
<script>
{_asset("painter.js")}{_asset("scene.js")}</script>
</body>
</html>
"""


def data_url(data: bytes, media_type: str) -> str:
    """The bytes as a URL that carries them."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def picture_url(picture: Float[Tensor, "3 h w"], quality: int = 88) -> str:
    """A picture in [0, 1] as a JPEG data URL, shrunk to at most 1600 pixels a side."""
    image = to_image(picture)
    image.thumbnail((_PICTURE_LIMIT, _PICTURE_LIMIT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_url(buffer.getvalue(), "image/jpeg")


def picture_card(picture: Float[Tensor, "3 h w"], title: str, style: str = "card") -> str:
    """A picture with its title (plain text) below; `style` holds classes of the style sheet."""
    name = escape(title)
    return (
        f'<figure class="{style}"><img src="{picture_url(picture)}" alt="{name}">'
        f"<figcaption><h3>{name}</h3></figcaption></figure>"
    )


def to_image(picture: Float[Tensor, "3 h w"]) -> Image.Image:
    """A picture in [0, 1] as a PIL image."""
    return Image.fromarray(picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def embedded_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever strings it holds: no `<`, so no tag and no comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(rows: tuple[tuple[str, str], ...], caption: str) -> str:
    """A two-column table of plain texts; nothing when there are no rows."""
    if not rows:
        return ""
    cells = "\n".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<section>\n<h2>{escape(caption)}</h2>\n<table>\n{cells}\n</table>\n</section>"


def _asset(name: str) -> str:
    return (files("worldstereo.viewer") / "assets" / name).read_text(encoding="utf-8")
