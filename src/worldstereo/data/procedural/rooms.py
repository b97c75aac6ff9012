"""Furnished rooms: living rooms, bedrooms, studies, kitchens."""

from math import pi

import numpy as np

from worldstereo.data.procedural import furniture as f
from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural import structure as s
from worldstereo.data.procedural.building import Builder, Material, Number
from worldstereo.data.procedural.chance import Chance
from worldstereo.data.procedural.layout import Layout
from worldstereo.data.procedural.structure import Opening

_Rect = tuple[Number, Number, Number, Number]


def room(layout: Layout) -> None:
    """Build a room of random size, style and furniture about the origin."""
    rng, b = layout.rng, layout.builder
    width, length = rng.between(3.2, 6.5), rng.between(3.4, 8.0)
    height = rng.between(2.35, 3.2)
    layout.indoors = True
    openings = _shell(layout, width, length, height)
    taken: list[_Rect] = []
    _middle(layout, width, length, taken)
    wood = m.wood(rng)
    for side in range(4):
        span, reach = (width, length) if side % 2 == 0 else (length, width)
        with b.at(0, 0, 0, side * pi / 2), b.at(0, 0, reach / 2):
            _along_wall(layout, openings[side], span, reach, height, taken, wood)
    _ceiling_things(layout, width, length, height)
    margin = 0.45
    layout.walk((-width / 2 + margin, width / 2 - margin), (-length / 2 + margin, length / 2 - margin), (0.9, 1.9))
    layout.daylight.inside = (
        (-width / 2 - 0.05, -height - 0.05, -length / 2 - 0.05),
        (width / 2 + 0.05, 0.05, length / 2 + 0.05),
    )


def _holes(rng: Chance, span: Number, height: Number) -> list[Opening]:
    if rng.happens(0.42):
        return []
    count = rng.integer(1, 3) if span > 3.5 else 1
    full = rng.happens(0.2)
    bottom, top = (0.05 if full else rng.between(0.6, 1.0)), min(height - 0.25, rng.between(1.9, 2.5))
    wide = min(rng.between(0.7, 2.0), 0.8 * span / count)
    return [
        Opening(x - wide / 2, x + wide / 2, bottom, top)
        for x in (-span / 2 + (k + 0.5) * span / count for k in range(count))
    ]


def _shell(layout: Layout, width: Number, length: Number, height: Number) -> list[list[Opening]]:
    """Floor, ceiling, four walls with skirting, and the open air around them; the openings of each wall."""
    rng, b = layout.rng, layout.builder
    floor = rng.choice([m.planks(rng), m.planks(rng), m.tiles(rng), m.checks(rng), m.cloth(rng)])
    paint = m.paint(rng, m.pick(rng, m.WALLS))
    accent = rng.choice([m.wallpaper(rng), m.bricks(rng), m.planks(rng), m.paint(rng, m.pick(rng, m.WALLS))])
    share = rng.choice([0.0, 0.25, 1.0])
    skirting = m.paint(rng, m.pick(rng, [(0.9, 0.89, 0.86), (0.85, 0.83, 0.78), (0.4, 0.28, 0.2)]))
    trim = m.paint(rng, m.pick(rng, [(0.92, 0.91, 0.89), (0.3, 0.3, 0.3), (0.5, 0.36, 0.24)]))
    window_light = rng.between(1.5, 4.0)
    b.box((0, -0.2, 0), (width + 0.4, 0.2, length + 0.4), floor)
    b.box((0, height, 0), (width + 0.4, 0.2, length + 0.4), m.paint(rng, m.pick(rng, m.WALLS[:2])))
    openings: list[list[Opening]] = []
    for side in range(4):
        span, reach = (width, length) if side % 2 == 0 else (length, width)
        holes = _holes(rng, span, height)
        if side == 3 and not any(openings):
            holes = [Opening(-0.7, 0.7, 0.8, min(height - 0.3, 2.2))]
        openings.append(holes)
        with b.at(0, 0, 0, side * pi / 2), b.at(0, 0, reach / 2):
            s.wall(b, span + 2 * s.WALL, height, holes, accent if rng.happens(share) else paint)
            for hole in holes:
                s.window_frame(b, hole, trim)
                if rng.happens(0.4):
                    s.curtains(b, hole)
                middle = b.place((hole.left + hole.right) / 2, 0.35 * hole.bottom + 0.65 * hole.top, -0.05)
                power = window_light * (hole.right - hole.left) * (hole.top - hole.bottom)
                layout.daylight.add_lamp(middle, (0.88 * power, 0.96 * power, 1.05 * power), b.direction(0, 0, -1))
            if not holes or holes[0].bottom > 0.15:
                b.box((0, 0, -0.008), (span, rng.between(0.06, 0.14), 0.016), skirting)
            if rng.happens(0.25):
                b.box((0, height - 0.08, -0.03), (span, 0.08, 0.06), skirting)
    layout.daylight.indoor_ambient = rng.between(0.28, 0.5)
    with b.at(0, rng.choice([-0.3, -0.4, -3.0]), 0):
        s.surroundings(b, 9, 60)
    return openings


def _free(rect: _Rect, taken: list[_Rect]) -> bool:
    return all(rect[0] >= o[1] or rect[1] <= o[0] or rect[2] >= o[3] or rect[3] <= o[2] for o in taken)


def _claim(b: Builder, x: Number, width: Number, depth: Number, taken: list[_Rect], gap: Number = 0.05) -> bool:
    """Reserve the floor in front of a wall in the current frame, if it is free."""
    corners = np.array([b.place(x - width / 2 - gap, 0, 0), b.place(x + width / 2 + gap, 0, -depth - gap)])
    rect = (corners[:, 0].min(), corners[:, 0].max(), corners[:, 2].min(), corners[:, 2].max())
    if not _free(rect, taken):
        return False
    taken.append(rect)
    return True


def _middle(layout: Layout, width: Number, length: Number, taken: list[_Rect]) -> None:
    """A carpet with a table and chairs, a bed, or a low table and seats, in the middle of the room."""
    rng, b = layout.rng, layout.builder
    x, z = rng.between(-0.15, 0.15) * width, rng.between(-0.15, 0.15) * length
    with b.at(x, 0, z, rng.choice([0, pi / 2]) + rng.normal(0, 0.04)):
        if rng.happens(0.7):
            wide, deep = rng.between(1.4, 0.55 * width), rng.between(1.4, 2.6)
            b.box((0, 0, 0), (wide, 0.012, deep), m.rug(rng, wide, deep))
        kind = rng.between()
        if kind < 0.45:
            top_w, top_l = rng.between(0.8, 1.1), rng.between(1.0, 1.8)
            wood = m.wood(rng, along=2)
            f.table(b, top_w, top_l, 0.74, wood)
            with b.at(0, 0.74, 0):
                f.desk_things(b, top_w, top_l)
            seat = m.cloth(rng) if rng.happens(0.5) else wood
            for k, (cx, cz, yaw) in enumerate(
                [
                    (top_w / 2 + 0.12, 0.25 * top_l, pi / 2),
                    (-top_w / 2 - 0.12, 0.25 * top_l, -pi / 2),
                    (top_w / 2 + 0.12, -0.25 * top_l, pi / 2),
                    (-top_w / 2 - 0.12, -0.25 * top_l, -pi / 2),
                    (0, top_l / 2 + 0.12, 0.0),
                    (0, -top_l / 2 - 0.12, pi),
                ]
            ):
                if rng.happens(0.85 if k < 4 else 0.4):
                    with b.at(cx, 0, cz, yaw + rng.normal(0, 0.15)):
                        f.chair(b, wood, seat)
            taken.append((x - 1.1, x + 1.1, z - 1.1, z + 1.1))
        elif kind < 0.8:
            f.table(b, 0.6, rng.between(0.8, 1.2), 0.42, m.wood(rng))
            with b.at(0, 0.42, 0):
                f.desk_things(b, 0.6, 0.9)
            taken.append((x - 0.7, x + 0.7, z - 0.7, z + 0.7))


def _covers(x: Number, width: Number, top: Number, holes: list[Opening]) -> bool:
    """Whether a thing of a width and height before a wall hides a window."""
    return any(x - width / 2 < h.right + 0.25 and x + width / 2 > h.left - 0.25 and top > h.bottom + 0.1 for h in holes)


def _along_wall(
    layout: Layout,
    holes: list[Opening],
    span: Number,
    reach: Number,
    height: Number,
    taken: list[_Rect],
    wood: Material,
) -> None:
    """Furniture with its back to a wall; the frame's origin is the middle of the wall's foot."""
    rng, b = layout.rng, layout.builder
    if rng.happens(0.55):
        x = rng.between(-0.5, 0.5) * (span - 1.2)
        if not _covers(x, 0.9, 2.0, holes) and _claim(b, x, 0.9, 0.9, taken):
            with b.at(x, 0, -0.02):
                s.door_leaf(b, 0.85, 2.05)
    for _ in range(rng.integer(5, 10)):
        kind = rng.choice(["shelf", "sofa", "cupboard", "desk", "bed", "plant", "lamp", "chair", "television", "box"])
        size = {
            "shelf": (rng.between(0.7, 1.6), 0.32),
            "sofa": (rng.between(0.9, 2.3), 0.92),
            "cupboard": (rng.between(0.6, 1.8), 0.5),
            "desk": (rng.between(1.0, 1.6), 0.65),
            "bed": (rng.choice([0.95, 1.45, 1.7]), 2.1),
            "plant": (0.5, 0.5),
            "lamp": (0.4, 0.4),
            "chair": (0.5, 0.5),
            "television": (1.3, 0.42),
            "box": (0.6, 0.5),
        }[kind]
        x = rng.between(-0.5, 0.5) * max(span - size[0] - 0.1, 0)
        top = {"shelf": 2.2, "cupboard": 1.0, "lamp": 0.0}.get(kind, 0.7)
        if size[0] > span - 0.2 or size[1] > reach - 1.2 or _covers(x, size[0], top, holes):
            continue
        if not _claim(b, x, *size, taken):
            continue
        with b.at(x, 0, -size[1] / 2 - 0.03):
            _piece(layout, kind, size[0], height, wood)
    for _ in range(rng.integer(0, 4)):
        wide, high = rng.between(0.25, 1.1), rng.between(0.25, 0.9)
        x = rng.between(-0.5, 0.5) * (span - wide - 0.2)
        if not _covers(x, wide, 2.0, holes) and _claim(b, x, wide, 0.03, taken, gap=0.0):
            with b.at(x, min(rng.between(1.2, 1.5), height - high - 0.1), -0.002):
                f.framed_picture(b, wide, high)


def _piece(layout: Layout, kind: str, width: Number, height: Number, wood: Material) -> None:
    rng, b = layout.rng, layout.builder
    if kind == "shelf":
        f.bookshelf(b, width, min(rng.between(0.8, 2.2), height - 0.2), wood)
    elif kind == "sofa":
        f.sofa(b, width, m.cloth(rng))
    elif kind == "cupboard":
        high = rng.choice([0.75, 0.85, 1.9])
        f.cupboard(b, width, high, 0.48, wood if rng.happens(0.6) else m.paint(rng, m.pick(rng, m.WALLS)))
        if high < 1:
            with b.at(0, high + 0.03, 0):
                f.desk_things(b, width, 0.4)
    elif kind == "desk":
        f.table(b, width, 0.62, 0.74, wood)
        with b.at(0, 0.74, 0):
            f.desk_things(b, width, 0.6)
        with b.at(0, 0, -0.45, pi + rng.normal(0, 0.2)):
            f.chair(b, wood, m.cloth(rng))
    elif kind == "bed":
        f.bed(b, width, wood)
    elif kind == "plant":
        f.potted_plant(b, rng.between(0.7, 1.7))
    elif kind == "lamp":
        f.floor_lamp(b, rng.between(1.3, 1.8), lit=rng.happens(0.5))
    elif kind == "chair":
        f.chair(b, wood, m.cloth(rng))
    elif kind == "television":
        f.cupboard(b, width, 0.45, 0.4, wood)
        with b.at(0, 0.48, 0):
            f.television(b, rng.between(0.8, 1.2))
    else:
        up = 0.0
        for _ in range(rng.integer(1, 4)):
            size = rng.between(0.25, 0.5)
            cover = m.paint(rng, (0.7, 0.56, 0.4)) if rng.happens(0.6) else m.cloth(rng)
            b.box((0, up, 0), (size, 0.7 * size, size), cover, yaw=rng.normal(0, 0.3))
            up += 0.7 * size


def _ceiling_things(layout: Layout, width: Number, length: Number, height: Number) -> None:
    """A hanging lamp, sometimes beams or a rail."""
    rng, b = layout.rng, layout.builder
    if rng.happens(0.3):
        beam = m.wood(rng, along=0)
        for z in np.arange(-length / 2 + 0.5, length / 2, rng.between(0.7, 1.3)):
            b.box((0, height - 0.17, float(z)), (width, 0.17, 0.14), beam)
    lit = rng.happens(0.6)
    drop = rng.between(0.3, 0.7)
    b.tube((0, height - drop, 0), (0.012, drop, 0.012), m.metal(rng))
    f.lamp_shade(b, height - drop - 0.26, lit)
    if lit:
        power = rng.between(1.5, 4.0)
        layout.daylight.lamps.insert(
            0, (b.place(0, height - drop - 0.3, 0), (0, 0, 0), (power, 0.85 * power, 0.66 * power))
        )
