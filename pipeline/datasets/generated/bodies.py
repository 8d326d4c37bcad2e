"""What the categories of version 2 of the generated dataset look like: bodies of parts, and how they are painted.

22 of COCO's category names are in use, 14 outside VOC and 8 inside. As in COCO, categories of both sides share kinds of
bodies (four-legged animals, vehicles, vessels), and none has a texture or a hue of its own: only the combination of
body, texture and hue is the category's.

Unit frame: x right, y down, a body spans about [-1, 1]. A part is (polygon [V, 2], paint): paint 0 is the category's
texture, 1 its plain second colour.
"""

from typing import NamedTuple

import numpy as np

from pipeline.datasets.generated.looks import TEXTURES, arc, polar

SKIN, TRIM = 0, 1


def ellipse(x, y, rx, ry, count=28):
    """Vertices around a centre (x, y), [count, 2]."""
    return polar(1.0, np.arange(count) * 2 * np.pi / count) * (rx, ry) + (x, y)


def box(left, top, right, bottom):
    """An upright rectangle, [4, 2]."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def bar(start, end, width):
    """A straight limb between two points, [4, 2]."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / np.hypot(*(end - start))
    across = np.array([-along[1], along[0]]) * width / 2
    return np.array([start + across, end + across, end - across, start - across])


def _animal(rng, length, height, leg, neck, head, lean, trunk=0.0, ears=0.0, fleece=False):
    """A four-legged animal from the side, seen facing right."""
    length, height, leg, neck = (value * rng.uniform(0.88, 1.12) for value in (length, height, leg, neck))
    body = ellipse(0, 0, length, height)
    if fleece:
        angle = np.arange(54) * 2 * np.pi / 54
        body = polar(1 + 0.06 * np.cos(9 * angle), angle) * (length, height)
    stride = rng.uniform(0, 0.15) * length  # legs of a pair spread, crossed ones would enclose a hole
    parts = [
        (bar((x * length, 0), (x * length + stride * side, height + leg), 0.2 * length), SKIN)
        for x, side in ((-0.75, -1), (-0.35, 1), (0.35, -1), (0.75, 1))
    ]
    shoulder = np.array((0.75 * length, -0.35 * height))
    top = shoulder + neck * np.array((np.sin(lean), -np.cos(lean)))
    parts += [(body, SKIN), (bar(shoulder + (-0.1, 0.1), top, 0.3), SKIN)]
    parts += [(ellipse(*(top + (0.12, 0)), head * 1.35, head), TRIM)]
    if ears:
        parts += [(bar(top, top + (-0.1, -ears), 0.16), TRIM)]
    if trunk:
        parts += [(bar(top + (head, 0), top + (head + 0.1, trunk), 0.2), TRIM), (ellipse(*top, 0.3, 0.36), TRIM)]
    tail = np.array((-length * 0.92, -0.1))
    return [*parts, (bar(tail, tail + (-0.22, rng.uniform(0.2, 0.6)), 0.12), SKIN)]


def zebra(rng):
    return _animal(rng, 0.8, 0.36, 0.55, 0.45, 0.19, 0.6, ears=0.22)


def giraffe(rng):
    return _animal(rng, 0.55, 0.3, 0.75, 1.15, 0.17, 0.25, ears=0.2)


def elephant(rng):
    return _animal(rng, 0.85, 0.58, 0.42, 0.2, 0.3, 0.9, trunk=0.75)


def horse(rng):
    return _animal(rng, 0.85, 0.33, 0.7, 0.62, 0.2, 0.8)


def sheep(rng):
    return _animal(rng, 0.75, 0.5, 0.34, 0.05, 0.24, 1.0, fleece=True)


def cat(rng):
    sway = rng.uniform(-0.08, 0.08)
    tail = np.concatenate([arc(0.55, 125, -60, (0.45, 0.35)), arc(0.36, -60, 125, (0.45, 0.35))])
    ears = [np.array([(s * 0.42 + sway, -0.6), (s * 0.36 + sway, -1.1), (s * 0.05 + sway, -0.8)]) for s in (-1, 1)]
    return [
        (tail, SKIN),
        (ellipse(-0.1, 0.35, 0.52, 0.68), SKIN),
        *((ear, TRIM) for ear in ears),
        (ellipse(sway, -0.5, 0.42, 0.36), TRIM),
    ]


def bird(rng):
    lift = rng.uniform(-0.75, -0.35)
    wing = np.array([(-0.35, -0.1), (0.25, -0.15), (-0.2, lift - 0.3), (-0.55, lift)])
    return [
        (ellipse(0, 0.1, 0.62, 0.32), SKIN),
        (np.array([(-0.5, 0.1), (-1.1, -0.15), (-1.1, 0.35)]), SKIN),
        (wing, TRIM),
        (ellipse(0.6, -0.18, 0.26, 0.24), SKIN),
        (np.array([(0.8, -0.28), (1.15, -0.12), (0.8, -0.05)]), TRIM),
    ]


def _wheels(*places, radius=0.22):
    return [(ellipse(x, 0.5, radius, radius), TRIM) for x in places]


def car(rng):
    roof = rng.uniform(-0.5, -0.35)
    return [
        (np.array([(-0.6, 0.0), (-0.4, roof), (0.3, roof), (0.6, 0.0)]), TRIM),
        (box(-1, -0.05, 1, 0.42), SKIN),
        *_wheels(-0.58, 0.58),
    ]


def truck(rng):
    top = rng.uniform(-0.75, -0.55)
    return [
        (box(-1, top, 0.42, 0.42), SKIN),
        (np.array([(0.42, -0.3), (0.75, -0.3), (1.0, 0.05), (1.0, 0.42), (0.3, 0.42), (0.3, -0.3)]), TRIM),
        *_wheels(-0.62, -0.3, 0.68),
    ]


def airplane(rng):
    sweep = rng.uniform(0.25, 0.5)
    wings = [
        np.array([(0.25, 0.0), (-0.15, 0.0), (-0.15 - sweep, s * 0.95), (0.05 - sweep, s * 0.95)]) for s in (-1, 1)
    ]
    tails = [np.array([(-0.65, 0.0), (-0.9, 0.0), (-1.05, s * 0.4), (-0.85, s * 0.4)]) for s in (-1, 1)]
    return [*((wing, SKIN) for wing in wings), *((tail, TRIM) for tail in tails), (ellipse(0, 0, 1.0, 0.19), SKIN)]


def boat(rng):
    mast = rng.uniform(-1.0, -0.75)
    return [
        (np.array([(-1, 0.3), (1, 0.3), (0.65, 0.85), (-0.65, 0.85)]), TRIM),
        (bar((0, 0.35), (0, mast), 0.1), TRIM),
        (np.array([(0.04, mast), (0.04, 0.15), (0.85, 0.15)]), SKIN),
        (np.array([(-0.04, mast + 0.2), (-0.04, 0.15), (-0.65, 0.15)]), SKIN),
    ]


def bottle(rng):
    shoulder, wide = rng.uniform(-0.45, -0.2), rng.uniform(0.28, 0.4)
    return [
        (
            np.array(
                [
                    (-wide, 1),
                    (-wide, shoulder + 0.2),
                    (-0.13, shoulder - 0.1),
                    (-0.13, -0.85),
                    (0.13, -0.85),
                    (0.13, shoulder - 0.1),
                    (wide, shoulder + 0.2),
                    (wide, 1),
                ]
            ),
            SKIN,
        ),
        (box(-0.17, -1, 0.17, -0.78), TRIM),
    ]


def vase(rng):
    waist = rng.uniform(0.12, 0.22)
    return [
        (
            np.array(
                [
                    (-0.4, -1),
                    (0.4, -1),
                    (waist, -0.6),
                    (0.6, 0.1),
                    (0.5, 0.6),
                    (0.25, 0.8),
                    (-0.25, 0.8),
                    (-0.5, 0.6),
                    (-0.6, 0.1),
                    (-waist, -0.6),
                ]
            ),
            SKIN,
        ),
        (box(-0.38, 0.68, 0.38, 1.0), TRIM),
    ]


def cup(rng):
    handle = np.concatenate([arc(0.42, -100, 30, (0.62, -0.05)), arc(0.24, 15, -100, (0.62, -0.05))])
    lean = rng.uniform(0.0, 0.15)
    return [(handle, TRIM), (np.array([(-0.65, -0.7), (0.65, -0.7), (0.6 - lean, 0.75), (-0.6 + lean, 0.75)]), SKIN)]


def wine_glass(rng):
    depth = rng.uniform(-0.15, 0.1)
    bowl = np.concatenate(
        [[(-0.55, -1), (0.55, -1)], polar(1.0, np.radians(np.linspace(0, 180, 20))) * (0.55, 0.45 + depth) + (0, -0.5)]
    )
    return [(bowl, SKIN), (box(-0.08, -0.2, 0.08, 0.85), TRIM), (ellipse(0, 0.88, 0.48, 0.12), TRIM)]


def donut(rng):
    gap = rng.uniform(22, 45)
    return [(np.concatenate([arc(1.0, gap, 360 - gap), arc(0.46, 350 - gap, 10 + gap)]), SKIN)]


def pizza(rng):
    bite = rng.uniform(35, 65)
    return [
        (np.concatenate([arc(1.0, bite, 360 - bite), [(0, 0)]]), TRIM),
        (np.concatenate([arc(0.8, bite + 8, 352 - bite), [(-0.15, 0)]]), SKIN),
    ]


def umbrella(rng):
    canopy = np.concatenate(
        [arc(1.0, 180, 360)] + [arc(0.25, 0, -180, centre=(x, 0.0), count=9) for x in (0.75, 0.25, -0.25, -0.75)]
    )
    drop = rng.uniform(0.7, 0.9)
    return [(bar((0, -0.2), (0, drop), 0.16), TRIM), (bar((0, drop), (-0.3, drop), 0.16), TRIM), (canopy, SKIN)]


def kite(rng):
    wide = rng.uniform(0.6, 0.8)
    return [
        (np.array([(0, -1), (wide, -0.3), (0, 0.6), (-wide, -0.3)]), SKIN),
        (np.array([(0, 0.5), (0.3, 1.0), (-0.3, 1.0)]), TRIM),
    ]


def scissors(rng):
    opening = np.radians(rng.uniform(22, 38))
    parts = []
    for side in (-1, 1):
        tip = np.array((np.cos(opening), side * np.sin(opening)))
        parts += [(bar(-0.75 * tip, tip, 0.22), SKIN), (ellipse(*(-0.8 * tip), 0.3, 0.24), TRIM)]
    return parts


def tennis_racket(rng):
    return [(ellipse(0, -0.45, 0.48, 0.55), SKIN), (bar((0, 0), (0, rng.uniform(0.85, 1.0)), 0.2), TRIM)]


def banana(rng):
    bend = rng.uniform(0.55, 0.75)
    return [
        (np.concatenate([arc(1.0, 35, 145, (0, -0.3)), arc(bend, 145, 35, (0, -0.3))]) * (1.2, 1.0), SKIN),
        (bar((-0.8, 0.2), (-1.05, -0.05), 0.2), TRIM),
    ]


class Category(NamedTuple):
    """What makes a category.

    Attributes:
        body: (rng) -> parts, bottom first; every call draws an individual.
        texture: the one that most of its individuals have.
        hues: in degrees, of most of its individuals: two of the texture, one of the second colour.
    """

    body: object
    texture: str
    hues: tuple[float, float, float]


BODIES = {  # outside VOC, then inside
    "zebra": zebra,
    "giraffe": giraffe,
    "elephant": elephant,
    "truck": truck,
    "vase": vase,
    "cup": cup,
    "wine glass": wine_glass,
    "donut": donut,
    "pizza": pizza,
    "umbrella": umbrella,
    "kite": kite,
    "scissors": scissors,
    "tennis racket": tennis_racket,
    "banana": banana,
    "horse": horse,
    "sheep": sheep,
    "cat": cat,
    "bird": bird,
    "car": car,
    "airplane": airplane,
    "boat": boat,
    "bottle": bottle,
}
HUES = 8  # of which categories have three each, evenly apart


def _category(k, body):
    """The k-th category: a pair of texture hues that no other has in this order."""
    first = 3 * k % HUES
    second = (first + 2 + (k // HUES + k) % 5) % HUES
    trim = (first + second + k // 4) % HUES
    hues = tuple(360 / HUES * hue for hue in (first, second, trim))
    return Category(body, list(TEXTURES)[(3 * k + k // 10) % len(TEXTURES)], hues)


CATEGORIES = {name: _category(k, body) for k, (name, body) in enumerate(BODIES.items())}
