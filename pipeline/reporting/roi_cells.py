"""Objects as a method sees them, on the cells of a RoI, from stage `look_inside`.

Of ContrastMask CAM, partition and keys; of ShapeProp saliency and shape; of others the maps that they name.

Legend: N objects, S cells on a side of a RoI. A side axis of length 2 is ordered foreground, background; a set axis of
length 4 easy positive, easy negative, hard positive, hard negative.
"""

import zipfile
import zlib

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import measured, panels, style
from pipeline.reporting.style import plt
from pipeline.tasks.instances import examples

CONTEXT = 1.3  # side of the square that is shown, in longer sides of the object's box
FRAME = 0.08  # line around a sampled key, in sides of its cell
CANDIDATE = 0.3  # opacity of a candidate key that was not sampled
SOURCES = {False: "the CAM", True: "the ground-truth mask"}
PER_OBJECT = ("image_ids", "annotation_ids", "boxes", "labels", "is_novel", "from_mask", "kept")
# Axes behind that of the objects; axes of one name are equally long.
PER_CELL = {"cams": "SS", "sides": (2, *"SS"), "candidates": (4, *"SS"), "keys": (4, *"SS")}
OF_ANY = PER_OBJECT[:5]  # of these, what every method has
SHAPES = {"saliency": "SS", "shapes": "SS", "held": "SS"}
CORNERS = {"boxes": (4,), "frames": (4,)}
FRAMES = "frames"  # that a file may have, see `Method.inside_maps`


def look_inside_command(*runs):
    """The command that makes what `read` reads."""
    return experiments.repro("look_inside", *runs)


def read(dataset, run, per_object=PER_OBJECT, per_cell=None):
    """Read what stage `look_inside` wrote for a declared run: {name: array}; None if it has not run, or is superseded.

    Args:
        dataset: name of the dataset.
        run: declared run.
        per_object: names of arrays with a row for each object.
        per_cell: {name: lengths or names of the axes behind the objects} of the others; those of ContrastMask by
            default.

    Raises:
        ExperimentError: the file is no such archive.
    """
    per_cell = PER_CELL if per_cell is None else per_cell
    first = next(iter(per_cell))
    path = paths.look_inside(run.on(dataset), run.name)
    if not path.exists() or measured.superseded(dataset, run):
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*per_object, *per_cell)}
            if FRAMES in archive.files:
                arrays[FRAMES] = archive[FRAMES]
        lengths = {}
        for name, array in arrays.items():
            axes = (len(arrays[first]), *(CORNERS | per_cell).get(name, ()))
            expected = [
                lengths.setdefault(axis, length) if isinstance(axis, str) else axis
                for axis, length in zip(axes, array.shape, strict=False)
            ]
            if len(axes) != array.ndim or [*array.shape] != expected:
                raise ValueError(f"{name} has the shape {array.shape}, {first} {arrays[first].shape}")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ExperimentError(
            f"{path.relative_to(paths.ROOT)}: {error}; remove the file and run `{look_inside_command(run.name)}`"
        ) from None
    return arrays


def read_shapes(dataset, run):
    """As `read`, of a method whose inside are shapes."""
    return read(dataset, run, OF_ANY, SHAPES)


def read_maps(dataset, run):
    """As `read`, of a method that names its maps, each of a size of its own."""
    return read(dataset, run, OF_ANY, {name: (name, name) for name, *_ in methods.method(run.method).inside_maps})


def draw_partition(dataset, arrays, count):
    """Draw CAM and partition of a few objects (Fig. 1 of the supplement), base ones left and novel ones right.

    Args:
        dataset: name of the dataset; its validation annotations and images are read.
        arrays: from `read`.
        count: objects of each group.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        NothingToShow: there is no base or no novel object.
        ExperimentError: an image is missing.
    """
    chosen = _choose(arrays, count, np.ones(len(arrays["labels"]), dtype=bool))
    figure, rows = _blocks(dataset, arrays, chosen, ["Image", "CAM", "Partition"])
    for index, (picture, cam, partition), crop in rows:
        crop.show(picture, faded=False)
        crop.show(cam)
        crop.cells(cam, plt.get_cmap(style.CAM_MAP)(arrays["cams"][index])[..., :3])
        crop.mask(cam)
        crop.show(partition)
        crop.cells(partition, partition_colours(arrays["sides"][index]))
        crop.mask(partition)
        for axis in (picture, cam, partition):
            crop.box(axis)
    _legend(
        figure,
        [
            Patch(facecolor=colour, edgecolor="#444444", linewidth=0.4, label=side)
            for side, colour in style.SIDE_COLOURS.items()
        ]
        + [Line2D([], [], color="black", linewidth=0.9, label="outline of the true mask")],
    )
    _colour_bar(figure)
    return figure, (
        f"{_listed(arrays, chosen)} CAM of the object's category, scaled to [0, 1]; partition into foreground, "
        f"background and unassigned cells on the {_size(arrays)} cells of the RoI, {_sources(arrays)}. The true mask "
        "of a novel object is drawn for comparison only."
    )


def draw_keys(dataset, arrays, count):
    """Draw where easy and hard keys fall on a few objects that take part in the loss (Fig. 4 with data).

    Args, Returns, Raises: as `draw_partition`.
    """
    chosen = _choose(arrays, count, arrays["kept"])
    figure, rows = _blocks(dataset, arrays, chosen, ["Image", "Easy keys", "Hard keys"])
    for index, (picture, easy, hard), crop in rows:
        crop.show(picture, faded=False)
        for axis, first in ((easy, 0), (hard, 2)):
            crop.show(axis)
            crop.cells(
                axis,
                key_colours(arrays["candidates"][index, first : first + 2], arrays["keys"][index, first : first + 2]),
            )
            crop.frame_cells(axis, arrays["keys"][index, first : first + 2].any(0))
            crop.mask(axis)
        for axis in (picture, easy, hard):
            crop.box(axis)
    sides = list(style.SIDE_COLOURS.values())[:2]
    _legend(
        figure,
        [
            Patch(facecolor=_on_grey(colour, opacity), edgecolor="#444444", linewidth=0.4, label=f"{name}, {what}")
            for colour, name in zip(sides, ("positive", "negative"), strict=True)
            for opacity, what in ((1, "sampled"), (CANDIDATE, "candidate"))
        ]
        + [Line2D([], [], color="black", linewidth=0.9, label="outline of the true mask")],
    )
    share = arrays["kept"].mean()
    return figure, (
        f"{_listed(arrays, chosen, 'that take part in the loss')} Candidate and sampled keys on the {_size(arrays)} "
        f"cells of the RoI, {_sources(arrays)}; where the partition is of the CAM, easy and hard keys are two draws "
        f"from the same candidates. Positive and negative are seen from the foreground query. "
        f"{arrays['kept'].sum()} of {len(arrays['kept'])} objects ({share:.0%}) have enough candidates to take part."
    )


def draw_shapes(dataset, arrays, count):
    """Draw class activation and shape of a few objects, base ones left and novel ones right.

    Args, Returns, Raises: as `draw_partition`; arrays from `read_shapes`.
    """
    chosen = _choose(arrays, count, np.ones(len(arrays["labels"]), dtype=bool))
    titles, headings = ["Image", "Class activation", "Shape"], {group: f"{group} objects" for group in chosen}
    figure, rows = _blocks(dataset, arrays, chosen, titles, headings)
    for index, (picture, *maps), crop in rows:
        crop.show(picture, faded=False)
        for axis, cells in zip(maps, (arrays["saliency"][index], arrays["shapes"][index]), strict=True):
            crop.show(axis)
            crop.cells(axis, plt.get_cmap(style.CAM_MAP)(cells)[..., :3])
            crop.mask(axis)
        for axis in (picture, *maps):
            crop.box(axis)
    _legend(figure, [Line2D([], [], color="black", linewidth=0.9, label="outline of the true mask")])
    _colour_bar(figure, "map")
    held = {group: arrays["held"][members].mean() for group, members in _members(arrays)}
    return figure, (
        f"{_listed(arrays, chosen)} Class map of the object's category, scaled to [0, 1], and the shape that message "
        f"passing makes of it, as the mask head gets it, on the {_size(arrays, 'shapes')} cells of the RoI. In a step "
        f"a cell keeps {held['base']:.0%} of its activation in base objects and {held['novel']:.0%} in novel ones, an "
        "even share being 11%. The true mask is drawn for comparison only."
    )


def draw_maps(dataset, arrays, count, maps):
    """Draw maps of a few objects, base ones left and novel ones right.

    Args:
        dataset, count: as of `draw_partition`.
        arrays: from `read_maps`.
        maps: `Method.inside_maps`.

    Returns, Raises: as `draw_partition`.
    """
    chosen = _choose(arrays, count, np.ones(len(arrays["labels"]), dtype=bool))
    titles = ["Image", *(title for _, title, _ in maps)]
    figure, rows = _blocks(dataset, arrays, chosen, titles, {group: f"{group} objects" for group in chosen})
    for index, (picture, *axes), crop in rows:
        crop.show(picture, faded=False)
        frame = crop.within(arrays[FRAMES][index]) if FRAMES in arrays else crop.frame
        for axis, (name, *_) in zip(axes, maps, strict=True):
            crop.show(axis)
            crop.cells(axis, plt.get_cmap(style.CAM_MAP)(arrays[name][index])[..., :3], frame)
            crop.mask(axis)
        for axis in (picture, *axes):
            crop.box(axis)
    _legend(figure, [Line2D([], [], color="black", linewidth=0.9, label="outline of the true mask")])
    _colour_bar(figure, "map")
    words = "; ".join(f"{title}: {what} ({_size(arrays, name)} cells)" for name, title, what in maps)
    return figure, f"{_listed(arrays, chosen)} {words}. The true mask is drawn for comparison only."


def partition_colours(sides):
    """Colour the cells of a RoI by their side: [2, S, S] bool -> [S, S, 3]."""
    colours = [to_rgb(style.SIDE_COLOURS[name]) for name in ("foreground", "background", "unassigned")]
    # a cell is on one side at most
    return np.select([sides[0, ..., None], sides[1, ..., None]], colours[:2], colours[2])


def key_colours(candidates, keys):
    """Colour positive and negative keys: [2, S, S] bool twice -> [S, S, 4], transparent where there is no candidate."""
    colours = np.zeros((*keys.shape[1:], 4))
    for side, name in enumerate(("foreground", "background")):
        for cells, opacity in ((candidates[side], CANDIDATE), (keys[side], 1.0)):
            colours[cells] = (*to_rgb(style.SIDE_COLOURS[name]), opacity)
    return colours


class Crop:
    """The square around one object, and how to draw on it in image pixels."""

    def __init__(self, picture, box, mask, group):
        """`picture` [H, W, 3] and `mask` [H, W], or None, are the whole image's, `box` is (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = (float(value) for value in box)
        half = CONTEXT * max(x2 - x1, y2 - y1) / 2
        self.left = _inside((x1 + x2) / 2 - half, 2 * half, picture.shape[1])
        self.top = _inside((y1 + y2) / 2 - half, 2 * half, picture.shape[0])
        self.right, self.bottom = self.left + 2 * half, self.top + 2 * half
        columns = slice(max(0, int(self.left)), int(np.ceil(self.right)))
        rows = slice(max(0, int(self.top)), int(np.ceil(self.bottom)))
        self.picture = picture[rows, columns]
        self.inside = None if mask is None else mask[rows, columns]
        self.origin = columns.start, rows.start
        self.frame, self.group = (x1, y1, x2, y2), group

    def show(self, axis, faded=True):
        """Show the picture; what lies beyond the image stays white."""
        picture = panels.faded(self.picture) if faded else self.picture
        x, y = self.origin
        height, width = self.picture.shape[:2]
        panels.show(axis, picture, extent=(x, x + width, y + height, y))
        axis.set(xlim=(self.left, self.right), ylim=(self.bottom, self.top))

    def within(self, shares):
        """A frame (x1, y1, x2, y2) that is given in shares of the box."""
        x1, y1, x2, y2 = self.frame
        left, top, right, bottom = (float(share) for share in shares)
        return x1 + left * (x2 - x1), y1 + top * (y2 - y1), x1 + right * (x2 - x1), y1 + bottom * (y2 - y1)

    def cells(self, axis, colours, frame=None):
        """Lay colours of cells [S, S, 3 or 4] on a frame, by default the box."""
        x1, y1, x2, y2 = frame or self.frame
        axis.imshow(colours, extent=(x1, x2, y2, y1), interpolation="nearest")
        axis.set(xlim=(self.left, self.right), ylim=(self.bottom, self.top))

    def box(self, axis):
        """Draw the box in the colour and line of the object's group."""
        x1, y1, x2, y2 = self.frame
        colour, line = style.GROUP_COLOURS[self.group], style.GROUP_LINES[self.group]
        for stroke, width, dashes in (("white", 1.8, "-"), (colour, 1.1, line)):
            axis.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=stroke, linewidth=width, linestyle=dashes)
            )

    def frame_cells(self, axis, cells):
        """Draw a black frame around each marked cell [S, S], thinner around smaller cells."""
        x1, y1, x2, y2 = self.frame
        width, height = (x2 - x1) / cells.shape[1], (y2 - y1) / cells.shape[0]
        panel = 72 * axis.get_position().width * axis.figure.get_figwidth()  # points
        thickness = FRAME * panel * min(width, height) / (self.right - self.left)
        frames = [
            Rectangle((x1 + column * width, y1 + row * height), width, height) for row, column in np.argwhere(cells)
        ]
        axis.add_collection(
            PatchCollection(frames, facecolor="none", edgecolor="black", linewidth=thickness), autolim=False
        )

    def mask(self, axis):
        """Draw the outline of the object's mask, if it has one."""
        if self.inside is None:
            return
        x, y = self.origin  # corner of the first pixel, as in `show`
        panels.outline(axis, self.inside, "black", width=0.7, at=(x + 0.5, y + 0.5))
        axis.set(xlim=(self.left, self.right), ylim=(self.bottom, self.top))


def _inside(start, length, limit):
    """Move an interval into [0, limit] if it fits."""
    return start if length > limit else min(max(start, 0), limit - length)


def _choose(arrays, count, eligible):
    """{group: indices of the objects that are shown}; see `examples.select_objects`."""
    chosen = {}
    for group, members in _members(arrays):
        indices = np.flatnonzero(members & eligible)
        if not len(indices):
            raise NothingToShow(f"no {group} object to show among the {len(members)} of stage look_inside")
        chosen[group] = indices[examples.select_objects(arrays["labels"][indices], count)]
    return chosen


def _blocks(dataset, arrays, chosen, titles, headings=None):
    """Make the axes, base objects left and novel ones right.

    Args:
        headings: {group: text above it}; what the partition is from by default.

    Returns:
        (matplotlib Figure, [(index of the object, its axes, its Crop), ...]).
    """
    ground_truth = examples.load_ground_truth(dataset)
    rows = max(map(len, chosen.values()))
    if headings is None:
        headings = {group: f"{group}: partition from {_source(arrays, indices)}" for group, indices in chosen.items()}
    headings = [(text, style.GROUP_COLOURS[group]) for group, text in headings.items()]
    figure, axes = panels.grid(titles, [1.0] * (2 * rows), across=2, headings=headings)
    drawn = []
    for block, (group, indices) in enumerate(chosen.items()):
        for row in range(rows):
            example = axes[2 * row + block]
            if row >= len(indices):
                for axis in example:
                    axis.set_axis_off()
                continue
            index = indices[row]
            annotation = _annotation(ground_truth, int(arrays["annotation_ids"][index]))
            picture = panels.read_image(dataset, ground_truth.imgs[annotation["image_id"]])
            name = ground_truth.cats[annotation["category_id"]]["name"]
            panels.label(example[0], panels.shortened(name, panels.LONGEST_TEXT))
            mask = examples.mask_of(ground_truth, annotation)
            drawn.append((index, example, Crop(picture, arrays["boxes"][index], mask, group)))
    return figure, drawn


def _annotation(ground_truth, annotation_id):
    if annotation_id not in ground_truth.anns:
        raise ExperimentError(
            f"the file of stage look_inside shows annotation {annotation_id}, which the validation set has no more; "
            "run `dvc repro -s -f --glob 'look_inside@*'`"
        )
    return ground_truth.anns[annotation_id]


def _source(arrays, indices):
    return SOURCES[bool(arrays["from_mask"][indices].all())]


def _sources(arrays):
    words = [f"for {group} objects from {_source(arrays, members)}" for group, members in _members(arrays)]
    return " and ".join(words)


def _members(arrays):
    """(group, which objects are of it) of both groups."""
    return (("base", ~arrays["is_novel"]), ("novel", arrays["is_novel"]))


def _size(arrays, name="cams"):
    return "×".join(map(str, arrays[name].shape[1:]))


def _listed(arrays, chosen, which="that count"):
    count = max(map(len, chosen.values()))
    ids = {group: ", ".join(str(arrays["image_ids"][index]) for index in indices) for group, indices in chosen.items()}
    return (
        f"{count} base and {count} novel validation objects {which}: in the order of image ids, the first of each "
        f"category before the second of any, of objects that cover at least {examples.MIN_AREA:.0%} of their image; "
        f"images {ids['base']} and {ids['novel']}."
    )


def _on_grey(colour, opacity):
    return tuple(opacity * channel + (1 - opacity) * 0.75 for channel in to_rgb(colour))


def _legend(figure, handles):
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        borderpad=0,
        borderaxespad=0.2,
        handlelength=1.2,
        handleheight=0.9,
        columnspacing=1.2,
    )


def _colour_bar(figure, name="CAM"):
    """Show the scale of the maps at the lower left, in the line of the legend."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((0.35 / width, 0.06 / height, 0.7 / width, 0.07 / height))
    axis.imshow(np.linspace(0, 1, 256)[None], cmap=style.CAM_MAP, aspect="auto")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    size = plt.rcParams["legend.fontsize"]
    for x, text, side in ((-0.04, f"{name} 0", "right"), (1.04, "1", "left")):
        axis.text(x, 0.5, text, transform=axis.transAxes, ha=side, va="center", fontsize=size)
