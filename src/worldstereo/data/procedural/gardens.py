"""Gardens and landscapes: lawns, paths, hedges, trees, walls, rocks, ponds, far hills."""

from math import pi, sin

import numpy as np

from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural import structure as s
from worldstereo.data.procedural.building import Builder, Number
from worldstereo.data.procedural.layout import Layout
from worldstereo.data.procedural.streets import bench, front


def garden(layout: Layout) -> None:
    """Build a garden of random size about the origin, open to a landscape."""
    rng, b = layout.rng, layout.builder
    width, length = rng.between(12, 32), rng.between(16, 45)
    s.ground(b, m.grass(rng))
    _paths(b, width, length)
    for side in range(4):
        span, reach = (width, length) if side % 2 == 0 else (length, width)
        with b.at(0, 0, 0, side * pi / 2), b.at(0, 0, reach / 2):
            _border(b, span)
    _plants(b, width, length)
    if rng.happens(0.55):
        with b.at(rng.between(-0.2, 0.2) * width, 0, length / 2 + 3):
            front(b, rng.between(7, 12), rng.between(3.2, 7))
    if rng.happens(0.5):
        _shed(b, rng.between(-0.4, 0.4) * width, -0.42 * length)
    if rng.happens(0.4):
        _pergola(b, rng.between(-0.3, 0.3) * width, rng.between(-0.3, 0.3) * length)
    for _ in range(rng.integer(0, 4)):
        with b.at(rng.between(-0.4, 0.4) * width, 0, rng.between(-0.4, 0.4) * length, rng.between(-pi, pi)):
            s.person(b) if rng.happens(0.6) else bench(b)
    s.surroundings(b, 0.6 * length + 6, 90)
    layout.walk((-width / 2 + 0.8, width / 2 - 0.8), (-length / 2 + 0.8, length / 2 - 0.8), (1.0, 2.2))


def _paths(b: Builder, width: Number, length: Number) -> None:
    """A path along z of straight or winding pieces, sometimes one across, a terrace, a pond."""
    rng = b.rng
    cover = rng.choice([m.paving(rng), m.soil(rng), m.stone(rng), m.bricks(rng)])
    wide, x = rng.between(0.9, 2.2), rng.between(-0.25, 0.25) * width
    if rng.happens(0.5):
        b.box((x, 0, 0), (wide, 0.02, length), cover)
    else:
        sway, phase = rng.between(0.8, 2.5), rng.between(0, 6)
        for z in np.arange(-length / 2, length / 2, 0.9 * wide):
            b.tube((x + sway * sin(0.22 * z + phase), 0, float(z)), (1.3 * wide, 0.02, 1.3 * wide), cover)
    if rng.happens(0.5):
        b.box((0, 0, rng.between(-0.3, 0.3) * length), (width, 0.025, 0.8 * wide), cover)
    if rng.happens(0.4):
        b.box((0, 0, 0.42 * length), (0.7 * width, 0.06, 0.16 * length), m.paving(rng))
    if rng.happens(0.35):
        pond_x, pond_z = rng.between(-0.3, 0.3) * width, rng.between(-0.3, 0.3) * length
        size = rng.between(2, 5)
        b.tube((pond_x, 0, pond_z), (size + 0.5, 0.12, 0.8 * size + 0.5), m.stone(rng))
        b.tube((pond_x, 0.01, pond_z), (size, 0.125, 0.8 * size), m.paint(rng, (0.16, 0.24, 0.26), gloss=0.8))


def _border(b: Builder, span: Number) -> None:
    """A hedge, a wall, a fence, trees, or nothing, along x of the frame."""
    rng = b.rng
    kind = rng.between()
    if kind < 0.3:
        b.box((0, -0.1, 0), (span, rng.between(0.9, 2.6), rng.between(0.6, 1.2)), m.foliage(rng, 0.1))
    elif kind < 0.5:
        material = m.bricks(rng) if rng.happens(0.6) else m.stone(rng)
        high = rng.between(0.8, 2.2)
        b.box((0, 0, 0), (span, high, 0.3), material)
        b.box((0, high, 0), (span, 0.08, 0.4), m.paint(rng, m.pick(rng, m.STONES)))
        for x in np.arange(-span / 2, span / 2, 4.0):
            b.box((float(x), 0, 0), (0.45, high + 0.25, 0.45), material)
    elif kind < 0.75:
        wood = m.wood(rng, along=1) if rng.happens(0.6) else m.paint(rng, (0.88, 0.87, 0.84))
        high, step = rng.between(0.8, 1.7), rng.between(0.2, 0.4)
        for x in np.arange(-span / 2, span / 2, step):
            b.box((float(x), 0.05, 0), (rng.between(0.7, 0.8) * min(step, 0.14), high, 0.03), wood)
        for up in (0.25, 0.8 * high):
            b.box((0, up, 0.03), (span, 0.08, 0.04), wood)
    elif kind < 0.9:
        for x in np.arange(-span / 2 + 1, span / 2, 3.5):
            with b.at(float(x), 0, rng.normal(0, 0.5)):
                s.tree(b, rng.between(3, 8))


def _plants(b: Builder, width: Number, length: Number) -> None:
    """Trees, bushes, flowers and rocks in the garden."""
    rng = b.rng
    for _ in range(rng.integer(3, 10)):
        with b.at(rng.between(-0.46, 0.46) * width, 0, rng.between(-0.46, 0.46) * length):
            s.tree(b, rng.between(2.5, 8))
    for _ in range(rng.integer(3, 14)):
        with b.at(rng.between(-0.48, 0.48) * width, 0, rng.between(-0.48, 0.48) * length):
            s.bush(b, rng.between(0.4, 1.6))
    for _ in range(rng.integer(0, 5)):
        with b.at(rng.between(-0.45, 0.45) * width, 0, rng.between(-0.45, 0.45) * length, rng.between(0, pi)):
            _flower_bed(b)
    for _ in range(rng.integer(0, 9)):
        size = rng.between_log(0.25, 1.8)
        at = (rng.between(-0.48, 0.48) * width, -0.25 * size, rng.between(-0.48, 0.48) * length)
        turn = rng.between(-pi, pi)
        if rng.happens(0.6):
            b.ball(at, (size, 0.8 * size, 0.75 * size), m.stone(rng), yaw=turn, pitch=rng.normal(0, 0.4))
        else:
            b.box(
                at,
                (size, 0.8 * size, 0.7 * size),
                m.stone(rng),
                yaw=turn,
                pitch=rng.normal(0, 0.3),
                roll=rng.normal(0, 0.3),
            )


def _flower_bed(b: Builder) -> None:
    """Soil in a kerb with rows of coloured heads."""
    rng = b.rng
    wide, deep = rng.between(1, 2.5), rng.between(0.6, 1.2)
    b.box((0, 0, 0), (wide + 0.16, 0.16, deep + 0.16), m.stone(rng))
    b.box((0, 0.02, 0), (wide, 0.16, deep), m.soil(rng))
    bloom, leaf = m.paint(rng, m.hued(rng, (0.5, 0.9), (0.6, 0.95))), m.foliage(rng, 0.04)
    for x in np.arange(-wide / 2 + 0.15, wide / 2, 0.32):
        for z in np.arange(-deep / 2 + 0.15, deep / 2, 0.32):
            size = rng.between(0.2, 0.34)
            at = (float(x) + rng.normal(0, 0.03), 0.12, float(z) + rng.normal(0, 0.03))
            b.ball(at, (size, size, size), leaf)
            b.ball((at[0], 0.1 + size, at[2]), (0.12, 0.1, 0.12), bloom)


def _shed(b: Builder, x: Number, z: Number) -> None:
    """A garden house of boards with a pitched roof."""
    rng = b.rng
    with b.at(x, 0, z, rng.between(-0.5, 0.5) + pi):
        wide, deep, high = rng.between(2, 3.5), rng.between(1.8, 3), rng.between(1.9, 2.4)
        boards, roof = m.planks(rng, 0.14), m.bricks(rng, (0.4, 0.36, 0.35))
        b.box((0, 0, 0), (wide, high, deep), boards)
        for side in (-1, 1):
            b.box((0, high + 0.08 * deep, side * 0.27 * deep), (wide + 0.3, 0.08, 0.72 * deep), roof, pitch=-side * 0.5)
        with b.at(0.2 * wide, 0, -deep / 2):
            s.door_leaf(b, 0.8, 1.85)


def _pergola(b: Builder, x: Number, z: Number) -> None:
    """Posts with beams, half overgrown."""
    rng = b.rng
    wood = m.wood(rng, along=1)
    wide, deep, high = rng.between(2.5, 4), rng.between(3, 7), 2.4
    with b.at(x, 0, z):
        for px in (-wide / 2, wide / 2):
            for pz in np.linspace(-deep / 2, deep / 2, 3):
                b.box((px, 0, float(pz)), (0.14, high, 0.14), wood)
            b.box((px, high, 0), (0.1, 0.16, deep + 0.5), wood)
        for pz in np.linspace(-deep / 2, deep / 2, 2 + int(deep / 0.6)):
            b.box((0, high + 0.16, float(pz)), (wide + 0.6, 0.12, 0.06), wood)
        leaf = m.foliage(rng, 0.1)
        for _ in range(rng.integer(0, 7)):
            size = rng.between(0.5, 1.3)
            b.ball(
                (rng.choice([-0.5, 0.5]) * wide, rng.between(1.2, 2.3), rng.between(-0.5, 0.5) * deep),
                (0.6 * size, size, size),
                leaf,
            )
