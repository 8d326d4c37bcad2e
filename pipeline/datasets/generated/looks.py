"""What the categories of the generated dataset look like: silhouettes, textures and hues.

Ten of COCO's category names are in use, six outside VOC and four inside, so that the real voc/nonvoc split applies.
Silhouettes are not convex and fill about half of their box.

"Unit frame" is the frame of a silhouette before rotation, with |x|, |y| <= 1; x right, y down.
"""

from typing import NamedTuple

import numpy as np


def polar(radius, angle):
    """Polygon vertices from radii and angles (radians), shape [V, 2]."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def arc(radius, start, stop, centre=(0.0, 0.0), count=24):
    """Vertices along a circle, angles in degrees, shape [count, 2]."""
    return polar(radius, np.radians(np.linspace(start, stop, count))) + centre


def _star():
    return polar(np.where(np.arange(10) % 2, 0.42, 1.0), np.arange(10) * np.pi / 5)


def _u():
    legs = [(-1, -1), (-0.5, -1)], [(0.5, -1), (1, -1)]
    return np.concatenate([legs[0], arc(0.5, 180, 0), legs[1], arc(1.0, 0, 180)])


def _crescent():
    return np.concatenate([arc(1.0, 50, 310), arc(0.8, 287, 73, centre=(0.41, 0.0))])


def _gear():
    teeth = 7
    tooth = np.array([-0.5, -0.36, 0.36, 0.5]) * np.pi / teeth
    angle = (np.arange(teeth)[:, None] * 2 * np.pi / teeth + tooth).ravel()
    return polar(np.tile([0.62, 1.0, 1.0, 0.62], teeth), angle)


def _quadruped():
    return np.array(
        [
            (-1, -0.35),
            (0.3, -0.35),
            (0.45, -1),
            (1, -0.85),
            (1, -0.5),
            (0.78, -0.5),  # back, head
            (0.7, 0.2),
            (0.7, 1),
            (0.36, 1),
            (0.36, 0.25),
            (-0.58, 0.25),
            (-0.58, 1),
            (-0.92, 1),  # legs
        ]
    )


def _bitten_disc():
    return np.concatenate([arc(1.0, 55, 305), [(-0.1, 0.0)]])


def _broken_ring():
    return np.concatenate([arc(1.0, 38, 322), arc(0.48, 300, 60)])


def _scissors():
    opening, width = np.radians(35), 0.17
    blade = np.array([np.cos(opening), np.sin(opening)])
    handle = blade * (-0.95, 0.95)
    across = np.array([handle[1], -handle[0]]) * 0.38
    right = (width / np.sin(opening), 0.0)
    upper = [blade, (0.0, width / np.cos(opening)), handle - across, handle + across]
    lower = [(x, -y) for x, y in reversed(upper)]
    return np.array([right, *upper, (-right[0], 0.0), *lower])


def _umbrella():
    canopy = arc(1.0, 180, 360)
    scallops = np.concatenate([arc(0.3, 0, -180, centre=(0.7, 0.0), count=9), [(0.1, 0.0)]])
    handle = [(0.1, 0.75), (0.0, 0.95), (-0.3, 0.95), (-0.4, 0.7), (-0.24, 0.7), (-0.1, 0.75), (-0.1, 0.0)]
    left = arc(0.3, 0, -180, centre=(-0.7, 0.0), count=9)
    return np.concatenate([canopy, scallops, handle, left])


def _dart():
    return np.array([(0, -1), (0.85, 0.9), (0.2, 0.5), (0, 1), (-0.2, 0.5), (-0.85, 0.9)])


def _edge(wave):
    """Turn a wave around 0 into two nearly flat tones in [0, 1]."""
    return 0.5 + 0.5 * np.tanh(3 * wave)


# Textures: tone in [0, 1] at unit-frame coordinates (x, y), shifted by a phase in radians.
TEXTURES = {
    "stripes": lambda x, y, p: _edge(np.sin(10 * x + p)),
    "dots": lambda x, y, p: _edge(np.cos(9 * x + p) + np.cos(9 * y) - 0.5),
    "sprinkles": lambda x, y, p: _edge(np.sin(12 * x + p + 2 * np.sin(6 * y)) * np.sin(8 * y) * 2 - 0.3),
    "zigzag": lambda x, y, p: _edge(np.sin(11 * y + p + 1.6 * np.arcsin(np.sin(7 * x)))),
    "sectors": lambda x, y, p: _edge(2 * np.sin(5 * np.arctan2(y, x) + p)),
    "checks": lambda x, y, p: _edge(3 * np.sin(8 * x + p) * np.sin(8 * y + p)),
    "rings": lambda x, y, p: _edge(np.sin(13 * np.hypot(x, y) + p)),
    "lattice": lambda x, y, p: _edge(3 * np.maximum(np.cos(9 * x + p), np.cos(9 * y + p)) - 2),
    "waves": lambda x, y, p: _edge(np.sin(9 * (x + y) + p + 1.3 * np.sin(6 * (x - y)))),
    "spiral": lambda x, y, p: _edge(np.sin(10 * np.hypot(x, y) + 2 * np.arctan2(y, x) + p)),
}


class Look(NamedTuple):
    """What makes a category."""

    silhouette: np.ndarray  # polygon in the unit frame, [V, 2]
    texture: str
    hues: tuple[float, float]  # degrees


LOOKS = {
    # outside VOC
    "zebra": Look(_quadruped(), "stripes", (140, 60)),
    "pizza": Look(_bitten_disc(), "dots", (45, 0)),
    "donut": Look(_broken_ring(), "sprinkles", (320, 40)),
    "scissors": Look(_scissors(), "zigzag", (200, 0)),
    "umbrella": Look(_umbrella(), "sectors", (280, 180)),
    "kite": Look(_dart(), "checks", (100, 310)),
    # inside VOC
    "cat": Look(_star(), "rings", (25, 200)),
    "car": Look(_u(), "lattice", (240, 120)),
    "bird": Look(_crescent(), "waves", (190, 50)),
    "sheep": Look(_gear(), "spiral", (260, 20)),
}
