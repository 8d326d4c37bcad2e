"""What the generated dataset draws: each category's silhouette with its texture and hues, as a legend."""

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Polygon

from pipeline.datasets.generated import looks
from pipeline.reporting import style

SIDE = 0.27  # inches of a shape
ROW = 0.34  # inches below a figure that a row of shapes takes
SAMPLES = 96  # pixels of a shape's texture along a side
TONES = ((1.0, 0.68), (0.85, 0.95))  # saturation and value of the two hues: the middle of what is drawn
SPREAD = 1.06  # half a side of the axes of a shape, in its unit frame


def add_legend(figure, groups):
    """Add a row below a figure: every category that is drawn, base ones in blue and novel ones in orange.

    Args:
        figure: its size stays as it is; the row lies below it, for `savefig.bbox: tight` to take in.
        groups: {"base": category names, "novel": category names}.
    """
    shown = [(name, group) for group in groups for name in looks.LOOKS if name in groups[group]]
    width, height = figure.get_size_inches()
    step = width / max(len(shown), 1)
    longest = max((len(name) for name, _ in shown), default=1)
    size = min(6.5, 72 * (step - 1.3 * SIDE) / (0.6 * longest))
    for index, (name, group) in enumerate(shown):
        left = index * step
        axis = figure.add_axes((left / width, -(ROW - 0.03) / height, SIDE / width, SIDE / height))
        draw(axis, looks.LOOKS[name])
        axis.text(
            1.12, 0.5, name, transform=axis.transAxes, va="center", fontsize=size, color=style.GROUP_COLOURS[group]
        )


def draw(axis, look):
    """Draw one category upright: a `looks.Look` in its texture and hues."""
    at = np.linspace(-SPREAD, SPREAD, SAMPLES, dtype=np.float32)
    tone = looks.TEXTURES[look.texture](at[None, :], at[:, None], 0.0)[..., None]
    one, other = (hsv_to_rgb((hue / 360, *tones)) for hue, tones in zip(look.hues, TONES, strict=True))
    extent = (-SPREAD, SPREAD, SPREAD, -SPREAD)
    picture = axis.imshow(one + (other - one) * tone, extent=extent, interpolation="bicubic")
    edge = axis.add_patch(Polygon(look.silhouette, closed=True, fill=False, edgecolor="#222222", linewidth=0.7))
    picture.set_clip_path(edge)
    axis.set(xlim=(-SPREAD, SPREAD), ylim=(SPREAD, -SPREAD))
    axis.set_axis_off()
