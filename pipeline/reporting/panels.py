"""Pictures side by side: a grid of axes, validation images, and what is drawn on them.

Pictures are uint8 RGB [H, W, 3], masks boolean [H, W], both in image pixels.
"""

import textwrap

import numpy as np
from contourpy import contour_generator
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image

from pipeline import paths
from pipeline.datasets.images import remedy
from pipeline.errors import ExperimentError
from pipeline.reporting import style
from pipeline.reporting.style import plt

FADE = 0.45  # share of white mixed into the grey picture below masks
FILL = 0.45  # opacity of a mask
GAP = 0.04  # inches between two panels
BLOCK_GAP = 0.2  # inches between two blocks; holds the label of the right one
LABEL = 0.12  # inches left of the first column, for labels of the rows
LINE = 0.13  # inches that a line of text takes


def grid(titles, aspects, across=1, headings=(), legend_lines=1):
    """Make axes without ticks for examples of several panels each. A row is as wide as a page, its panels equally high.

    Args:
        titles: of the panels of an example, left to right; shown above the first row, empty ones not at all.
        aspects: height by width of the pictures of each example.
        across: examples side by side; each is a block of its own.
        headings: text and colour above each of the `across` blocks, if any.
        legend_lines: lines of text to keep free below the panels.

    Returns:
        (matplotlib Figure, axes [example, panel]).
    """
    columns = len(titles)
    free = style.PAGE_WIDTH - LABEL - (across - 1) * BLOCK_GAP - across * (columns - 1) * GAP
    rows = [np.array(aspects[i : i + across], dtype=float) for i in range(0, len(aspects), across)]
    # A last row that is not full gets the height that it would have with more of the same.
    heights = [free / (columns * (1 / row).mean() * across) for row in rows]
    narrowest = heights[0] / rows[0].max()
    wrapped = [textwrap.fill(title, int(narrowest * 72 / (plt.rcParams["axes.titlesize"] * 0.56))) for title in titles]
    top = LINE * (max(text.count("\n") + 1 if text else 0 for text in wrapped) + bool(headings)) + GAP
    total = top + sum(heights) + GAP * (len(rows) - 1) + GAP + LINE * legend_lines
    figure = plt.figure(figsize=(style.PAGE_WIDTH, total))
    axes = np.empty((len(aspects), columns), dtype=object)
    above = top
    for index, (row, height) in enumerate(zip(rows, heights, strict=True)):
        left = LABEL
        for block, width in enumerate(height / row):
            for column in range(columns):
                axis = figure.add_axes(
                    (left / style.PAGE_WIDTH, 1 - (above + height) / total, width / style.PAGE_WIDTH, height / total)
                )
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if index == 0 and titles[column]:
                    axis.set_title(wrapped[column])
                axes[index * across + block, column] = axis
                left += width + GAP
            left += BLOCK_GAP - GAP
        above += height + GAP
    for block, (heading, colour) in enumerate(headings):
        first, last = (axes[block, column].get_position() for column in (0, -1))
        figure.text((first.x0 + last.x1) / 2, 1 - 0.5 * LINE / total, heading, color=colour, fontweight="bold",
                    fontsize=plt.rcParams["axes.titlesize"], ha="center", va="center")  # fmt: skip
    return figure, axes


def label(axis, text):
    """Write a small label left of a panel, read from below."""
    axis.set_ylabel(text, fontsize=5.5, labelpad=1.5)


def read_image(dataset, image):
    """Read a validation image, uint8 RGB [H, W, 3]. Raises ExperimentError if it is missing or unreadable."""
    folder = paths.images(dataset, "val2017")
    path = folder / image["file_name"]
    try:
        if not path.is_file():  # reading a FIFO might never end
            raise FileNotFoundError(path)
        return np.asarray(Image.open(path).convert("RGB"))
    except OSError:
        raise ExperimentError(
            f"{path}: listed in instances_val2017.json but missing or not an image; {remedy(folder)}"
        ) from None


def show(axis, picture, extent=None):
    """Show a picture; pixels of small images stay sharp, photographs are smoothed as they shrink."""
    shown_width = axis.get_position().width * axis.figure.get_figwidth() * plt.rcParams["savefig.dpi"]
    # "none" keeps a small image's own pixels in PDF and SVG, where "nearest" would blow them up
    axis.imshow(picture, interpolation="none" if picture.shape[1] < shown_width else "antialiased", extent=extent)


def faded(picture):
    """The picture in light grey, float RGB in [0, 1], for colours to stand out on."""
    grey = picture.mean(axis=2, keepdims=True) / 255
    return np.repeat(grey * (1 - FADE) + FADE, 3, axis=2)


def draw_masks(axis, picture, instances):
    """Show the picture in faded grey and the masks [(mask, colour, line style), ...] on it, small ones on top."""
    instances = sorted(instances, key=lambda instance: -instance[0].sum())
    background = faded(picture)
    canvas = background.copy()
    for mask, colour, _ in instances:
        canvas[mask] = background[mask] * (1 - FILL) + np.array(to_rgb(colour)) * FILL
    show(axis, canvas)
    for mask, colour, line in instances:
        outline(axis, mask, colour, line)
    axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))


def outline(axis, mask, colour, line="-", width=0.9, at=(0, 0)):
    """Draw the outline of a mask, its first pixel centred `at` (x, y), on a white halo; at its borders it is closed."""
    padded = np.pad(mask, 1).astype(float)
    x, y = at[0] + np.arange(-1, mask.shape[1] + 1), at[1] + np.arange(-1, mask.shape[0] + 1)
    lines = [_corners(line) for line in contour_generator(x, y, padded).lines(0.5)]
    for stroke, thickness, dashes in (("white", width + 0.6, "-"), (colour, width, line)):
        axis.add_collection(
            LineCollection(lines, colors=stroke, linewidths=thickness, linestyles=[dashes], capstyle="butt"),
            autolim=False,
        )


def _corners(line):
    """Drop the points of a closed line [P, 2] at which it goes straight on: the same picture in half the bytes."""
    steps = np.diff(line, axis=0)
    before, after = steps, np.roll(steps, -1, axis=0)
    turns = np.flatnonzero(before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0])
    corners = line[1:][turns]
    return np.concatenate([corners, corners[:1]])
