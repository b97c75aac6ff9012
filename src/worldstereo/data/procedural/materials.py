"""Random materials of real kinds: paint, wood, stone, cloth, leaves."""

from colorsys import hsv_to_rgb

from worldstereo.data.procedural.building import Color, Material, Number
from worldstereo.data.procedural.chance import Chance


def near(rng: Chance, color: Color, spread: Number = 0.04) -> Color:
    """A colour close to another: mostly lighter or darker, a little of another hue."""
    shift = rng.normal(0, spread)
    r, g, b = (min(max(c + shift + rng.normal(0, spread / 3), 0.01), 0.98) for c in color)
    return (r, g, b)


def shade(color: Color, factor: Number) -> Color:
    """A colour made darker or lighter."""
    return (min(color[0] * factor, 1.0), min(color[1] * factor, 1.0), min(color[2] * factor, 1.0))


def hued(rng: Chance, saturation: tuple[Number, Number], value: tuple[Number, Number]) -> Color:
    """Any hue."""
    return hsv_to_rgb(rng.between(), rng.between(*saturation), rng.between(*value))


def pick(rng: Chance, colors: list[Color], spread: Number = 0.04) -> Color:
    """One of some colours, varied."""
    return near(rng, rng.choice(colors), spread)


WALLS = [
    (0.9, 0.88, 0.84),
    (0.85, 0.83, 0.8),
    (0.8, 0.78, 0.7),
    (0.78, 0.82, 0.84),
    (0.72, 0.78, 0.7),
    (0.85, 0.75, 0.65),
    (0.62, 0.68, 0.74),
    (0.55, 0.6, 0.55),
    (0.75, 0.6, 0.55),
    (0.35, 0.4, 0.48),
]
WOODS = [
    (0.6, 0.42, 0.26),
    (0.72, 0.55, 0.36),
    (0.42, 0.27, 0.17),
    (0.8, 0.68, 0.5),
    (0.3, 0.2, 0.14),
    (0.55, 0.33, 0.2),
]
BRICKS = [(0.6, 0.32, 0.24), (0.5, 0.28, 0.22), (0.7, 0.5, 0.36), (0.66, 0.6, 0.5), (0.45, 0.42, 0.4)]
STONES = [(0.62, 0.6, 0.56), (0.5, 0.49, 0.47), (0.72, 0.67, 0.58), (0.42, 0.42, 0.44)]
FACADES = [
    (0.82, 0.76, 0.64),
    (0.75, 0.6, 0.48),
    (0.7, 0.7, 0.7),
    (0.86, 0.82, 0.76),
    (0.65, 0.5, 0.45),
    (0.6, 0.66, 0.7),
    (0.85, 0.7, 0.5),
    (0.55, 0.55, 0.52),
]


def paint(rng: Chance, color: Color, gloss: Number = 0.03) -> Material:
    """A plain painted or plastered surface, slightly mottled."""
    size = rng.between(0.2, 0.8)
    return Material("plain", (shade(color, 0.94), shade(color, 1.04), color), grain=(size, size, size), gloss=gloss)


def wood(rng: Chance, color: Color | None = None, along: int = 0) -> Material:
    """Wood without joints, grain along one of the own axes."""
    base = color or pick(rng, WOODS)
    grain = [0.03, 0.03, 0.03]
    grain[along] = 0.5
    return Material(
        "plain", (shade(base, 0.75), shade(base, 1.12), base), grain=(grain[0], grain[1], grain[2]), gloss=0.08
    )


def planks(rng: Chance, width: Number | None = None) -> Material:
    """A floor or wall of boards."""
    base = pick(rng, WOODS)
    across = width or rng.between(0.08, 0.2)
    return Material(
        "planks",
        (shade(base, 0.72), shade(base, 1.15), shade(base, 0.3)),
        period=(rng.between(1.2, 2.4), across),
        grain=(0.5, 0.04, 0.04),
        gloss=rng.between(0, 0.25),
    )


def bricks(rng: Chance, color: Color | None = None) -> Material:
    """Brickwork."""
    base = color or pick(rng, BRICKS)
    mortar = pick(rng, [(0.75, 0.72, 0.68), (0.55, 0.53, 0.5)])
    big = rng.between(0.9, 1.4)
    return Material(
        "bricks",
        (shade(base, 0.75), shade(base, 1.2), mortar),
        period=(0.23 * big, 0.077 * big),
        grain=(0.12, 0.12, 0.12),
        relief=0.08,
    )


def tiles(rng: Chance, color: Color | None = None) -> Material:
    """Square tiles with joints."""
    base = color or pick(rng, WALLS + STONES)
    size = rng.choice([0.15, 0.3, 0.45, 0.6])
    return Material(
        "tiles",
        (shade(base, 0.85), shade(base, 1.08), shade(base, rng.choice([0.45, 0.65, 1.25]))),
        period=(size, size),
        grain=(0.4, 0.4, 0.4),
        gloss=rng.between(0.05, 0.3),
    )


def checks(rng: Chance) -> Material:
    """A floor of two colours."""
    light, dark = (
        pick(rng, [(0.88, 0.86, 0.8), (0.8, 0.75, 0.66)]),
        pick(rng, [(0.15, 0.14, 0.14), (0.4, 0.2, 0.16), (0.2, 0.28, 0.3)]),
    )
    size = 2 * rng.choice([0.2, 0.33, 0.5])
    return Material("checks", (light, dark, shade(light, 0.6)), period=(size, size), gloss=0.25)


def marble(rng: Chance) -> Material:
    """Veined polished stone."""
    base = pick(rng, [(0.88, 0.87, 0.85), (0.7, 0.62, 0.52), (0.25, 0.27, 0.26), (0.8, 0.7, 0.64)])
    size = rng.between(0.3, 0.9)
    return Material(
        "marble", (shade(base, 0.9), shade(base, 1.08), shade(base, 0.5)), grain=(size, size, size), gloss=0.3
    )


def cloth(rng: Chance, color: Color | None = None) -> Material:
    """Fabric: plain weave, stripes, or a check."""
    base = color or hued(rng, (0.05, 0.6), (0.25, 0.85))
    kind = rng.choice(["fabric", "fabric", "fabric", "stripes", "checks"])
    if kind == "fabric":
        size = rng.between(0.008, 0.03)
        colors = (shade(base, 0.7), shade(base, 1.2), base)
    else:
        size = rng.between(0.06, 0.25)
        colors = (base, pick(rng, [(0.9, 0.88, 0.82), shade(base, 0.5), shade(base, 1.4)]), shade(base, 0.7))
    return Material(kind, colors, period=(size, size), grain=(0.15, 0.15, 0.15), noise=0.5, relief=0.05)


def wallpaper(rng: Chance) -> Material:
    """Printed paper: motifs or stripes."""
    base = pick(rng, WALLS)
    other = near(rng, shade(base, rng.choice([0.7, 0.8, 1.15])), 0.06)
    size = rng.between(0.12, 0.5)
    kind = rng.choice(["wallpaper", "stripes"])
    return Material(kind, (base, other, near(rng, other, 0.15)), period=(size, size * 1.2), noise=0.3)


def picture(rng: Chance, width: Number, height: Number) -> Material:
    """A painting or poster over a whole face."""
    colors = (hued(rng, (0.1, 0.8), (0.2, 0.9)), hued(rng, (0.1, 0.6), (0.5, 0.95)), hued(rng, (0.2, 0.9), (0.3, 0.9)))
    size = rng.between(0.1, 0.3)
    return Material("picture", colors, period=(width, height), grain=(size, size, size), noise=1.0)


def metal(rng: Chance) -> Material:
    """Metal, painted or bare."""
    return paint(
        rng, pick(rng, [(0.2, 0.2, 0.21), (0.6, 0.6, 0.62), (0.75, 0.72, 0.65), (0.12, 0.2, 0.16)]), gloss=0.35
    )


def stone(rng: Chance, color: Color | None = None) -> Material:
    """Rough natural stone."""
    base = color or pick(rng, STONES)
    size = rng.between(0.15, 0.5)
    return Material(
        "gravel", (shade(base, 0.75), shade(base, 1.15), shade(base, 0.5)), grain=(size, size, size), relief=0.35
    )


def paving(rng: Chance) -> Material:
    """Stone slabs or setts."""
    base = pick(rng, STONES)
    size = rng.choice([0.12, 0.3, 0.5])
    return Material(
        "stones",
        (shade(base, 0.8), shade(base, 1.12), shade(base, 0.5)),
        period=(size * 1.6, size),
        relief=0.1,
        grain=(0.5, 0.5, 0.5),
    )


def asphalt(rng: Chance) -> Material:
    """Road surface."""
    base = pick(rng, [(0.3, 0.3, 0.31), (0.4, 0.39, 0.38), (0.24, 0.24, 0.26)])
    return Material(
        "gravel", (shade(base, 0.85), shade(base, 1.15), shade(base, 1.3)), period=(1, 1), grain=(1.5, 1.5, 1.5)
    )


def foliage(rng: Chance, size: Number = 0.12) -> Material:
    """Leaves."""
    base = pick(rng, [(0.25, 0.38, 0.13), (0.18, 0.32, 0.14), (0.36, 0.44, 0.16), (0.3, 0.36, 0.2), (0.45, 0.38, 0.14)])
    return Material(
        "leaves",
        (shade(base, 0.35), shade(base, 1.3), shade(base, 1.8)),
        grain=(size, size, size),
        noise=1.1,
        relief=0.9,
    )


def grass(rng: Chance, size: Number = 0.35) -> Material:
    """Lawn or meadow."""
    base = pick(rng, [(0.34, 0.4, 0.2), (0.4, 0.42, 0.24), (0.28, 0.36, 0.18), (0.48, 0.45, 0.3)])
    return Material(
        "lawn",
        (shade(base, 0.7), shade(base, 1.15), shade(base, 1.4)),
        grain=(size, size, size),
        noise=0.9,
        relief=0.25,
    )


def soil(rng: Chance) -> Material:
    """Bare earth or a sandy path."""
    base = pick(rng, [(0.5, 0.4, 0.3), (0.66, 0.57, 0.44), (0.42, 0.36, 0.3)])
    return Material(
        "gravel", (shade(base, 0.75), shade(base, 1.15), shade(base, 0.55)), grain=(0.8, 0.8, 0.8), relief=0.15
    )


def facade(rng: Chance) -> Material:
    """A plastered or brick-coloured front with painted rows of windows."""
    base = pick(rng, FACADES + BRICKS)
    trim = pick(rng, [(0.9, 0.89, 0.86), (0.3, 0.28, 0.26), shade(base, 1.2)])
    return Material(
        "windows",
        (shade(base, 0.9), shade(base, 1.06), trim),
        period=(rng.between(1.8, 3.2), rng.between(2.7, 3.4)),
        grain=(1.2, 1.2, 1.2),
    )


def rug(rng: Chance, width: Number, length: Number) -> Material:
    """A carpet: a few woven motifs, stripes, or one colour."""
    base = hued(rng, (0.15, 0.7), (0.25, 0.8))
    kind = rng.choice(["wallpaper", "stripes", "checks", "fabric", "picture"])
    size = rng.between(0.12, 0.5) if kind != "fabric" else 0.02
    period = (width, length) if kind == "picture" else (size, size)
    return Material(
        kind,
        (base, near(rng, shade(base, 1.4), 0.15), hued(rng, (0.2, 0.8), (0.2, 0.9))),
        period=period,
        grain=(0.1, 0.1, 0.1),
        relief=0.08,
    )


def big_blocks(rng: Chance) -> Material:
    """Ashlar: large dressed stones."""
    base = pick(rng, STONES)
    size = rng.between(0.5, 1.1)
    return Material(
        "bricks",
        (shade(base, 0.88), shade(base, 1.1), shade(base, 0.7)),
        period=(size, 0.45 * size),
        grain=(0.4, 0.4, 0.4),
        relief=0.1,
    )


def display(rng: Chance, width: Number, height: Number) -> Material:
    """A shop window: dark glass with dim goods and posters behind."""
    tones = tuple(shade(hued(rng, (0.1, 0.6), (0.3, 0.7)), rng.between(0.3, 0.9)) for _ in range(3))
    period = (rng.between(0.4, 1.0) * width, rng.between(0.4, 1.0) * height)
    return Material("goods", (tones[0], tones[1], tones[2]), period=period, grain=(0.5, 0.5, 0.5), noise=0.5, gloss=0.5)
