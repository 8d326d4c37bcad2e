"""Validation images as label maps: truth, which of it is base and novel, and what each run predicts.

A panel says how well it fits: IoU of the classes that its image shows, over this image alone.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.patches import Patch

from pipeline.datasets.label_maps import IGNORE
from pipeline.errors import NothingToShow
from pipeline.reporting import class_colours, measured, panels, style
from pipeline.reporting.style import plt
from pipeline.tasks.semantic import examples, iou

PIXELS = 420  # of the longer side of a painted map, at least: stripes and edges stay sharp
SHOWN = 0.01  # share of a panel that a predicted class has to cover for the legend to name it
FONT = 5.5  # points
NAME = 12  # last letters of an image's name that stand beside it: the number of COCO's


@dataclass(frozen=True)
class Example:
    """An image: file name, picture, true map and the map of each run, uint8 [H, W]."""

    name: str
    picture: np.ndarray
    truth: np.ndarray
    predictions: tuple


def draw(request):
    """Rows of images: picture, truth, split map, and the map that each run predicts."""
    labels = request.declared.label_set(request.dataset)
    groups = {
        group: [labels.names.index(name) for name in members] for group, members in request.groups().items() if members
    }
    truth = examples.load_truth(request.dataset)
    positions = examples.select(truth, list(groups.values()), request.entry["images"])
    if not positions:
        raise NothingToShow(
            f"of no validation image of {request.dataset} do base and novel classes each cover {examples.MIN_AREA:.0%}"
        )
    names = [truth.images[position]["file_name"] for position in positions]
    found, note = request.available(lambda dataset, run: measured.label_maps(dataset, run, names))
    shown = [
        Example(
            truth.images[position]["file_name"],
            panels.read_image(request.dataset, truth.images[position]),
            truth.read(position),
            tuple(maps[truth.images[position]["file_name"]] for _, maps in found),
        )
        for position in positions
    ]
    given = class_colours.given_of(request.dataset)
    figure = _draw(shown, [series.label for series, _ in found], labels.names, groups, given)
    (base, full), (novel, weak) = request.task.supervision.items()
    return figure, (
        f"{examples.rule(len(shown))}: {', '.join(names)}. Truth and predictions in the colours of the classes; beside "
        f"the truth, which pixels are of {base} classes (trained with {full}) and which of {novel} ones ({weak} "
        "alone). Striped: without a label. Below a panel: mean IoU over the classes that the image shows, counted in "
        f"this image alone. The legend names classes in the truth and those that cover {SHOWN:.0%} of a prediction, "
        f"the largest first if there are too many for colours, {base} ones in blue and {novel} ones in orange; what it "
        f"does not name is dark grey.{note}"
    )


def _draw(shown, labels, names, groups, given):
    """The figure. `groups`: {"base": positions of classes, "novel": positions}."""
    told, area = _told(shown, names), _area(shown, len(names))
    colours = dict.fromkeys(range(len(names)), class_colours.OTHER)
    colours |= class_colours.colours(names, sorted(told, key=lambda position: -area[position]), given)
    told = [position for position in told if colours[position] != class_colours.OTHER]
    columns = _columns([names[position] for position in told])
    lines = -(-(len(told) + 1) // columns)
    titles = ["Image", "Ground truth", "Base and novel", *labels]
    aspects = [example.picture.shape[0] / example.picture.shape[1] for example in shown]
    figure, axes = panels.grid(titles, aspects, legend_lines=0.85 * lines + 0.3, notes=1)
    for row, example in zip(axes, shown, strict=True):
        panels.label(row[0], example.name.rsplit(".", 1)[0][-NAME:])
        panels.show(row[0], example.picture)
        _paint(row[1], example.truth, colours)
        _paint(row[2], *_split(example.truth, groups))
        for axis, prediction in zip(row[3:], example.predictions, strict=True):
            _paint(axis, prediction, colours)
            panels.note(axis, _fit_in_words(prediction, example.truth, len(names), groups))
    group_of = {position: group for group, members in groups.items() for position in members}
    handles = [Patch(facecolor=_unit(colours[position]), label=names[position]) for position in told]
    handles.append(
        Patch(facecolor=_unit(class_colours.STRIPES[0]), hatch="/////", edgecolor="#a5a5a5", label="no label")
    )
    text = [style.GROUP_COLOURS.get(group_of.get(position), "#444444") for position in told]
    figure.legend(
        handles=handles,
        ncols=columns,
        loc="lower center",
        fontsize=FONT,
        labelcolor=[*text, "#444444"],
        handlelength=1.4,
        handleheight=0.9,
        columnspacing=1.2,
        labelspacing=0.35,
        borderpad=0,
        borderaxespad=0.2,
    )
    return figure


def _told(shown, names):
    """Positions of the classes that the legend names, in the order of the label set."""
    told = {int(value) for example in shown for value in np.unique(example.truth)}
    for prediction in (each for example in shown for each in example.predictions):
        area = np.bincount(prediction.ravel(), minlength=len(names))
        told |= set(np.flatnonzero(area >= SHOWN * prediction.size).tolist())
    return sorted(told - {IGNORE})


def _area(shown, num_classes):
    """Pixels of each class in truth and predictions together, int [K]."""
    every = (each for example in shown for each in (example.truth, *example.predictions))
    return sum(np.bincount(each.ravel(), minlength=IGNORE + 1)[:num_classes] for each in every)


def _columns(labels):
    """How many entries of a legend stand side by side on a page."""
    widest = max(map(len, labels), default=0)
    return max(1, min(len(labels) + 1, int(style.PAGE_WIDTH * 72 / ((widest * 0.58 + 4.5) * FONT))))


def _paint(axis, label_map, colours):
    """Show a label map, small ones enlarged without smoothing."""
    factor = max(1, -(-PIXELS // max(label_map.shape)))
    large = label_map.repeat(factor, 0).repeat(factor, 1)
    height, width = label_map.shape
    axis.imshow(
        class_colours.painted(large, colours), interpolation="none", extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )


def _split(truth, groups):
    """The truth with a value for each group of classes, and their colours; other classes as without label."""
    split, colours = np.full_like(truth, IGNORE), {}
    for value, (group, members) in enumerate(groups.items()):
        split[np.isin(truth, members)] = value
        colours[value] = tuple(round(255 * part) for part in plt.matplotlib.colors.to_rgb(style.GROUP_COLOURS[group]))
    return split, colours


def _fit_in_words(prediction, truth, num_classes, groups):
    """`IoU base 71.3, novel 43.0` with the colour of each piece, in percent."""
    values = iou.summary(iou.counts(prediction, truth, num_classes), (), ())["iou"]
    words = [
        (f" {group} {'–' if np.isnan(value) else format(value, '.1f')}", style.GROUP_COLOURS[group])
        for group, value in ((group, iou.mean(values[members])) for group, members in groups.items())
    ]
    return [("IoU", "#444444"), *words]


def _unit(colour):
    return tuple(part / 255 for part in colour)
