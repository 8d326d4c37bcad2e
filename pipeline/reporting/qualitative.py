"""Example images with masks: predictions beside the ground truth, and the novel objects that one run finds."""

from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from pycocotools import mask as rle

from pipeline.errors import ExperimentError
from pipeline.reporting import examples, panels, style

NAME_DISTANCE = 0.2  # of the width of the picture, between two equal names
TRAINED_WITH = {"base": "masks", "novel": "boxes only"}


def draw_strip(dataset, groups, methods, count, min_score, shows=examples.GROUPS, skip=0, across=1):
    """Draw validation images with their ground truth and what each method predicts.

    Args:
        dataset: name of the dataset; its validation annotations and images are read.
        groups: {"base": category names, "novel": category names}.
        methods: [(label, {image id: COCO result records}), ...], a panel each.
        count, shows, skip: which images, see `examples.select_images`.
        min_score: predictions below this score are not drawn.
        across: images side by side; if only one is, a panel has the image without masks.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        ExperimentError: no image fits the rule, or an image is missing.
    """
    ground_truth, image_ids, pictures = _examples(dataset, groups, count, shows, skip)
    group_of = examples.group_by_category_id(ground_truth, groups)
    titles = ["Image"] * (across == 1) + ["Ground truth", *(label for label, _ in methods)]
    figure, axes = panels.grid(titles, [picture.shape[0] / picture.shape[1] for picture in pictures], across)
    for row, image_id, picture in zip(axes, image_ids, pictures, strict=True):
        panels.label(row[0], str(image_id))
        if across == 1:
            panels.show(row[0], picture)
        truth = [a for a in ground_truth.imgToAnns[image_id] if not a.get("iscrowd")]
        masked = row[-len(methods) - 1 :]
        panels.draw_masks(masked[0], picture, _grouped(truth, ground_truth.annToMask, group_of))
        for axis, (_, records) in zip(masked[1:], methods, strict=True):
            kept = [r for r in records.get(image_id, []) if r["score"] >= min_score]
            panels.draw_masks(axis, picture, _grouped(kept, _decoded, group_of))
    handles = [
        Patch(facecolor=to_rgba(colour, panels.FILL), edgecolor=colour, linestyle=style.GROUP_LINES[group],
              label=f"{group} (trained with {TRAINED_WITH[group]})")
        for group, colour in style.GROUP_COLOURS.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=2, borderpad=0, borderaxespad=0.2)
    return figure, (
        f"{_listed(image_ids, shows, skip)} Predictions with a score of at least {min_score:g}; blue, solid outline: "
        "base; orange, dashed outline: novel."
    )


def draw_novel_results(dataset, groups, label, records, count, min_score, across, skip=0):
    """Draw what one run predicts for the novel categories on a grid of images, each object with its category.

    Args:
        label: name of the run for the caption.
        records: {image id: COCO result records} of the run.
        across: images in a row of the grid.
        dataset, groups, count, min_score, skip: as in `draw_strip`.

    Returns, Raises: as `draw_strip`.
    """
    ground_truth, image_ids, pictures = _examples(dataset, groups, count, ("novel",), skip)
    novel = sorted(category for category in ground_truth.cats if ground_truth.cats[category]["name"] in groups["novel"])
    shown = {image_id: [r for r in records.get(image_id, []) if r["score"] >= min_score and r["category_id"] in novel]
             for image_id in image_ids}  # fmt: skip
    found = sorted({r["category_id"] for kept in shown.values() for r in kept})
    colour_of = {category: style.cycled(index) for index, category in enumerate(found)}
    figure, axes = panels.grid([""], [picture.shape[0] / picture.shape[1] for picture in pictures], across,
                               legend_lines=0)  # fmt: skip
    for (axis,), image_id, picture in zip(axes, image_ids, pictures, strict=True):
        panels.label(axis, str(image_id))
        kept = [(r["category_id"], _decoded(r) > 0) for r in sorted(shown[image_id], key=lambda r: -r["score"])]
        panels.draw_masks(axis, picture, [(mask, colour_of[category], "-") for category, mask in kept])
        named = []
        for category, mask in kept:
            named = _name(axis, mask, ground_truth.cats[category]["name"], colour_of[category], named)
    return figure, (
        f"{_listed(image_ids, ('novel',), skip)} Shown is what {label} predicts for novel categories (trained with "
        f"boxes only) with a score of at least {min_score:g}, and nothing else; a colour stands for a category."
    )


def _examples(dataset, groups, count, shows, skip):
    """The ground truth, the chosen image ids and their pictures."""
    ground_truth = examples.load_ground_truth(dataset)
    image_ids = examples.select_images(ground_truth, groups, count, shows, skip)
    if not image_ids:
        what = "both a base and a novel object that cover" if len(shows) > 1 else f"a {shows[0]} object that covers"
        raise ExperimentError(
            f"{dataset}: no validation image shows {what} {examples.MIN_AREA:.0%} of it"
            f"{f' beyond the first {skip}' if skip else ''}; drop the figure for this dataset"
        )
    return ground_truth, image_ids, [panels.read_image(dataset, ground_truth.imgs[i]) for i in image_ids]


def _listed(image_ids, shows, skip):
    return f"{examples.rule(shows, len(image_ids), skip)}: {', '.join(map(str, image_ids))}."


def _grouped(objects, mask_of, group_of):
    """[(mask, colour, line style), ...] of the objects whose category is base or novel."""
    grouped = [(mask_of(o) > 0, group_of[o["category_id"]]) for o in objects if o["category_id"] in group_of]
    return [(mask, style.GROUP_COLOURS[group], style.GROUP_LINES[group]) for mask, group in grouped]


def _decoded(record):
    return rle.decode(record["segmentation"])


def _name(axis, mask, name, colour, named):
    """Write a category at the upper left corner of a mask, inside the picture.

    A name that would fall on the same name of a better-scored mask is left out. `named` lists the (name, x, y) written
    so far; the list with this one is returned.
    """
    height, width = mask.shape
    if not mask.any():
        return named
    left, top = mask.any(0).argmax(), mask.any(1).argmax()
    near = NAME_DISTANCE * width
    if any(name == other and abs(left - x) < near and abs(top - y) < near for other, x, y in named):
        return named
    right = left > 0.65 * width
    axis.text(
        0.97 * width if right else max(left, 0.03 * width), max(top, 0.03 * height), name, fontsize=5,
        ha="right" if right else "left", va="center" if top > 0.08 * height else "top", clip_on=True,
        bbox={"facecolor": "white", "edgecolor": colour, "linewidth": 0.6, "pad": 0.7, "alpha": 0.85},
    )  # fmt: skip
    return [*named, (name, left, top)]
