"""Example images with masks: predictions beside the ground truth, and the novel objects that one run finds."""

from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from pycocotools import mask as rle

from pipeline.reporting import examples, panels, style

NAME_SIZE = 0.2, 0.12  # room for a name, as shares of the width and the height of the picture
MIN_NAMED = 0.01  # share of the picture
TRAINED_WITH = {"base": "masks", "novel": "boxes only"}


def draw_strip(dataset, groups, methods, count, min_score, shows=examples.GROUPS, skip=0, across=1):
    """Draw validation images with their ground truth and what each method predicts.

    Args:
        dataset: name of the dataset; its validation annotations and images are read.
        groups: {"base": category names, "novel": category names}.
        methods: [(label, {image id: COCO result records}), ...], a panel each.
        count, shows, skip: which images, see `examples.select_images` and `examples.skip_images`.
        min_score: predictions below this score are not drawn.
        across: images side by side; if only one is, a panel has the image without masks.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        NothingToShow: no image fits the rule.
        ExperimentError: an image is missing.
    """
    ground_truth, image_ids, pictures, rule = _examples(dataset, groups, count, shows, skip)
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
        f"{rule} Predictions with a score of at least {min_score:g}; blue, solid outline: "
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
    ground_truth, image_ids, pictures, rule = _examples(dataset, groups, count, ("novel",), skip)
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
        f"{rule} Shown is what {label} predicts for novel categories (trained with boxes only) with a score of at "
        f"least {min_score:g}, and nothing else; a colour stands for a category, small and crowded ones have no name."
    )


def _examples(dataset, groups, count, shows, skip):
    """The ground truth, the chosen image ids, their pictures, and the rule with the ids in words."""
    ground_truth = examples.load_ground_truth(dataset)
    fitting = examples.select_images(ground_truth, groups, skip + count, shows)
    image_ids, skipped = examples.skip_images(fitting, count, skip)
    if not image_ids:
        what = "both a base and a novel object that cover" if len(shows) > 1 else f"a {shows[0]} object that covers"
        raise examples.NothingToShow(f"no validation image of {dataset} shows {what} {examples.MIN_AREA:.0%} of it")
    rule = f"{examples.rule(shows, len(image_ids), skipped)}: {', '.join(map(str, image_ids))}."
    return ground_truth, image_ids, [panels.read_image(dataset, ground_truth.imgs[i]) for i in image_ids], rule


def _grouped(objects, mask_of, group_of):
    """[(mask, colour, line style), ...] of the objects whose category is base or novel."""
    grouped = [(mask_of(o) > 0, group_of[o["category_id"]]) for o in objects if o["category_id"] in group_of]
    return [(mask, style.GROUP_COLOURS[group], style.GROUP_LINES[group]) for mask, group in grouped]


def _decoded(record):
    return rle.decode(record["segmentation"])


def _name(axis, mask, name, colour, named):
    """Write a category at the upper left corner of a mask, inside the picture.

    Masks below `MIN_NAMED` have no name, nor has one whose name would fall on that of a better-scored mask. `named`
    lists the (x, y) of the names written so far; the list with this one is returned.
    """
    height, width = mask.shape
    if mask.mean() < MIN_NAMED:
        return named
    left, top = max(mask.any(0).argmax(), 0.03 * width), max(mask.any(1).argmax(), 0.06 * height)
    if any(abs(left - x) < NAME_SIZE[0] * width and abs(top - y) < NAME_SIZE[1] * height for x, y in named):
        return named
    right = left > 0.65 * width  # there it would leave the picture
    axis.text(
        0.97 * width if right else left, top, name, fontsize=5,
        ha="right" if right else "left", va="center", clip_on=True,
        bbox={"facecolor": "white", "edgecolor": colour, "linewidth": 0.6, "pad": 0.7, "alpha": 0.85},
    )  # fmt: skip
    return [*named, (left, top)]
