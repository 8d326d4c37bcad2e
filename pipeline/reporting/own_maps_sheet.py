"""A sheet of a user's own images with their label maps and image-level labels, to look at before training."""

import cv2
import numpy as np
from matplotlib.patches import Patch

from pipeline.artifacts import files, paths
from pipeline.datasets.label_maps import IGNORE
from pipeline.datasets.own import TRAIN
from pipeline.errors import ExperimentError
from pipeline.reporting import class_colours, lettering
from pipeline.reporting.style import plt

IMAGES, ACROSS = 12, 3  # images, each with its map beside it
SIDE = 360  # pixels of an image on the sheet, its longer one
WIDTH, ROW, HEAD, LINE = 10, 1.5, 0.3, 0.18  # inches
NAMED = 6  # labels that a title lists
LISTED = 60  # classes of the legend
COLUMNS = 6  # of the legend


def write(name, found):
    """Write reports/<name>/own_data.png and return its path below the repository.

    Args:
        found: `pipeline.own_maps.Declared`.
    """
    path = paths.reports(name) / "own_data.png"
    figure = sheet(found)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="white")
    plt.close(figure)
    return path.relative_to(paths.ROOT)


def sheet(found):
    """A figure of training images that show every class in turn: image, map, and what is said of the whole image.

    Pixels of base classes are in their colour, those of novel ones, which training does not see, in gray lines over it,
    and those without label in white.
    """
    gathered = found.gathered
    names, groups = gathered.labels.names, found.groups
    colours = class_colours.of_all(names, gathered.colours)
    chosen = _chosen(gathered.of(TRAIN))
    listed = [name for name in names if groups[name] != "none"][:LISTED]
    rows, lines = -(-len(chosen) // ACROSS), -(-len(listed) // COLUMNS)
    height = ROW * rows + HEAD + LINE * (lines + 1)
    top = 1 - (HEAD + LINE * (lines + 1)) / height
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": top, "wspace": 0.04, "hspace": 0.22}
    figure, axes = plt.subplots(rows, 2 * ACROSS, figsize=(WIDTH, height), squeeze=False, gridspec_kw=margins)
    for axis in axes.flat:
        axis.set_axis_off()
    hidden = [position for position, name in enumerate(names) if groups[name] == "novel"]
    for (left, right), photo in zip(axes.reshape(-1, 2), chosen, strict=False):
        left.imshow(_image(found.folders[0] / photo.name))
        title = lettering.legible(photo.name[-28:], "image")
        left.set_title(title, font=lettering.font(title), fontsize=6)
        if photo.map:
            right.imshow(_drawn(gathered.coding.read(found.folders[1] / photo.map)[0], colours, hidden))
        said = [names[position] for position in sorted({*photo.labels, *(photo.pixels.keys() & set(hidden))})]
        text = ", ".join(said[:NAMED]) + (" ..." if len(said) > NAMED else "")
        text = f"{'' if photo.map else 'no map; '}labels: {text}" if said else "" if photo.map else "no map"
        right.set_title(lettering.legible(text, "labels"), font=lettering.font(text), fontsize=6)
    handles = [
        Patch(
            facecolor=colours[names.index(name)] / 255,
            hatch="////" if groups[name] == "novel" else None,
            edgecolor="#777777",
            label=lettering.legible(name, f"class {names.index(name)}"),
        )
        for name in listed
    ]
    handles.append(Patch(facecolor="white", edgecolor="#777777", label="no label"))
    legend = figure.legend(handles=handles, loc="upper center", ncols=COLUMNS, fontsize=6.5, frameon=False)
    legend.set_title("hatched: novel, known to training by labels of whole images alone", prop={"size": 7})
    for text in legend.get_texts():
        text.set_font(lettering.font(text.get_text()))
        text.set_fontsize(6.5)
    return figure


def _chosen(photos):
    """Up to `IMAGES` images, each the first that shows the class which those before show the least."""
    seen, chosen = {}, []
    left = [photo for photo in photos if photo.pixels or photo.labels]
    while left and len(chosen) < IMAGES:
        photo = min(left, key=lambda each: min(seen.get(position, 0) for position in {*each.pixels, *each.labels}))
        left.remove(photo)
        chosen.append(photo)
        for position in {*photo.pixels, *photo.labels}:
            seen[position] = seen.get(position, 0) + 1
    return chosen


def _image(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ExperimentError(f"image {path} is no image that OpenCV reads; replace the file")
    return cv2.resize(pixels, _size(pixels), interpolation=cv2.INTER_AREA)[..., ::-1]


def _drawn(label_map, colours, hidden):
    """A map in the colours of its classes, hidden ones hatched."""
    shown = cv2.resize(label_map, _size(label_map), interpolation=cv2.INTER_NEAREST)
    drawn = np.full((*shown.shape, 3), 255, np.uint8)
    known = shown != IGNORE
    drawn[known] = colours[shown[known]]
    rows, columns = np.indices(shown.shape)
    drawn[np.isin(shown, hidden) & ((rows + columns) % 12 < 3)] = (119, 119, 119)
    return drawn


def _size(pixels):
    scale = SIDE / max(pixels.shape[:2])
    return tuple(max(1, round(scale * side)) for side in pixels.shape[1::-1])
