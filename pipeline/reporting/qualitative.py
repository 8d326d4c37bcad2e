"""Example images with masks: predictions beside the ground truth, and the novel objects that one run finds.

A panel says how well it fits: `overlaps` matches predictions with the ground truth, `fit` averages.
"""

import itertools
from statistics import mean

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from pycocotools import mask as rle

from pipeline.errors import ExperimentError, NothingToShow
from pipeline.reporting import panels, shapes, style
from pipeline.tasks.instances import examples

TRAINED_WITH = {"base": "masks", "novel": "boxes only"}
NO_PREDICTION = "no prediction"
MATCHING = (
    "IoU of a panel: mean over the true objects with a mask, 0 for one that is not found; of the drawn predictions, "
    "best score first, each is matched with the true object of its category that it overlaps most and that is not yet "
    "matched."
)


def draw_strip(dataset, groups, methods, count, min_score, shows=examples.GROUPS, skip=0, across=1, drawn=None):
    """Draw validation images with their ground truth and what each method predicts.

    Args:
        dataset: name of the dataset; its validation annotations and images are read.
        groups: {"base": category names, "novel": category names}.
        methods: [(label, {image id: COCO result records}), ...], a panel each.
        count, shows, skip: which images, see `examples.select_images` and `examples.skip_images`.
        min_score: predictions below this score are not drawn.
        across: images side by side; if only one is, a panel has the image without masks.
        drawn: {category name: what it looks like} of images drawn by a program, for a legend; see `shapes.portraits`.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        NothingToShow: no image fits the rule.
        ExperimentError: an image is missing, or a mask is not of its size.
    """
    ground_truth, image_ids, pictures, rule = _examples(dataset, groups, count, shows, skip)
    group_of = examples.group_by_category_id(ground_truth, groups)
    titles = ["Image"] * (across == 1) + ["Ground truth", *(label for label, _ in methods)]
    aspects = [picture.shape[0] / picture.shape[1] for picture in pictures]
    figure, axes = panels.grid(titles, aspects, across, legend_lines=1.2, notes=1)
    for row, image_id, picture in zip(axes, image_ids, pictures, strict=True):
        panels.label(row[0], str(image_id))
        if across == 1:
            panels.show(row[0], picture)
        truth = _true_objects(ground_truth, image_id, group_of)
        shades = _shades(truth)
        masked = row[-len(methods) - 1 :]
        panels.draw_instances(
            masked[0],
            picture,
            [
                _instance(o, shade, o["name"] if o["mask"] is not None else f"{o['name']}, no mask")
                for o, shade in zip(truth, shades, strict=True)
            ],
        )
        for axis, (_, records) in zip(masked[1:], methods, strict=True):
            found = _predicted(records.get(image_id, []), ground_truth, group_of, min_score, picture, dataset)
            matches = overlaps(truth, found)
            panels.draw_instances(
                axis,
                picture,
                [
                    _instance(o, shade, f"{o['name']} {o['score']:.2f}")
                    for o, shade in zip(found, _shades(found, matches, shades), strict=True)
                ],
            )
            if not found:
                panels.say(axis, NO_PREDICTION)
            panels.note(axis, _fit_in_words(truth, matches))
    handles = [
        Patch(
            facecolor=to_rgba(colour, panels.FILL),
            edgecolor=colour,
            linestyle=style.GROUP_LINES[group],
            label=f"{group} (trained with {TRAINED_WITH[group]})",
        )
        for group, colour in style.GROUP_COLOURS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, borderpad=0, borderaxespad=0.2)
    if drawn:
        shapes.add_legend(figure, groups, drawn)
    return figure, (
        f"{rule} Predictions with a score of at least {min_score:g}, with category and score; blue shades, solid "
        "outline: base; orange shades, dashed outline: novel; a matched prediction has the shade of its object. "
        f"{MATCHING} Outlines are smoothed."
    )


def draw_novel_results(dataset, groups, label, records, count, min_score, across, skip=0, drawn=None):
    """Draw what one run predicts for the novel categories on a grid of images, each object with category and score.

    Args:
        label: name of the run for the caption.
        records: {image id: COCO result records} of the run.
        across: images in a row of the grid.
        dataset, groups, count, min_score, skip, drawn: as in `draw_strip`.

    Returns, Raises: as `draw_strip`.
    """
    ground_truth, image_ids, pictures, rule = _examples(dataset, groups, count, ("novel",), skip)
    novel = {
        category: group
        for category, group in examples.group_by_category_id(ground_truth, groups).items()
        if group == "novel"
    }
    aspects = [picture.shape[0] / picture.shape[1] for picture in pictures]
    figure, axes = panels.grid([""], aspects, across, legend_lines=0, notes=1)
    for (axis,), image_id, picture in zip(axes, image_ids, pictures, strict=True):
        panels.label(axis, str(image_id))
        truth = _true_objects(ground_truth, image_id, novel)
        found = _predicted(records.get(image_id, []), ground_truth, novel, min_score, picture, dataset)
        colours = itertools.cycle(style.CYCLE_NOVEL)
        panels.draw_instances(
            axis,
            picture,
            [_instance(o, colour, f"{o['name']} {o['score']:.2f}") for o, colour in zip(found, colours, strict=False)],
        )
        if not found:
            panels.say(axis, NO_PREDICTION)
        panels.note(axis, _fit_in_words(truth, overlaps(truth, found)))
    if drawn:
        shapes.add_legend(figure, groups, drawn)
    return figure, (
        f"{rule} Shown is what {label} predicts for novel categories (trained with boxes only) with a score of at "
        f"least {min_score:g}, and nothing else, each object in a colour of its own. {MATCHING} Outlines are smoothed."
    )


def overlaps(truth, found):
    """Match predictions with true objects.

    Args:
        truth: objects as `fit` takes them.
        found: predictions, best score first.

    Returns:
        For each prediction (index of its true object, IoU of their masks), None without a match.
    """
    free, matches = set(range(len(truth))), []
    for prediction in found:
        ious = {
            index: iou(truth[index]["mask"], prediction["mask"])
            for index in sorted(free)
            if truth[index]["category_id"] == prediction["category_id"]
        }
        best = max(ious, key=ious.get, default=None)
        if best is None or ious[best] == 0:
            matches.append(None)
        else:
            free.remove(best)
            matches.append((best, ious[best]))
    return matches


def iou(mask, other):
    """Intersection over union of two masks, boolean [H, W]; 0 where one is None."""
    if mask is None or other is None:
        return 0.0
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 0.0


def fit(truth, matches):
    """Mean IoU over the true objects of each group that have a mask: {group: IoU, None if none has}.

    Groups without an object are left out.
    """
    of = dict(filter(None, matches))
    groups = {}
    for index, true in enumerate(truth):
        values = groups.setdefault(true["group"], [])
        if true["mask"] is not None:
            values.append(of.get(index, 0.0))
    return {group: mean(groups[group]) if groups[group] else None for group in examples.GROUPS if group in groups}


def _fit_in_words(truth, matches):
    """`IoU base 0.71, novel 0.43` with the colour of each piece."""
    words = [
        (f" {group} {'undefined (no mask)' if value is None else format(value, '.2f')}", style.GROUP_COLOURS[group])
        for group, value in fit(truth, matches).items()
    ]
    return [("IoU", "#444444"), *words] if words else [("no true object", "#444444")]


def _true_objects(ground_truth, image_id, group_of):
    """The objects of an image whose category is base or novel, crowds left out."""
    return [
        {
            "category_id": annotation["category_id"],
            "group": group_of[annotation["category_id"]],
            "name": ground_truth.cats[annotation["category_id"]]["name"],
            "mask": examples.mask_of(ground_truth, annotation),
            "box": annotation["bbox"],
        }
        for annotation in ground_truth.imgToAnns[image_id]
        if not annotation.get("iscrowd") and annotation["category_id"] in group_of
    ]


def _predicted(records, ground_truth, group_of, min_score, picture, dataset):
    """The predictions that are drawn, best score first."""
    kept = [r for r in records if r["score"] >= min_score and r["category_id"] in group_of]
    found = []
    for record in sorted(kept, key=lambda r: -r["score"]):
        mask = rle.decode(record["segmentation"]) > 0 if record.get("segmentation") else None
        if mask is not None and mask.shape != picture.shape[:2]:
            raise ExperimentError(
                f"predictions on {dataset}: image {record['image_id']} has a mask of {mask.shape[1]} x {mask.shape[0]} "
                f"pixels, the image {picture.shape[1]} x {picture.shape[0]}; evaluate the run again"
            )
        found.append(
            {
                "category_id": record["category_id"],
                "group": group_of[record["category_id"]],
                "name": ground_truth.cats[record["category_id"]]["name"],
                "score": record["score"],
                "mask": mask,
                "box": record.get("bbox", (0, 0, 0, 0)),
            }
        )
    return found


def _shades(objects, matches=None, of_truth=()):
    """A shade for each object: that of the true object it is matched with, else the next of its group."""
    counts = {"base": 0, "novel": 0}
    for shade in of_truth:
        counts[next(group for group in counts if shade in style.GROUP_SHADES[group])] += 1
    shades = []
    for index, found in enumerate(objects):
        if matches and matches[index]:
            shades.append(of_truth[matches[index][0]])
        else:
            shades.append(style.shade(found["group"], counts[found["group"]]))
            counts[found["group"]] += 1
    return shades


def _instance(found, colour, text):
    return panels.Instance(found["mask"], found["box"], colour, style.GROUP_LINES[found["group"]], text)


def _examples(dataset, groups, count, shows, skip):
    """The ground truth, the chosen image ids, their pictures, and the rule with the ids in words."""
    ground_truth = examples.load_ground_truth(dataset)
    fitting = examples.select_images(ground_truth, groups, skip + count, shows)
    image_ids, skipped = examples.skip_images(fitting, count, skip)
    if not image_ids:
        what = "both a base and a novel object that cover" if len(shows) > 1 else f"a {shows[0]} object that covers"
        raise NothingToShow(f"no validation image of {dataset} shows {what} {examples.MIN_AREA:.0%} of it")
    rule = f"{examples.rule(shows, len(image_ids), skipped)}: {', '.join(map(str, image_ids))}."
    return ground_truth, image_ids, [panels.read_image(dataset, ground_truth.imgs[i]) for i in image_ids], rule
