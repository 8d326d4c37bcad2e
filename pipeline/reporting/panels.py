"""Pictures side by side: a grid of axes, validation images, and what is drawn on them.

Pictures are uint8 RGB [H, W, 3], masks boolean [H, W], both in image pixels.
"""

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from contourpy import FillType, contour_generator
from matplotlib.collections import LineCollection
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from PIL import Image

from pipeline.datasets.images import remedy
from pipeline.declaration import subsets
from pipeline.errors import ExperimentError
from pipeline.reporting import style
from pipeline.reporting.style import plt

FADE = 0.45  # share of white mixed into the grey picture below masks
NOISE = 0.6  # pixels
TONE_STEP = 9  # between two tones of an enlarged picture, of 255
FILL = 0.5  # opacity of a mask
SMOOTHING = 0.7  # standard deviation of the blur of a mask before its outline is drawn, in its pixels
SUBPIXELS = 4  # samples of the outline along a pixel
TOLERANCE = 0.06  # pixels by which an outline may miss its samples
TEXT_SIZE = 4.6  # points, of the text of an instance
TEXT_ASPECT = 0.62, 1.7  # width of a letter and height of a boxed line, in text sizes
LONGEST_TEXT = 24  # letters
GAP = 0.04  # inches between two panels
BLOCK_GAP = 0.2  # inches between two blocks; holds the label of the right one
LABEL = 0.12  # inches left of the first column, for labels of the rows
LINE = 0.13  # inches that a line of text takes


@dataclass(frozen=True)
class Instance:
    """What a panel shows of one object.

    Attributes:
        mask: boolean [H, W]; None for an object without one, of which the box is drawn.
        box: (x, y, width, height) in image pixels.
        colour, line: of its outline; the fill has the same colour.
        text: written beside it, if any.
    """

    mask: np.ndarray | None
    box: tuple
    colour: str
    line: object
    text: str = ""

    def bounds(self):
        """The box around what is drawn: (left, top, right, bottom) in image pixels."""
        if self.mask is None:
            x, y, width, height = self.box
            return x, y, x + width, y + height
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def grid(titles, aspects, across=1, headings=(), legend_lines=1, notes=0):
    """Make axes without ticks for examples of several panels each. A row is as wide as a page, its panels equally high.

    Args:
        titles: of the panels of an example, left to right; shown above the first row, empty ones not at all.
        aspects: height by width of the pictures of each example.
        across: examples side by side; each is a block of its own.
        headings: text and colour above each of the `across` blocks, if any.
        legend_lines: lines of text to keep free below the panels; may be broken.
        notes: lines of text to keep free below every row, see `note`.

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
    between = GAP + LINE * notes
    total = top + sum(heights) + between * len(rows) + LINE * legend_lines
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
        above += height + between
    for block, (heading, colour) in enumerate(headings):
        first, last = (axes[block, column].get_position() for column in (0, -1))
        figure.text(
            (first.x0 + last.x1) / 2,
            1 - 0.5 * LINE / total,
            heading,
            color=colour,
            fontweight="bold",
            fontsize=plt.rcParams["axes.titlesize"],
            ha="center",
            va="center",
        )
    return figure, axes


def label(axis, text, size=5.5):
    """Write a small label left of a panel, read from below."""
    axis.set_ylabel(text, fontsize=size, labelpad=1.5)


def note(axis, words, size=5.2):
    """Write a line centred below a panel: [(text, colour), ...], one after the other."""
    length = sum(len(text) for text, _ in words)
    at = -length / 2
    for text, colour in words:
        axis.annotate(
            text,
            (0.5, 0),
            ((at + len(text) / 2) * 0.55 * size, -2),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=size,
            color=colour,
        )
        at += len(text)


def say(axis, text):
    """Write a few words in the middle of a panel that has nothing else to show."""
    axis.text(
        0.5,
        0.5,
        text,
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=6.5,
        style="italic",
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )


def read_image(dataset, image):
    """Read a validation image as it is stored, uint8 RGB [H, W, 3]: an EXIF orientation is ignored, as everywhere.

    Raises:
        ExperimentError: it is missing, unreadable, or not of the size that the annotations tell.
    """
    subset = subsets.validation(dataset)
    folder = subset.images
    path = folder / image["file_name"]
    try:
        if not path.is_file():  # reading a FIFO might never end
            raise FileNotFoundError(path)
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ExperimentError(
            f"{path}: listed in {subset.annotations.name} but missing or not an image; {remedy(folder)}"
        ) from None
    if picture.size != (image["width"], image["height"]):
        raise ExperimentError(
            f"{path}: {picture.width} x {picture.height} pixels, {image['width']} x {image['height']} in "
            f"{subset.annotations.name}; put the image there that the annotations are of"
        )
    return np.asarray(picture)


def show(axis, picture, extent=None):
    """Show a picture; what is smaller than its panel is enlarged smoothly, photographs are smoothed as they shrink."""
    height, width = picture.shape[:2]
    shown_width = axis.get_position().width * axis.figure.get_figwidth() * plt.rcParams["savefig.dpi"]
    if width >= shown_width:
        axis.imshow(picture, interpolation="antialiased", extent=extent)
    else:
        axis.imshow(
            enlarged(picture, int(np.ceil(shown_width / width))),
            interpolation="none",
            extent=extent or (-0.5, width - 0.5, height - 0.5, -0.5),
        )


def enlarged(picture, factor):
    """The picture at a multiple of its size, interpolated by cubic splines, without the noise that makes files large.

    Noise are changes over less than a pixel and less than `TONE_STEP` of 255.

    Args:
        picture: [H, W] or [H, W, 3] in 0 to 255.
        factor: whole number.

    Returns:
        uint8 of the same number of axes.
    """
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), NOISE)
    large = cv2.resize(blurred, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return np.clip(np.round(large / TONE_STEP) * TONE_STEP, 0, 255).astype(np.uint8)


def faded(picture):
    """The picture in light grey, uint8 RGB, for colours to stand out on; a small one is enlarged."""
    grey = picture.mean(axis=2) * (1 - FADE) + 255 * FADE
    return np.repeat(enlarged(grey, max(1, round(512 / max(grey.shape))))[..., None], 3, axis=2)


def draw_instances(axis, picture, instances):
    """Show the picture in faded grey and the instances on it, small ones on top, with their texts."""
    show(axis, faded(picture), extent=(-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5))
    drawn = [instance for instance in instances if instance.mask is None or instance.mask.any()]
    for instance in sorted(drawn, key=_area, reverse=True):
        path = _rectangle(instance.box) if instance.mask is None else smooth_outline(instance.mask)
        if instance.mask is not None:
            axis.add_patch(PathPatch(path, facecolor=instance.colour, alpha=FILL, linewidth=0))
        for stroke, width, dashes in (("white", 1.3, "-"), (instance.colour, 0.8, instance.line)):
            axis.add_patch(PathPatch(path, fill=False, edgecolor=stroke, linewidth=width, linestyle=dashes))
    axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    _write_texts(axis, picture.shape[:2], [instance for instance in drawn if instance.text])


def _area(instance):
    left, top, right, bottom = instance.bounds()
    return (right - left) * (bottom - top) if instance.mask is None else instance.mask.sum()


def _rectangle(box):
    x, y, width, height = box
    left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)


def smooth_outline(mask):
    """Outline of a mask without the steps of its pixels: blurred, sampled between pixels, drawn at one half.

    The centre of the first pixel is (0, 0). Specks of a pixel vanish, a mask of nothing else keeps its pixels' edges.

    Args:
        mask: boolean [H, W], not empty.

    Returns:
        matplotlib Path of closed parts, holes wound the other way.
    """
    left, top = (np.flatnonzero(mask.any(axis)).min() for axis in (0, 1))
    inside = mask[mask.any(1).argmax() :, mask.any(0).argmax() :]
    rows, columns = np.flatnonzero(inside.any(1)).max() + 1, np.flatnonzero(inside.any(0)).max() + 1
    margin = 3
    padded = np.pad(inside[:rows, :columns], margin).astype(np.float32)
    fine = cv2.resize(padded, None, fx=SUBPIXELS, fy=SUBPIXELS, interpolation=cv2.INTER_NEAREST)
    fine = cv2.GaussianBlur(fine, (0, 0), SMOOTHING * SUBPIXELS)
    x, y = ((np.arange(size * SUBPIXELS) + 0.5) / SUBPIXELS - 0.5 - margin for size in padded.shape[::-1])
    parts = _filled(x + left, y + top, fine)
    if not parts:
        parts = _filled(np.arange(padded.shape[1]) - margin + left, np.arange(padded.shape[0]) - margin + top, padded)
    parts = [cv2.approxPolyDP(part.astype(np.float32), TOLERANCE, closed=True)[:, 0] for part in parts]
    return Path.make_compound_path(*(Path(np.concatenate([part, part[:1]]), closed=True) for part in parts))


def _filled(x, y, values):
    """The closed lines [P, 2] around where `values` [H, W] at `x` and `y` exceed one half."""
    generator = contour_generator(x, y, values, fill_type=FillType.OuterOffset)
    areas = zip(*generator.filled(0.5, np.inf), strict=True)
    return [
        points[start:stop] for points, offsets in areas for start, stop in zip(offsets[:-1], offsets[1:], strict=True)
    ]


def _write_texts(axis, size, instances):
    """Write the text of each instance inside the picture of this size, off other texts and off other instances."""
    height, width = size
    scale = width / (72 * axis.get_position().width * axis.figure.get_figwidth())  # image pixels in a point
    tall = TEXT_ASPECT[1] * TEXT_SIZE * scale
    covered = sum((_footprint(instance, size) for instance in instances), start=np.zeros(size, dtype=int))
    taken = []
    for instance in instances:
        text = shortened(instance.text, LONGEST_TEXT)
        wide = (TEXT_ASPECT[0] * len(text) + 0.8) * TEXT_SIZE * scale
        left, top, right, bottom = instance.bounds()
        own = _footprint(instance, size)
        depth = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, 3)
        inside_y, inside_x = np.unravel_index(depth.argmax(), size)
        middle, centre = (left + right - wide) / 2, (top + bottom - tall) / 2
        places = [
            (middle, top - tall),
            (middle, bottom),
            (left, top - tall),
            (right - wide, top - tall),
            (left, bottom),
            (right - wide, bottom),
            (inside_x - wide / 2, inside_y - tall / 2),
            (right, centre),
            (left - wide, centre),
            (middle, top + tall),
            (middle, bottom - 2 * tall),
        ]
        places = [(min(max(x, 0), max(width - wide, 0)), min(max(y, 0), max(height - tall, 0))) for x, y in places]
        others = covered - own

        def cost(place, others=others, own=own, wide=wide):
            below = slice(round(place[1]), round(place[1] + tall)), slice(round(place[0]), round(place[0] + wide))
            texts = sum(_overlap(place, other, wide, tall) for other in taken)
            return 10 * texts + (others[below] > 0).sum() + 0.2 * own[below].sum()

        x, y = min(places, key=cost)
        taken.append((x, y, wide))
        axis.text(
            x + wide / 2 - 0.5,
            y + tall / 2 - 0.5,
            text,
            fontsize=TEXT_SIZE,
            ha="center",
            va="center",
            clip_on=True,
            bbox={"facecolor": "white", "edgecolor": instance.colour, "linewidth": 0.5, "pad": 0.6, "alpha": 0.85},
        )


def _footprint(instance, size):
    """Pixels that an instance covers, 0 or 1 [H, W]; of its box where it has no mask."""
    if instance.mask is not None:
        return instance.mask.astype(int)
    left, top, right, bottom = (round(side) for side in instance.bounds())
    covered = np.zeros(size, dtype=int)
    covered[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return covered


def _overlap(place, other, wide, tall):
    (x, y), (left, top, length) = place, other
    return max(0, min(x + wide, left + length) - max(x, left)) * max(0, min(y, top) + tall - max(y, top))


def shortened(text, length):
    """The text, cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "…"


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
