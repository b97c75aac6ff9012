"""Furniture. Each piece stands at the origin of the builder's frame, its back towards +z, its front towards -z."""

from math import cos, pi, sin

from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural.building import Builder, Material, Number


def table(b: Builder, width: Number, length: Number, height: Number, material: Material) -> None:
    """A table with four legs or one foot."""
    thick = b.rng.between(0.025, 0.06)
    if b.rng.happens(0.25):
        b.tube((0, height - thick, 0), (width, thick, length), material)
        b.tube((0, 0.03, 0), (0.09, height - thick, 0.09), material)
        b.tube((0, 0, 0), (0.5 * width, 0.04, 0.5 * length), material, top=0.7)
        return
    b.box((0, height - thick, 0), (width, thick, length), material)
    leg = b.rng.between(0.04, 0.09)
    round_legs = b.rng.happens(0.4)
    for x in (-1, 1):
        for z in (-1, 1):
            at = (x * (width / 2 - leg), 0.0, z * (length / 2 - leg))
            if round_legs:
                b.tube(at, (leg * 0.7, height - thick, leg * 0.7), material, top=1.5)
            else:
                b.box(at, (leg, height - thick, leg), material)


def chair(b: Builder, material: Material, seat: Material) -> None:
    """A chair with a slatted or full back."""
    high, leg = 0.45, 0.035
    for x in (-0.18, 0.18):
        b.box((x, 0, -0.18), (leg, high, leg), material)
        b.box((x, 0, 0.19), (leg, 0.92, leg), material)
    b.box((0, high - 0.03, 0), (0.43, 0.05, 0.43), seat)
    if b.rng.happens(0.5):
        b.box((0, 0.6, 0.19), (0.36, 0.3, 0.025), seat)
    else:
        for up in (0.58, 0.7, 0.82):
            b.box((0, up, 0.19), (0.36, 0.05, 0.02), material)


def sofa(b: Builder, width: Number, material: Material) -> None:
    """A sofa or armchair with cushions."""
    depth, arm = 0.9, b.rng.between(0.12, 0.22)
    b.box((0, 0.06, 0), (width, 0.24, depth), material)
    b.box((0, 0.06, depth / 2 - 0.11), (width, b.rng.between(0.7, 0.85), 0.22), material)
    for side in (-1, 1):
        b.box((side * (width - arm) / 2, 0.06, 0), (arm, 0.52, depth), material)
    seats = max(1, round((width - 2 * arm) / 0.7))
    each = (width - 2 * arm) / seats
    for k in range(seats):
        x = -(width - 2 * arm) / 2 + (k + 0.5) * each
        b.box((x, 0.3, -0.06), (each - 0.02, 0.15, depth - 0.2), material)
        b.box((x, 0.46, 0.21), (each - 0.04, 0.38, 0.16), material, pitch=-0.15)
        if b.rng.happens(0.5):
            size = b.rng.between(0.35, 0.45)
            b.ball((x + b.rng.normal(0, 0.1), 0.44, 0.04), (size, size, 0.16), m.cloth(b.rng), pitch=-0.3)


def bed(b: Builder, width: Number, frame: Material) -> None:
    """A bed, its head at the back."""
    sheet = m.cloth(b.rng, m.pick(b.rng, m.WALLS))
    cover = m.cloth(b.rng)
    b.box((0, 0.12, 0), (width, 0.2, 2.05), frame)
    b.box((0, 0.1, 1.02), (width + 0.06, b.rng.between(0.8, 1.2), 0.06), frame)
    b.box((0, 0.3, 0), (width - 0.05, 0.22, 2.0), sheet)
    b.box((0, 0.36, -0.3), (width + 0.05, 0.19, 1.5), cover)
    pillows = 2 if width > 1.2 else 1
    for k in range(pillows):
        x = (k - (pillows - 1) / 2) * width / 2
        b.ball((x, 0.48, 0.72), (0.65, 0.22, 0.42), m.cloth(b.rng, (0.9, 0.89, 0.86)))


def bookshelf(b: Builder, width: Number, height: Number, material: Material) -> None:
    """Open shelves with rows of books and things."""
    depth, thick = 0.3, 0.025
    for x in (-1, 1):
        b.box((x * (width - thick) / 2, 0, 0), (thick, height, depth), material)
    b.box((0, 0, depth / 2 - 0.01), (width, height, 0.015), material)
    levels = max(2, round(height / 0.36))
    gap = height / levels
    for level in range(levels + 1):
        up = min(level * gap, height - thick)
        b.box((0, up, 0), (width - 2 * thick, thick, depth - 0.01), material)
        if level < levels:
            with b.at(0, up + thick, 0):
                _shelf_things(b, width - 2 * thick, gap - 2 * thick)


def _shelf_things(b: Builder, width: Number, room: Number) -> None:
    start = -width / 2
    while start < width / 2 - 0.08:
        length = min(b.rng.between(0.15, 0.5), width / 2 - start)
        kind = b.rng.between()
        if kind < 0.6:
            high = b.rng.between(0.6, 0.92) * room
            cover = Material(
                "books",
                (m.hued(b.rng, (0.2, 0.8), (0.2, 0.8)), m.hued(b.rng, (0.1, 0.5), (0.5, 0.9)), (0.85, 0.8, 0.6)),
                period=(b.rng.between(0.02, 0.045), high),
                grain=(0.1, 0.1, 0.1),
                noise=0.2,
            )
            b.box((start + length / 2, 0, -0.02), (length, high, b.rng.between(0.16, 0.22)), cover)
        elif kind < 0.75:
            with b.at(start + length / 2, 0, 0):
                vase(b, min(0.8 * room, 0.28))
        elif kind < 0.85:
            b.box((start + length / 2, 0, 0), (length * 0.8, 0.6 * room, 0.2), m.cloth(b.rng))
        start += length + b.rng.between(0, 0.08)


def vase(b: Builder, height: Number) -> None:
    """A pot, a bowl, a ball or a small box."""
    glaze = m.paint(b.rng, m.hued(b.rng, (0.1, 0.7), (0.3, 0.9)), gloss=0.4)
    kind = b.rng.between()
    wide = b.rng.between(0.4, 0.8) * height
    if kind < 0.4:
        b.ball((0, 0, 0), (wide, 0.75 * height, wide), glaze)
        b.tube((0, 0.6 * height, 0), (0.4 * wide, 0.4 * height, 0.4 * wide), glaze, top=0.8)
    elif kind < 0.7:
        b.tube((0, 0, 0), (wide, height, wide), glaze, top=b.rng.between(0.5, 1.3))
    else:
        b.box((0, 0, 0), (wide, 0.7 * height, wide), m.picture(b.rng, wide, 0.7 * height), yaw=b.rng.between(0, 1))


def cupboard(b: Builder, width: Number, height: Number, depth: Number, material: Material) -> None:
    """Doors and drawers with knobs."""
    b.box((0, 0.06, 0), (width, height - 0.06, depth), material)
    b.box((0, 0, 0.03), (width - 0.04, 0.06, depth - 0.08), m.paint(b.rng, (0.12, 0.1, 0.1)))
    knob = m.metal(b.rng)
    columns, rows = max(1, round(width / 0.5)), 1 if b.rng.happens(0.5) else max(1, round(height / 0.3))
    for column in range(columns):
        for row in range(rows):
            x, up = -width / 2 + (column + 0.5) * width / columns, 0.06 + (row + 0.5) * (height - 0.06) / rows
            wide, high = width / columns - 0.02, (height - 0.06) / rows - 0.02
            b.box((x, up - high / 2, -depth / 2 - 0.008), (wide, high, 0.02), material)
            b.ball((x + (0.4 * wide if rows == 1 else 0), up - 0.015, -depth / 2 - 0.035), (0.03, 0.03, 0.03), knob)
    b.box((0, height, -0.01), (width + 0.03, 0.03, depth + 0.04), material)


def desk_things(b: Builder, width: Number, length: Number) -> None:
    """Clutter on a table top, which is at height 0 of the frame."""
    for _ in range(b.rng.integer(1, 6)):
        x, z = b.rng.between(-0.4, 0.4) * width, b.rng.between(-0.4, 0.4) * length
        with b.at(x, 0, z, b.rng.between(-pi, pi)):
            kind = b.rng.between()
            if kind < 0.4:
                up = 0.0
                for _ in range(b.rng.integer(1, 5)):
                    thick = b.rng.between(0.015, 0.05)
                    cover = m.paint(b.rng, m.hued(b.rng, (0.1, 0.8), (0.2, 0.9)))
                    b.box((0, up, 0), (0.16, thick, 0.23), cover, yaw=b.rng.normal(0, 0.15))
                    up += thick
            elif kind < 0.7:
                vase(b, b.rng.between(0.08, 0.3))
            elif kind < 0.85:
                b.tube((0, 0, 0), (0.24, 0.02, 0.24), m.paint(b.rng, (0.88, 0.87, 0.84), 0.3), top=1.1)
            else:
                b.box((0, 0, 0), (0.36, 0.02, 0.25), m.metal(b.rng))
                b.box((0, 0.02, 0.12), (0.36, 0.23, 0.012), m.paint(b.rng, (0.1, 0.1, 0.12), 0.4), pitch=-0.25)


def potted_plant(b: Builder, height: Number) -> None:
    """Leaves over a pot."""
    pot = 0.28 * height + 0.1
    b.tube(
        (0, 0, 0),
        (0.75 * pot, pot, 0.75 * pot),
        m.paint(b.rng, m.pick(b.rng, [(0.65, 0.35, 0.25), (0.85, 0.84, 0.8), (0.3, 0.3, 0.32)])),
        top=1.3,
    )
    b.tube((0, pot, 0), (0.04, 0.3 * height, 0.04), m.wood(b.rng, (0.35, 0.26, 0.18), along=1))
    leaf = m.foliage(b.rng, 0.05)
    for _ in range(b.rng.integer(4, 9)):
        angle, out = b.rng.between(0, 2 * pi), b.rng.between(0.05, 0.22) * height
        size = b.rng.between(0.18, 0.35) * height
        at = (out * cos(angle), pot + b.rng.between(0.1, 0.5) * height, out * sin(angle))
        b.ball(at, (0.5 * size, size, 0.3 * size), leaf, yaw=angle, pitch=b.rng.normal(0, 0.6))


def floor_lamp(b: Builder, height: Number, lit: bool) -> None:
    """A standing lamp with a shade."""
    pole = m.metal(b.rng)
    b.tube((0, 0, 0), (0.28, 0.03, 0.28), pole)
    b.tube((0, 0.03, 0), (0.025, height - 0.3, 0.025), pole)
    lamp_shade(b, height - 0.3, lit)


def lamp_shade(b: Builder, up: Number, lit: bool) -> None:
    """A conical shade; a lit one glows."""
    color = m.pick(b.rng, [(0.95, 0.9, 0.78), (0.9, 0.8, 0.65), (0.85, 0.85, 0.85)])
    wide = b.rng.between(0.28, 0.45)
    shine = Material("plain", (color, color, color), noise=0.1, glow=2.0 if lit else 0.02)
    b.tube((0, up, 0), (wide, 0.28, wide), shine, top=b.rng.between(0.5, 0.9))


def television(b: Builder, width: Number) -> None:
    """A dark screen on a stand, its base at height 0 of the frame."""
    b.box((0, 0.06, 0), (width, 0.56 * width, 0.05), m.paint(b.rng, (0.06, 0.06, 0.07), gloss=0.5))
    b.box((0, 0, 0), (0.3 * width, 0.06, 0.18), m.metal(b.rng))


def framed_picture(b: Builder, width: Number, height: Number) -> None:
    """A picture whose back is on the plane z = 0, its lower edge at height 0."""
    frame = m.wood(b.rng) if b.rng.happens(0.6) else m.metal(b.rng)
    b.box((0, 0, -0.015), (width, height, 0.03), frame)
    edge = 0.08 * min(width, height)
    inner = (width - 2 * edge, height - 2 * edge)
    if b.rng.happens(0.4):
        b.box((0, edge, -0.028), (inner[0], inner[1], 0.012), m.paint(b.rng, (0.92, 0.91, 0.88)))
        edge *= 2.5
        inner = (width - 2 * edge, height - 2 * edge)
    b.box((0, edge, -0.033), (inner[0], inner[1], 0.012), m.picture(b.rng, *inner))
