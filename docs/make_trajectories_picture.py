"""Draw docs/images/trajectories.png: each move seen from above and from the side.

Run from anywhere: python docs/make_trajectories_picture.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from worldstereo.cameras import Cameras
from worldstereo.cameras.trajectories import SceneScale, parse_trajectory

TEXTS = (
    "orbit-right:60",
    "orbit-up:45",
    "ellipse:0.3x0.4",
    "spiral:0.35x2",
    "dolly-in:0.5",
    "truck-left:0.5",
    "pedestal-up:0.4",
    "pan-left:60",
    "tilt-up:30",
    "dolly-in:0.4+pan-left:60",
    "orbit-left:60+orbit-up:40",
    "zoom-in:2",
)
COLUMNS, CELL, VIEW = 4, (300, 206), 148
SHARP = 3  # drawn this much larger, then reduced
TOP, SIDE = (0, 2, 1, -1), (2, 1, 1, 1)  # world axes along the picture's right and down, and their signs
INK, FRAME, GREY, START, END = (40, 40, 40), (210, 210, 210), (130, 130, 130), (31, 119, 180), (214, 69, 40)


def blend(fraction: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * fraction) for a, b in zip(START, END, strict=True))


def draw_view(
    draw: ImageDraw.ImageDraw, cameras: Cameras, axes: tuple[int, int, int, int], middle: tuple[float, float]
):
    """One orthographic view, 1 r = 82 px; each camera as its field of view, from blue (start) to red (end)."""
    right, down, right_sign, down_sign = axes
    unit = 82 * SHARP

    def place(point: torch.Tensor) -> tuple[float, float]:
        shifted = point - torch.tensor([0.0, 0.0, 0.5])
        return (
            middle[0] * SHARP + unit * right_sign * float(shifted[right]),
            middle[1] * SHARP + unit * down_sign * float(shifted[down]),
        )

    draw.line([place(center) for center in cameras.centers], GREY, SHARP)
    x, y = place(torch.tensor([0.0, 0.0, 1.0]))
    draw.line([x - 9, y, x + 9, y], INK, SHARP)
    draw.line([x, y - 9, x, y + 9], INK, SHARP)
    poses = cameras.world_from_cam
    for index in range(len(cameras)):
        tangent = float(cameras.width / 2 / cameras.intrinsics[index, 0, 0])
        wing = tangent * poses[index, :3, 0 if axes is TOP else 1]
        tips = [cameras.centers[index] + 0.24 * (cameras.forward[index] + sign * wing) for sign in (-1, 1)]
        outline = [place(cameras.centers[index]), *map(place, tips)]
        draw.polygon(outline, outline=blend(index / (len(cameras) - 1)), width=SHARP)


def main() -> None:
    rows = -(-len(TEXTS) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * CELL[0] * SHARP, (rows * CELL[1] + 34) * SHARP), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(15 * SHARP), ImageFont.load_default(11 * SHARP)
    start, scale = Cameras.from_fov(50.0, 64, 64), SceneScale(1.0)
    for index, text in enumerate(TEXTS):
        left, top = index % COLUMNS * CELL[0], index // COLUMNS * CELL[1]
        cameras = parse_trajectory(text).cameras(start, scale, frames=9)
        draw.rectangle([left * SHARP, top * SHARP, (left + CELL[0]) * SHARP, (top + CELL[1]) * SHARP], outline=FRAME)
        draw.text(((left + 12) * SHARP, (top + 8) * SHARP), text, INK, font)
        for view, (axes, label) in enumerate(((TOP, "from above"), (SIDE, "from the right"))):
            corner = left + view * VIEW
            draw.text(((corner + 12) * SHARP, (top + 30) * SHARP), label, GREY, small)
            draw_view(draw, cameras, axes, (corner + VIEW / 2, top + 128))
    legend = (
        "Blue: start. Red: end. Cross: the centre, r (the median depth) in front of the start. Zoom narrows the view."
    )
    draw.text((12 * SHARP, (rows * CELL[1] + 6) * SHARP), legend, INK, ImageFont.load_default(13 * SHARP))
    picture = picture.resize((picture.width // SHARP, picture.height // SHARP), Image.Resampling.LANCZOS)
    target = Path(__file__).parent / "images" / "trajectories.png"
    target.parent.mkdir(exist_ok=True)
    picture.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
