"""The strip of example images: chosen by a rule, ground truth beside predictions, base and novel told apart.

Masks are boolean arrays [H, W] in image pixels.
"""

import contextlib
import io
import textwrap

import numpy as np
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Patch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from pipeline import paths
from pipeline.errors import ExperimentError
from pipeline.reporting import style
from pipeline.reporting.style import plt

MIN_AREA = 0.02  # share of the image that an object covers to count in the selection
FADE = 0.45  # share of white mixed into the grey picture below masks
FILL = 0.45  # opacity of a mask
MARGIN = 0.2  # inches above and below the pictures, for titles and legend
TITLE_WIDTH = 22  # characters that fit above a column


def select_images(ground_truth, groups, count):
    """Choose the images of the strip: the first ones by image id that show both a base and a novel object.

    Args:
        ground_truth: pycocotools COCO of the validation set.
        groups: {"base": category names, "novel": category names}.
        count: how many.

    Returns:
        Sorted list of at most `count` image ids. An object counts if it is no crowd and its mask covers at
        least `MIN_AREA` of the image.
    """
    group_of = group_by_category_id(ground_truth, groups)
    chosen = []
    for image_id in sorted(ground_truth.imgs):
        image = ground_truth.imgs[image_id]
        shown = {
            group_of.get(annotation["category_id"])
            for annotation in ground_truth.imgToAnns[image_id]
            if not annotation.get("iscrowd")
            and annotation["area"] >= MIN_AREA * image["width"] * image["height"]
        }
        if {"base", "novel"} <= shown:
            chosen.append(image_id)
        if len(chosen) == count:
            break
    return chosen


def group_by_category_id(ground_truth, groups):
    """{category id: "base" or "novel"} from the names in the annotation file."""
    return {
        category["id"]: group
        for category in ground_truth.cats.values()
        for group, names in groups.items()
        if category["name"] in names
    }


def draw_strip(dataset, groups, methods, count, min_score):
    """Draw the strip.

    Args:
        dataset: name of the dataset; its validation annotations and images are read.
        groups: {"base": category names, "novel": category names}.
        methods: [(label, {image id: COCO result records}), ...], a column each.
        count: number of images (rows).
        min_score: predictions below this score are not drawn.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        ExperimentError: no image fits the rule, or an image is missing.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(paths.annotations(dataset, "val2017")))
    image_ids = select_images(ground_truth, groups, count)
    if not image_ids:
        raise ExperimentError(
            f"{dataset}: no validation image shows both a base and a novel object that cover "
            f"{MIN_AREA:.0%} of it; drop the figure for this dataset"
        )
    group_of = group_by_category_id(ground_truth, groups)
    pictures = [read_image(dataset, ground_truth.imgs[image_id]) for image_id in image_ids]
    columns = ["Image", "Ground truth", *(label for label, _ in methods)]
    figure, axes = _grid(columns, pictures)
    for row, image_id, picture in zip(axes, image_ids, pictures, strict=True):
        row[0].set_ylabel(str(image_id), fontsize=5.5, labelpad=1.5)
        show(row[0], picture)
        truth = [a for a in ground_truth.imgToAnns[image_id] if not a.get("iscrowd")]
        draw_masks(row[1], picture, _grouped(truth, ground_truth.annToMask, group_of))
        for axis, (_, records) in zip(row[2:], methods, strict=True):
            kept = [r for r in records.get(image_id, []) if r["score"] >= min_score]
            draw_masks(axis, picture, _grouped(kept, lambda r: rle.decode(r["segmentation"]), group_of))
    return figure, (
        f"The first {len(image_ids)} validation images by image id that show a base and a novel object, each "
        f"covering at least {MIN_AREA:.0%} of it: {', '.join(map(str, image_ids))}. Predictions with a "
        f"score of at least {min_score:g}; blue, solid outline: base; orange, dashed outline: novel."
    )


def _grouped(objects, mask_of, group_of):
    """[(mask, group), ...] of the objects whose category is base or novel."""
    return [(mask_of(o) > 0, group_of[o["category_id"]]) for o in objects if o["category_id"] in group_of]


def _grid(columns, pictures):
    """Axes [picture, column] without ticks, each as high as its picture asks, with titles and legend."""
    width = style.PAGE_WIDTH / len(columns)
    heights = [width * picture.shape[0] / picture.shape[1] for picture in pictures]
    total = sum(heights) + 2 * MARGIN
    figure, axes = plt.subplots(
        len(pictures), len(columns), figsize=(style.PAGE_WIDTH, total), squeeze=False, height_ratios=heights
    )
    figure.subplots_adjust(
        left=0, right=1, bottom=MARGIN / total, top=1 - MARGIN / total, wspace=0.03, hspace=0.03
    )
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(textwrap.fill(title, TITLE_WIDTH))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    handles = []
    for group, training in (("base", "masks"), ("novel", "boxes only")):
        colour = style.GROUP_COLOURS[group]
        handles.append(
            Patch(
                facecolor=to_rgba(colour, FILL),
                edgecolor=colour,
                linestyle=style.GROUP_LINES[group],
                label=f"{group} (trained with {training})",
            )
        )
    figure.legend(handles=handles, loc="lower center", ncols=2, borderpad=0, borderaxespad=0.2)
    return figure, axes


def read_image(dataset, image):
    """Read a validation image, uint8 RGB [H, W, 3]. Raises ExperimentError if it is missing or unreadable."""
    path = paths.images(dataset, "val2017") / image["file_name"]
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except OSError:
        raise ExperimentError(
            f"{path}: listed in instances_val2017.json but missing or not an image; "
            "run `dvc repro --force download`"
        ) from None


def show(axis, picture):
    """Show a picture; pixels of small images stay sharp, photographs are smoothed as they shrink."""
    shown_width = axis.get_position().width * axis.figure.get_figwidth() * plt.rcParams["savefig.dpi"]
    axis.imshow(picture, interpolation="nearest" if picture.shape[1] < shown_width else "antialiased")


def draw_masks(axis, picture, instances):
    """Show the picture in faded grey and the masks [(mask, group), ...] on it, small ones on top."""
    instances = sorted(instances, key=lambda instance: -instance[0].sum())
    grey = picture.mean(axis=2, keepdims=True) / 255
    faded = np.repeat(grey * (1 - FADE) + FADE, 3, axis=2)
    canvas = faded.copy()
    for mask, group in instances:
        colour = np.array(to_rgb(style.GROUP_COLOURS[group]))
        canvas[mask] = faded[mask] * (1 - FILL) + colour * FILL
    show(axis, canvas)
    for mask, group in instances:
        padded = np.pad(mask, 1).astype(float)  # so that a mask at the border has a closed outline
        y, x = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        for colour, width, line in (
            ("white", 1.5, "-"),
            (style.GROUP_COLOURS[group], 0.9, style.GROUP_LINES[group]),
        ):
            axis.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=width, linestyles=[line])
    axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
