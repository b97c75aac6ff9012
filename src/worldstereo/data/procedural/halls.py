"""Halls: rows of columns and arches, vaults or coffered ceilings, stairs, pews, statues."""

from itertools import pairwise
from math import atan2, cos, hypot, pi, sin

import numpy as np

from worldstereo.data.procedural import furniture as f
from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural import structure as s
from worldstereo.data.procedural.building import Builder, Material, Number
from worldstereo.data.procedural.layout import Layout
from worldstereo.data.procedural.structure import Opening


def hall(layout: Layout) -> None:
    """Build a long hall along z with a nave between two rows of columns."""
    rng, b = layout.rng, layout.builder
    layout.indoors = True
    width, length, height = rng.between(8, 16), rng.between(14, 36), rng.between(4.2, 8.5)
    floor = rng.choice([m.tiles(rng), m.checks(rng), m.marble(rng), m.paving(rng), m.planks(rng)])
    plaster, smooth = m.paint(rng, m.pick(rng, m.WALLS)), m.paint(rng, m.pick(rng, m.STONES))
    walls = rng.choice([m.bricks(rng), plaster, m.big_blocks(rng), smooth])
    body = rng.choice([m.marble(rng), m.big_blocks(rng), m.paint(rng, m.pick(rng, m.STONES + m.WALLS))])
    b.box((0, -0.3, 0), (width + 1, 0.3, length + 1), floor)
    _walls(layout, width, length, height, walls)
    nave = rng.between(0.45, 0.68) * width
    bay = rng.between(2.8, 4.5)
    stands = np.arange(-length / 2 + bay / 2, length / 2 - 0.5, bay)
    if rng.happens(0.85):
        _columns(b, nave, [float(z) for z in stands], min(height - 0.4, rng.between(2.8, 5.0)), height, body)
    _ceiling(b, width, length, height, [float(z) for z in stands])
    stairs = rng.happens(0.5)
    if stairs:
        _stairs(b, rng.between(0.4, 0.8) * nave, length / 2, body)
    _furnish(layout, nave, length - (6 if stairs else 1), width)
    layout.walk(
        (-width / 2 + 0.6, width / 2 - 0.6), (-length / 2 + 0.6, length / 2 - (5 if stairs else 0.6)), (1.0, 2.1)
    )
    layout.daylight.inside = (
        (-width / 2 - 0.05, -height - 3, -length / 2 - 0.05),
        (width / 2 + 0.05, 0.05, length / 2 + 0.05),
    )
    layout.daylight.indoor_ambient = rng.between(0.3, 0.5)
    with b.at(0, -0.35, 0):
        s.surroundings(b, 0.6 * length + 4, 40)


def _walls(layout: Layout, width: Number, length: Number, height: Number, material: Material) -> None:
    """Four walls; the long ones with rows of windows; lamps stand for the light of three windows."""
    rng, b = layout.rng, layout.builder
    bottom = rng.between(0.9, 0.45 * height)
    top = rng.between(bottom + 1.2, height - 0.3)
    count = int(length / rng.between(2.8, 5.0))
    wide = min(rng.between(0.8, 2.2), 0.7 * length / count)
    trim = m.paint(rng, m.pick(rng, [(0.85, 0.83, 0.8), (0.25, 0.25, 0.25), (0.5, 0.4, 0.3)]))
    sides = [rng.happens(share) for share in (0.35, 0.85, 0.3, 0.85)]
    sides[1] = sides[1] or not any(sides)
    power = rng.between(5, 12) * wide * (top - bottom) ** 0.5
    for side in range(4):
        span, reach = (width, length) if side % 2 == 0 else (length, width)
        with b.at(0, 0, 0, side * pi / 2), b.at(0, 0, reach / 2):
            number = count if side % 2 else max(1, int(width / 4))
            places = [-span / 2 + (k + 0.5) * span / number for k in range(number)] if sides[side] else []
            holes = [Opening(x - wide / 2, x + wide / 2, bottom, top) for x in places]
            s.wall(b, span + 2 * s.WALL, height, holes, material)
            for hole in holes:
                s.window_frame(b, hole, trim)
            if holes:
                hole = rng.choice(holes)
                middle = b.place((hole.left + hole.right) / 2, 0.3 * bottom + 0.7 * top, -0.1)
                layout.daylight.add_lamp(middle, (0.9 * power, 0.96 * power, 1.04 * power), b.direction(0, 0, -1))
            b.box((0, 0, -0.03), (span, rng.between(0.15, 0.9), 0.06), trim)
            if not side % 2:
                with b.at(0, 0, -0.02):
                    s.door_leaf(b, rng.between(1.0, 2.2), rng.between(2.1, min(3.0, height - 0.4)))
            for x in np.arange(-span / 2 + 2, span / 2 - 1, 4.0):
                if not holes and rng.happens(0.5):
                    with b.at(float(x), 1.3, -0.002):
                        f.framed_picture(b, rng.between(0.6, 1.8), rng.between(0.6, 1.6))


def _columns(b: Builder, nave: Number, stands: list[Number], tall: Number, height: Number, material: Material) -> None:
    """Two rows of columns with bases and capitals, arches or a straight beam above, and a wall up to the ceiling."""
    rng = b.rng
    thick = rng.between(0.3, 0.7)
    square, arched = rng.happens(0.25), rng.happens(0.7)
    bay = stands[1] - stands[0] if len(stands) > 1 else 3.0
    for x in (-nave / 2, nave / 2):
        for z in stands:
            with b.at(x, 0, z):
                b.box((0, 0, 0), (1.5 * thick, 0.2, 1.5 * thick), material)
                b.tube((0, 0.2, 0), (1.35 * thick, 0.12, 1.35 * thick), material)
                if square:
                    b.box((0, 0.2, 0), (thick, tall - 0.4, thick), material)
                else:
                    b.tube((0, 0.2, 0), (thick, tall - 0.4, thick), material, top=0.86)
                b.tube((0, tall - 0.32, 0), (0.95 * thick, 0.16, 0.95 * thick), material, top=1.45)
                b.box((0, tall - 0.17, 0), (1.5 * thick, 0.17, 1.5 * thick), material)
        rise = min(bay / 2 - 0.3 * thick, height - tall - 0.3)
        if arched and rise > 0.5:
            for z in stands[:-1]:
                with b.at(x, tall, z + bay / 2):
                    _arch(b, bay - 0.6 * thick, rise, thick, material)
            tall_now = tall + rise + 0.12
        else:
            tall_now = tall
        low, high = stands[0] - 0.5 * thick, stands[-1] + 0.5 * thick
        if height - tall_now > 0.1:
            b.box((x, tall_now, (low + high) / 2), (0.9 * thick, height - tall_now, high - low), material)


def _arch(b: Builder, span: Number, rise: Number, thick: Number, material: Material) -> None:
    """A half ellipse of straight stones along z over the origin, and the masonry beside it."""
    pieces = 9
    ring = min(0.3, 0.25 * span)
    corners = [(span / 2 * -cos(pi * k / pieces), rise * sin(pi * k / pieces)) for k in range(pieces + 1)]
    for (z0, up0), (z1, up1) in pairwise(corners):
        b.beam((0, up0, z0), (0, up1, z1), (thick, ring), material)
    for k in range(1, pieces):
        z, up = corners[k]
        if up < rise * 0.97:
            side = 1 if z > 0 else -1
            outer = side * (span / 2 + 0.3 * thick)
            b.box((0, up, (z + outer) / 2), (0.88 * thick, rise + 0.13 - up, abs(outer - z)), material)


def _ceiling(b: Builder, width: Number, length: Number, height: Number, stands: list[Number]) -> None:
    """A barrel of straight strips, or a flat ceiling with beams or coffers."""
    rng = b.rng
    if rng.happens(0.4):
        cover = rng.choice([m.paint(rng, m.pick(rng, m.WALLS[:4])), m.bricks(rng), m.planks(rng)])
        strips, rise = 10, rng.between(0.18, 0.4) * width
        corners = [(-(width / 2 + 0.1) * cos(pi * k / strips), rise * sin(pi * k / strips)) for k in range(strips + 1)]
        for (x0, up0), (x1, up1) in pairwise(corners):
            wide = hypot(x1 - x0, up1 - up0) + 0.12
            tilt = atan2(up1 - up0, x1 - x0)
            b.box(((x0 + x1) / 2, height + (up0 + up1) / 2, 0), (wide, 0.15, length + 0.4), cover, roll=-tilt)
        for end in (-1, 1):
            b.box((0, height, end * (length / 2 + s.WALL / 2)), (width + 0.4, rise + 0.2, s.WALL), cover)
        for z in stands:
            b.beam((-width / 2, height - 0.05, z), (width / 2, height - 0.05, z), (0.12, 0.12), m.metal(rng))
        return
    b.box((0, height, 0), (width + 0.5, 0.3, length + 0.5), m.paint(rng, m.pick(rng, m.WALLS[:4])))
    beam = m.wood(rng, along=0) if rng.happens(0.6) else m.paint(rng, m.pick(rng, m.WALLS))
    deep = rng.between(0.2, 0.5)
    for z in stands:
        b.box((0, height - deep, z), (width, deep, 0.3), beam)
    if rng.happens(0.6):
        for x in np.linspace(-width / 2, width / 2, 2 + int(width / 2.5))[1:-1]:
            b.box((float(x), height - 0.7 * deep, 0), (0.2, 0.7 * deep, length), beam)


def _stairs(b: Builder, width: Number, back: Number, material: Material) -> None:
    """Stairs up to a landing at the far end, with rails."""
    rng = b.rng
    steps = rng.integer(5, 11)
    run, climb = 0.3, 0.16
    landing = 2.0
    for k in range(steps):
        depth = landing + (steps - k) * run
        b.box((0, k * climb, back - depth / 2), (width, climb, depth), material)
    rail = m.metal(rng)
    foot = back - landing - steps * run
    for x in (-width / 2 + 0.08, width / 2 - 0.08):
        b.beam((x, 0.9, foot), (x, steps * climb + 0.9, back - landing), (0.06, 0.06), rail, square=False)
        for k in range(0, steps + 1, 2):
            b.tube((x, k * climb, foot + k * run), (0.04, 0.9, 0.04), rail)


def _furnish(layout: Layout, nave: Number, length: Number, width: Number) -> None:
    """Pews, tables with chairs, or statues on plinths along the nave; people; hanging lamps."""
    rng, b = layout.rng, layout.builder
    wood = m.wood(rng)
    kind = rng.between()
    if kind < 0.35:
        for z in np.arange(-length / 2 + 3, length / 2 - 4, 1.1):
            for x in (-1, 1):
                with b.at(x * 0.25 * nave, 0, float(z), pi):
                    _pew(b, 0.36 * nave, wood)
    elif kind < 0.65:
        for z in np.arange(-length / 2 + 2, length / 2 - 3, rng.between(2.2, 3.2)):
            for x in (-1, 1):
                if rng.happens(0.7):
                    with b.at(x * 0.24 * nave + rng.normal(0, 0.1), 0, float(z), rng.normal(0, 0.1)):
                        f.table(b, 0.9, 1.5, 0.75, wood)
                        with b.at(0, 0.75, 0):
                            f.desk_things(b, 0.9, 1.5)
                        for side in (-1, 1):
                            with b.at(side * 0.65, 0, rng.normal(0, 0.2), side * pi / 2):
                                f.chair(b, wood, wood)
    else:
        stone = m.marble(rng)
        for z in np.arange(-length / 2 + 2.5, length / 2 - 3, rng.between(3.0, 5.0)):
            for x in (-1, 1):
                if rng.happens(0.6):
                    with b.at(x * 0.3 * nave, 0, float(z), -x * pi / 2 + rng.normal(0, 0.2)):
                        _exhibit(b, stone)
    for _ in range(rng.integer(0, 6)):
        with b.at(rng.between(-0.4, 0.4) * width, 0, rng.between(-0.4, 0.4) * length, rng.between(-pi, pi)):
            s.person(b)
    if rng.happens(0.5):
        b.box(
            (0, 0, 0), (rng.between(1.2, 2.0), 0.012, 0.9 * length), m.cloth(rng, m.hued(rng, (0.4, 0.8), (0.3, 0.6)))
        )
    lit = rng.happens(0.6)
    drop = rng.between(2.6, 3.8)
    for z in np.arange(-length / 2 + 2, length / 2 - 1, 5.0):
        with b.at(0, drop, float(z)):
            b.tube((0, 0.25, 0), (0.02, 5.0, 0.02), m.metal(rng))
            f.lamp_shade(b, 0.0, bool(lit))
    if lit:
        layout.daylight.lamps.insert(0, (b.place(0, drop - 0.1, 0), (0, 0, 0), (9.0, 7.6, 5.8)))


def _pew(b: Builder, width: Number, wood: Material) -> None:
    b.box((0, 0.42, 0), (width, 0.04, 0.38), wood)
    b.box((0, 0.05, 0.2), (width, 0.85, 0.04), wood, pitch=-0.1)
    for x in (-1, 1):
        b.box((x * width / 2, 0, 0.02), (0.05, 0.75, 0.45), wood)


def _exhibit(b: Builder, stone: Material) -> None:
    """A plinth with a figure, a vase, or a ball."""
    rng = b.rng
    high = rng.between(0.5, 1.2)
    b.box((0, 0, 0), (0.75, 0.1, 0.75), stone)
    b.box((0, 0.1, 0), (0.6, high, 0.6), stone)
    b.box((0, high + 0.1, 0), (0.72, 0.07, 0.72), stone)
    with b.at(0, high + 0.17, 0):
        kind = rng.between()
        if kind < 0.45:
            s.figure(b, rng.between(1.2, 1.8), stone, stone, stone, stone)
        elif kind < 0.75:
            f.vase(b, rng.between(0.4, 0.9))
        else:
            size = rng.between(0.3, 0.6)
            b.ball((0, 0, 0), (size, size, size), m.marble(rng))
