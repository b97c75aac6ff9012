"""Parts that several kinds of scene share: walls with openings, windows, doors, trees, hills, people."""

from dataclasses import dataclass
from math import cos, pi, sin, tan

import numpy as np

from worldstereo.data.procedural import materials as m
from worldstereo.data.procedural.building import Builder, Material, Number

WALL = 0.16


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: left and right along it, bottom and top, metres."""

    left: Number
    right: Number
    bottom: Number
    top: Number


def wall(b: Builder, length: Number, height: Number, openings: list[Opening], material: Material) -> None:
    """A wall along x, centred, whose inner face is the plane z = 0 seen from -z, with openings ordered by x."""
    edge = -length / 2
    for hole in openings:
        _panel(b, edge, hole.left, 0, height, material)
        _panel(b, hole.left, hole.right, 0, hole.bottom, material)
        _panel(b, hole.left, hole.right, hole.top, height, material)
        edge = hole.right
    _panel(b, edge, length / 2, 0, height, material)


def _panel(b: Builder, left: Number, right: Number, bottom: Number, top: Number, material: Material) -> None:
    if right - left > 1e-3 and top - bottom > 1e-3:
        b.box(((left + right) / 2, bottom, WALL / 2), (right - left, top - bottom, WALL), material)


def window_frame(b: Builder, hole: Opening, material: Material) -> None:
    """Frame, bars and sill of an opening."""
    bar, width, height = 0.05, hole.right - hole.left, hole.top - hole.bottom
    middle = (hole.left + hole.right) / 2
    for x in np.linspace(hole.left + bar / 2, hole.right - bar / 2, 2 + max(0, round(width / 0.7) - 1)):
        b.box((float(x), hole.bottom, 0.1), (bar, height, 0.05), material)
    for up in (hole.bottom, hole.top - bar, hole.bottom + 0.66 * height if height > 1.1 else hole.bottom):
        b.box((middle, up, 0.1), (width, bar, 0.05), material)
    if hole.bottom > 0.2:
        b.box((middle, hole.bottom - 0.04, 0.0), (width + 0.12, 0.04, 0.22), material)


def curtains(b: Builder, hole: Opening) -> None:
    """Two curtains of folds beside an opening, and their rod."""
    cloth = m.cloth(b.rng)
    width = hole.right - hole.left
    b.beam(
        (hole.left - 0.3, hole.top + 0.12, -0.07),
        (hole.right + 0.3, hole.top + 0.12, -0.07),
        (0.03, 0.03),
        m.metal(b.rng),
        square=False,
    )
    low = 0.03 if b.rng.happens(0.6) else hole.bottom - 0.15
    for side in (-1, 1):
        edge = hole.left if side < 0 else hole.right
        for k in range(5):
            x = edge + side * (0.22 - 0.1 * k) * min(1.0, width)
            b.tube((x, low, -0.07), (0.11, hole.top + 0.1 - low, 0.09), cloth)


def door_leaf(b: Builder, width: Number, height: Number) -> None:
    """A closed door in its frame on the plane z = 0, centred at x = 0."""
    wood = m.paint(b.rng, m.pick(b.rng, [*m.WOODS, (0.88, 0.87, 0.84), (0.3, 0.36, 0.34)]), gloss=0.12)
    b.box((0, 0, 0.0), (width, height, 0.05), wood)
    for bottom, high in ((0.12, 0.36 * height), (0.12 + 0.42 * height, 0.45 * height)):
        b.box((0, bottom, -0.025), (0.7 * width, high, 0.015), wood)
    trim = m.paint(b.rng, m.pick(b.rng, [(0.9, 0.89, 0.86), (0.5, 0.38, 0.28)]))
    for x in (-1, 1):
        b.box((x * (width / 2 + 0.04), 0, -0.01), (0.08, height + 0.08, 0.07), trim)
    b.box((0, height, -0.01), (width, 0.08, 0.07), trim)
    b.ball((0.4 * width, 1.0, -0.06), (0.06, 0.06, 0.06), m.metal(b.rng))


def tree(b: Builder, height: Number) -> None:
    """A leaf tree, a conifer or a poplar."""
    bark = m.wood(b.rng, m.pick(b.rng, [(0.36, 0.28, 0.2), (0.5, 0.46, 0.4), (0.28, 0.22, 0.18)]), along=1)
    leaf = m.foliage(b.rng, b.rng.between(0.1, 0.25))
    kind, trunk = b.rng.between(), 0.05 * height
    if kind < 0.6:
        bare = b.rng.between(0.3, 0.45) * height
        b.tube((0, -0.1, 0), (trunk, bare + 0.3 * height, trunk), bark, top=0.5)
        for _ in range(b.rng.integer(6, 11)):
            angle, out = b.rng.between(0, 2 * pi), b.rng.between(0, 0.25) * height
            size = b.rng.between(0.22, 0.42) * height
            up = bare + b.rng.between(0, 0.45) * height
            b.ball(
                (out * cos(angle), up, out * sin(angle)),
                (size, 0.75 * size, size),
                leaf,
                yaw=angle,
                pitch=b.rng.normal(0, 0.3),
            )
    elif kind < 0.85:
        b.tube((0, -0.1, 0), (trunk, 0.3 * height, trunk), bark)
        for k in range(4):
            wide = (0.42 - 0.09 * k) * height
            b.tube((0, (0.12 + 0.2 * k) * height, 0), (wide, 0.3 * height, wide), leaf, top=0.12)
    else:
        b.tube((0, -0.1, 0), (trunk, 0.3 * height, trunk), bark)
        b.ball((0, 0.12 * height, 0), (0.28 * height, 0.9 * height, 0.28 * height), leaf)
        b.ball((0.05 * height, 0.2 * height, 0), (0.25 * height, 0.6 * height, 0.25 * height), leaf)


def bush(b: Builder, size: Number) -> None:
    """A few overlapping clumps of leaves."""
    leaf = m.foliage(b.rng, 0.08)
    for _ in range(b.rng.integer(2, 5)):
        x, z = b.rng.normal(0, 0.3 * size), b.rng.normal(0, 0.3 * size)
        wide = b.rng.between(0.6, 1.0) * size
        b.ball((float(x), -0.15 * wide, float(z)), (wide, b.rng.between(0.6, 1.0) * wide, wide), leaf)


def hills(b: Builder, near: Number, far: Number, count: int) -> None:
    """Big rounded hills around the scene."""
    for _ in range(count):
        angle, away = b.rng.between(0, 2 * pi), b.rng.between(near, far)
        x, z = away * sin(angle), away * cos(angle)
        wide, high = b.rng.between(0.5, 0.9) * away, b.rng.between(0.08, 0.3) * away
        cover = m.grass(b.rng, 6.0) if b.rng.happens(0.5) else m.foliage(b.rng, 4.0)
        b.ball((x, -high / 2, z), (wide, high, b.rng.between(0.7, 1.3) * wide), cover, yaw=angle)


def mountains(b: Builder) -> None:
    """A far range of rocky cones, some with snow."""
    start, sweep = b.rng.between(0, 2 * pi), b.rng.between(1, 4)
    rock = m.stone(b.rng)
    rock = m.Material("leaves", (*rock.colors[:2], (0.9, 0.92, 0.95)), grain=(40.0, 25.0, 40.0), noise=0.9, relief=0.7)
    for _ in range(b.rng.integer(5, 14)):
        angle, away = start + b.rng.between(0, sweep), b.rng.between(350, 480)
        high, wide = b.rng.between(30, 120), b.rng.between(120, 260)
        at = (away * sin(angle), -5.0, away * cos(angle))
        b.tube(at, (wide, high, 0.8 * wide), rock, top=b.rng.between(0.02, 0.2), yaw=angle, roll=b.rng.normal(0, 0.1))


def surroundings(b: Builder, near: Number, far: Number) -> None:
    """The open air beyond a scene: meadows, scattered trees and houses, hills and mountains."""
    rng = b.rng
    ground(b, m.grass(rng))
    for _ in range(rng.integer(4, 14)):
        angle, away = rng.between(0, 2 * pi), rng.between(near, far)
        with b.at(away * sin(angle), 0, away * cos(angle), angle):
            if rng.happens(0.75):
                tree(b, rng.between(4, 11))
            else:
                width, height = rng.between(6, 12), rng.between(3.2, 8)
                b.box((0, 0, 3), (width, height, 6), m.facade(rng).fitted(width, height))
                gable_roof(b, width, height, 6)
    hills(b, 140, 400, rng.integer(0, 9))
    if rng.happens(0.4):
        mountains(b)


def gable_roof(b: Builder, width: Number, height: Number, depth: Number) -> None:
    """Two slopes over a house that stands from z = 0 to `depth`, the ridge along x."""
    tilt = b.rng.between(0.4, 0.8)
    slope, rise = depth / 2 / cos(tilt), depth / 2 * tan(tilt)
    cover = m.bricks(b.rng, m.pick(b.rng, [(0.55, 0.28, 0.2), (0.35, 0.33, 0.33), (0.45, 0.32, 0.25)]))
    for side in (-1, 1):
        at = (0, height + rise / 2 - 0.1, depth / 2 + side * depth / 4)
        b.box(at, (width + 0.3, 0.2, slope + 0.2), cover, pitch=-side * tilt)
    b.box((b.rng.between(-0.3, 0.3) * width, height + rise * 0.6, 0.4 * depth), (0.8, 1.6, 0.6), m.bricks(b.rng))


def ground(b: Builder, material: Material, size: Number = 1000.0) -> None:
    """The plane at height 0, as a thick slab."""
    b.box((0, -1.0, 0), (size, 1.0, size), material)


def person(b: Builder) -> None:
    """A standing figure in clothes."""
    rng = b.rng
    coat, legs = m.cloth(rng), m.cloth(rng, m.pick(rng, [(0.15, 0.16, 0.22), (0.3, 0.28, 0.25), (0.5, 0.45, 0.4)]))
    skin = m.paint(rng, m.pick(rng, [(0.85, 0.66, 0.54), (0.5, 0.35, 0.27), (0.7, 0.5, 0.4)]))
    hair = m.paint(rng, m.pick(rng, [(0.15, 0.1, 0.08), (0.5, 0.38, 0.2), (0.3, 0.3, 0.3)]))
    figure(b, rng.between(1.55, 1.9), coat, legs, skin, hair)


def figure(b: Builder, height: Number, coat: Material, legs: Material, skin: Material, hair: Material) -> None:
    """A body of capsules, facing -z."""
    stride, arm = b.rng.between(0, 0.14) * height, 0.13 * height
    for x, z in ((-0.055 * height, -stride), (0.055 * height, stride)):
        b.beam((x, 0, z), (x, 0.5 * height, 0), (0.085 * height, 0.085 * height), legs, square=False)
    b.tube((0, 0.46 * height, 0), (0.2 * height, 0.37 * height, 0.14 * height), coat, top=1.15)
    b.ball((0, 0.77 * height, 0), (0.25 * height, 0.11 * height, 0.15 * height), coat)
    for x in (-arm, arm):
        hand = (1.1 * x, 0.44 * height, b.rng.normal(0, 0.06) * height)
        b.beam(hand, (0.9 * x, 0.82 * height, 0), (0.055 * height, 0.055 * height), coat, square=False)
    b.tube((0, 0.8 * height, 0), (0.06 * height, 0.1 * height, 0.06 * height), skin)
    b.ball((0, 0.865 * height, 0), (0.1 * height, 0.135 * height, 0.115 * height), skin)
    b.ball((0, 0.915 * height, 0.012 * height), (0.108 * height, 0.088 * height, 0.12 * height), hair)
