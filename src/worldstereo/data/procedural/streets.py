"""Streets: façades with windows, pavements, cars, lamp posts, trees, people."""

from math import pi

import numpy as np

from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural import structure as s
from worldstereo.data.procedural.building import Builder, Material, Number
from worldstereo.data.procedural.layout import Layout


def street(layout: Layout) -> None:
    """Build a straight street along z."""
    rng, b = layout.rng, layout.builder
    road = rng.between(4.0, 9.0)
    pavement = rng.between(1.5, 3.8)
    half = road / 2 + pavement
    reach = rng.between(35, 80)
    s.ground(b, m.asphalt(rng) if rng.happens(0.75) else m.paving(rng))
    slabs, kerb = (m.paving(rng), m.paint(rng, (0.6, 0.59, 0.57)))
    for side in (-1, 1):
        b.box((side * (half + 6), 0, 0), (2 * (pavement + 6), 0.12, 4 * reach), slabs)
        b.box((side * (road / 2 - 0.07), 0, 0), (0.14, 0.13, 4 * reach), kerb)
    if rng.happens(0.7):
        paint = m.paint(rng, (0.88, 0.87, 0.8))
        for z in np.arange(-reach, reach, 6.0):
            b.box((0, 0, float(z)), (0.14, 0.006, 2.6), paint)
    for side in (-1, 1):
        with b.at(side * half, 0.12, -reach, side * pi / 2):
            _row(b, 2 * reach, side)
        _pavement_things(layout, side, road, pavement, reach)
    for side in (-1, 1):
        for z in np.arange(-0.6 * reach, 0.6 * reach, 6.5):
            if rng.happens(0.35):
                with b.at(side * (road / 2 - 1.1), 0, float(z) + rng.between(-0.8, 0.8), pi if side > 0 else 0.0):
                    car(b)
    if rng.happens(0.6):
        with b.at(rng.between(-1, 1), 0.0, reach + 10, pi):
            front(b, 2.5 * half, rng.between(6, 16))
    s.hills(b, 200, 400, rng.integer(0, 6))
    layout.walk((-half + 0.6, half - 0.6), (-0.55 * reach, 0.55 * reach), (1.0, 2.2))


def _row(b: Builder, length: Number, side: int) -> None:
    """Houses along x of the frame, fronts towards -z."""
    rng = b.rng
    start = 0.0
    while start < length:
        width = rng.between(6, 15)
        x = -side * (start + width / 2)
        if rng.happens(0.88):
            with b.at(x, 0, rng.between(0, 0.6) if rng.happens(0.5) else 0.0):
                front(b, width, rng.between(5, 17))
        else:
            with b.at(x, 0, 3):
                s.tree(b, rng.between(4, 8))
        start += width


def front(b: Builder, width: Number, height: Number) -> None:
    """A house whose front is the plane z = 0, seen from -z, centred at x = 0."""
    rng = b.rng
    depth = 10.0
    floors = max(1, round(height / 3.2))
    storey = height / floors
    near = rng.happens(0.55)
    wall = m.bricks(rng) if rng.happens(0.4) else m.paint(rng, m.pick(rng, m.FACADES))
    trim = m.paint(rng, m.pick(rng, [(0.9, 0.89, 0.85), (0.35, 0.32, 0.3), (0.7, 0.66, 0.6)]))
    if near:
        b.box((0, 0, depth / 2), (width, height, depth), wall)
        _deep_windows(b, width, floors, storey, trim)
    else:
        b.box((0, 0, depth / 2), (width, height, depth), m.facade(rng).fitted(width, height))
    b.box((0, height, depth / 2 - 0.2), (width + 0.1, 0.35, depth + 0.4), trim)
    if rng.happens(0.5):
        s.gable_roof(b, width, height + 0.3, depth)
    if rng.happens(0.6):
        b.box((0, 0, -0.03), (width, 0.5, 0.06), m.stone(rng))
    if rng.happens(0.4):
        _shop(b, width, min(storey, 3.4))
    else:
        x = rng.between(-0.3, 0.3) * width
        b.box((x, 0, -0.02), (1.3, 2.5, 0.12), trim)
        with b.at(x, 0, -0.09):
            s.door_leaf(b, 1.0, 2.2)


def _deep_windows(b: Builder, width: Number, floors: int, storey: Number, trim: Material) -> None:
    """Windows as frames in front of dark glass, with sills, some with balconies."""
    rng = b.rng
    wide, high = rng.between(0.9, 1.5), rng.between(1.2, 0.62 * storey)
    columns = max(1, int(width / rng.between(2.0, 3.0)))
    balcony = rng.happens(0.25)
    glass = m.Material(
        "plain", ((0.2, 0.24, 0.29), (0.3, 0.35, 0.4), (0.3, 0.3, 0.3)), grain=(0.7, 0.7, 0.7), gloss=0.6
    )
    metal = m.metal(rng)
    for floor in range(1 if rng.happens(0.5) else 0, floors):
        up = floor * storey + 0.55 * (storey - high)
        for column in range(columns):
            x = -width / 2 + (column + 0.5) * width / columns
            b.box((x, up, -0.005), (wide, high, 0.02), glass)
            b.box((x, up - 0.1, -0.06), (wide + 0.3, 0.1, 0.2), trim)
            b.box((x, up + high, -0.04), (wide + 0.2, 0.12, 0.12), trim)
            for edge in (-1, 0, 1):
                b.box((x + edge * wide / 2, up, -0.03), (0.08, high, 0.08), trim)
            if balcony and floor > 0 and column % 2 == 0:
                b.box((x, up - 0.25, -0.5), (wide + 0.8, 0.15, 1.0), trim)
                b.box((x, up + 0.75, -1.0), (wide + 0.8, 0.05, 0.05), metal)
                for post in np.linspace(-0.5, 0.5, 6):
                    b.box((x + float(post) * (wide + 0.75), up - 0.1, -1.0), (0.04, 0.88, 0.04), metal)


def _shop(b: Builder, width: Number, height: Number) -> None:
    """A shop window with a sign and an awning."""
    rng = b.rng
    color = m.hued(rng, (0.1, 0.6), (0.15, 0.6))
    b.box((0, 0.2, -0.04), (0.9 * width, 0.75 * height, 0.08), m.paint(rng, color))
    panes = max(2, int(width / 2.2))
    for k in range(panes):
        x = (-0.45 + (k + 0.5) * 0.9 / panes) * width
        wide = 0.9 * width / panes - 0.2
        b.box((x, 0.5, -0.06), (wide, 0.58 * height, 0.08), m.display(rng, wide, 0.58 * height))
    b.box((0, 0.8 * height, -0.08), (0.9 * width, 0.16 * height, 0.16), m.display(rng, 3.0, 0.16 * height))
    if rng.happens(0.5):
        stripes = m.Material("stripes", (color, (0.9, 0.88, 0.84), color), period=(0.4, 0.4))
        b.box((0, 0.74 * height, -0.75), (0.9 * width, 0.04, 1.5), stripes, pitch=0.3)


def car(b: Builder) -> None:
    """A parked car, its front towards +z."""
    rng = b.rng
    paint = m.paint(
        rng,
        m.pick(
            rng,
            [
                (0.8, 0.8, 0.8),
                (0.12, 0.12, 0.14),
                (0.45, 0.46, 0.48),
                (0.55, 0.1, 0.1),
                (0.12, 0.2, 0.42),
                (0.2, 0.3, 0.22),
                (0.85, 0.7, 0.3),
            ],
        ),
        gloss=0.6,
    )
    glass, black = m.paint(rng, (0.12, 0.14, 0.17), 0.7), m.paint(rng, (0.07, 0.07, 0.07))
    length, width = rng.between(3.7, 4.7), rng.between(1.65, 1.85)
    tall = rng.choice([0.5, 0.55, 0.8])
    b.box((0, 0.28, 0), (width, 0.52, length), paint)
    b.ball((0, 0.3, 0.36 * length), (width, 0.62, 0.45 * length), paint)
    cabin = rng.between(0.5, 0.66) * length
    shift = -0.06 * length
    b.box((0, 0.8, shift), (width - 0.14, tall - 0.02, 0.66 * cabin), paint)
    for side in (-1, 1):
        b.box((0, 0.72, shift + side * 0.38 * cabin), (width - 0.16, 1.12 * tall, 0.2), glass, pitch=side * 0.55)
        for z in (-0.16, 0.16):
            b.box((side * (width / 2 - 0.07), 0.84, shift + z * cabin), (0.02, tall - 0.14, 0.27 * cabin), glass)
    for x in (-1, 1):
        for z in (-0.31, 0.31):
            b.tube((x * (width / 2 - 0.09), 0.32 - 0.11, z * length), (0.64, 0.22, 0.64), black, roll=pi / 2)
            b.tube((x * (width / 2 - 0.09), 0.32 - 0.115, z * length), (0.38, 0.23, 0.38), m.metal(rng), roll=pi / 2)
        b.box((x * 0.36 * width, 0.58, length / 2 - 0.02), (0.3, 0.14, 0.06), m.paint(rng, (0.9, 0.9, 0.86), 0.5))
        b.box((x * 0.38 * width, 0.58, -length / 2 + 0.02), (0.24, 0.14, 0.06), m.paint(rng, (0.6, 0.08, 0.06), 0.5))


def _pavement_things(layout: Layout, side: int, road: Number, pavement: Number, reach: Number) -> None:
    """Lamp posts, trees, people, bins, benches on a pavement."""
    rng, b = layout.rng, layout.builder
    edge = side * (road / 2 + 0.45)
    lamp_step, tree_step = rng.between(12, 22), rng.between(7, 14)
    metal = m.metal(rng)
    for z in np.arange(-reach + rng.between(0, 5), reach, lamp_step):
        with b.at(edge, 0.12, float(z)):
            b.tube((0, 0, 0), (0.16, 4.5, 0.16), metal, top=0.6)
            b.beam((0, 4.4, 0), (-side * 1.1, 4.7, 0), (0.07, 0.07), metal, square=False)
            b.ball((-side * 1.1, 4.5, 0), (0.5, 0.2, 0.25), metal)
    if pavement > 2.2 and rng.happens(0.7):
        for z in np.arange(-0.8 * reach + 3, 0.8 * reach, tree_step):
            with b.at(edge + side * 0.2, 0.12, float(z)):
                b.box((0, 0, 0), (1.0, 0.02, 1.0), m.soil(rng))
                s.tree(b, rng.between(4, 7))
    for _ in range(rng.integer(2, 9)):
        x, z = side * rng.between(road / 2 + 0.7, road / 2 + pavement - 0.4), rng.between(-0.6, 0.6) * reach
        with b.at(x, 0.12, z, rng.choice([0, pi]) + rng.normal(0, 0.3)):
            kind = rng.between()
            if kind < 0.6:
                s.person(b)
            elif kind < 0.8:
                b.tube((0, 0, 0), (0.45, 0.95, 0.45), m.metal(rng), top=1.15)
            else:
                bench(b)


def bench(b: Builder) -> None:
    """A slatted bench."""
    wood, iron = m.wood(b.rng), m.metal(b.rng)
    for x in (-0.7, 0.7):
        b.box((x, 0, 0), (0.06, 0.44, 0.4), iron)
        b.box((x, 0.4, 0.2), (0.06, 0.45, 0.05), iron)
    for z in (-0.15, 0.0, 0.15):
        b.box((0, 0.43, z), (1.6, 0.03, 0.11), wood)
    for up in (0.56, 0.72):
        b.box((0, up, 0.17), (1.6, 0.11, 0.03), wood)
