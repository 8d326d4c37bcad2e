"""A few novel objects as each method segments them: truth and methods side by side, close up, readable on a phone.

Which ones is decided by how much the methods differ on all objects, so that a figure shows neither the best of one
method nor what is the same for all.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.patches import PathPatch
from pycocotools import mask as rle

from pipeline.errors import NothingToShow
from pipeline.reporting import measured, panels, style
from pipeline.reporting.qualitative import iou
from pipeline.reporting.style import plt
from pipeline.tasks.instances import examples

BOX_IOU = 0.5  # of a prediction that is of an object
FRACTIONS = 1.0, 0.5  # first and last: the object on which methods differ most, and the median one
AROUND = 1.35  # side of the square that is shown, in longer sides of the object's box
SMALLEST = 24  # pixels of that side, at least
LINE = 0.14  # inches of a line of text


@dataclass(frozen=True)
class Object:
    """A novel object that every method finds.

    Attributes:
        annotation: of the ground truth.
        truth: its mask, boolean [H, W].
        masks: predicted, one a method, boolean [H, W].
        ious: of each with the truth.
    """

    annotation: dict
    truth: np.ndarray
    masks: tuple
    ious: tuple

    @property
    def spread(self):
        return max(self.ious) - min(self.ious)


def draw(request):
    """Rows of objects, columns of truth and methods, with the IoU of each mask below it."""
    groups = request.groups()
    predictions, note = request.available(measured.predictions)
    ground_truth = examples.load_ground_truth(request.dataset)
    threshold = request.entry["min_score"]
    found = objects(ground_truth, groups, [records for _, records in predictions], threshold)
    if not found:
        raise NothingToShow(f"every method finds no novel object of {request.dataset}, or none has a mask")
    chosen = choose(found, request.entry["objects"])
    labels = [series.label for series, _ in predictions]
    figure = _draw(request.dataset, ground_truth, chosen, labels)
    means = np.mean([each.ious for each in found], axis=0)
    told = ", ".join(f"{label} {mean:.2f}" for label, mean in zip(labels, means, strict=True))
    spreads = ", ".join(f"{each.spread:.2f}" for each in chosen)
    images = ", ".join(str(each.annotation["image_id"]) for each in chosen)
    rule = (
        f"Of the {len(found)} novel objects that cover at least {examples.MIN_AREA:.0%} of their validation image and "
        f"that every method finds (box IoU at least {BOX_IOU:g}, score at least {threshold:g}), in the order of how "
        f"much the IoU of their masks differs between the methods: {_places(len(chosen))} (differences {spreads}; "
        f"images {images})."
    )
    return figure, (
        f"{rule} Orange: the mask that a method predicts; black: the outline of the true one; below, the IoU of the "
        f"two. Mean IoU over the {len(found)}: {told}.{note}"
    )


def objects(ground_truth, groups, predictions, threshold):
    """The novel objects that all methods find, in the order of image and annotation.

    Args:
        ground_truth: pycocotools COCO of the validation set.
        groups: {"base": category names, "novel": category names}.
        predictions: {image id: COCO result records} of each method.
        threshold: lowest score of a prediction.
    """
    found = []
    for image_id in sorted(ground_truth.imgs):
        for annotation in examples.objects_of(ground_truth, {"novel": groups["novel"]}, image_id):
            truth = examples.mask_of(ground_truth, annotation)
            masks = [_predicted(records.get(image_id, ()), annotation, threshold) for records in predictions]
            if truth is not None and all(mask is not None for mask in masks):
                found.append(Object(annotation, truth, tuple(masks), tuple(iou(truth, mask) for mask in masks)))
    return found


def _predicted(records, annotation, threshold):
    """The mask of the prediction whose box fits an object best; None if none fits."""
    fitting = [
        record
        for record in records
        if record["category_id"] == annotation["category_id"]
        and record["score"] >= threshold
        and record.get("segmentation")
    ]
    if not fitting:
        return None
    boxes = np.array([record["bbox"] for record in fitting], dtype=float)
    fits = rle.iou(boxes, np.array([annotation["bbox"]], dtype=float), [0])[:, 0]
    best = fits.argmax()
    return rle.decode(fitting[best]["segmentation"]) > 0 if fits[best] >= BOX_IOU else None


def choose(found, count):
    """Objects at evenly spaced ranks of their spread, from the largest to the median, largest first."""
    ranked = sorted(found, key=lambda each: each.spread)
    ranks = np.linspace(*FRACTIONS, count) * (len(ranked) - 1)
    return [ranked[rank] for rank in dict.fromkeys(np.round(ranks).astype(int).tolist())]


def _places(count):
    if count == 1:
        return "the one that differs most"
    between = " to ".join(("the one that differs most", "the median one"))
    return between if count == 2 else f"{count} at even ranks from {between}"


def _draw(dataset, ground_truth, chosen, labels):
    titles = ["truth", *labels]
    side = (style.COLUMN_WIDTH - LINE - (len(titles) - 1) * panels.GAP) / len(titles)
    height = LINE + len(chosen) * (side + LINE + panels.GAP)
    figure = plt.figure(figsize=(style.COLUMN_WIDTH, height))
    colour = style.GROUP_COLOURS["novel"]
    top = LINE
    for row, each in enumerate(chosen):
        picture = panels.read_image(dataset, ground_truth.imgs[each.annotation["image_id"]])
        window = _window(each.annotation["bbox"], picture.shape)
        left = LINE
        for column, (title, mask) in enumerate(zip(titles, (each.truth, *each.masks), strict=True)):
            place = (left, height - top - side, side, side) / np.array([style.COLUMN_WIDTH, height] * 2)
            axis = figure.add_axes(place)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            outline = panels.smooth_outline(each.truth)
            if column:
                panels.draw_instances(axis, picture, [panels.Instance(mask, each.annotation["bbox"], colour, "-")])
                panels.note(axis, [(f"IoU {each.ious[column - 1]:.2f}", "#222222")], size=7)
            else:
                panels.show(axis, picture)
                panels.label(axis, ground_truth.cats[each.annotation["category_id"]]["name"], size=7)
                axis.add_patch(PathPatch(outline, fill=False, edgecolor="white", linewidth=1.6))
            axis.add_patch(PathPatch(outline, fill=False, edgecolor="black", linewidth=0.9))
            axis.set(xlim=window[0], ylim=window[1][::-1])
            if not row:
                axis.set_title(title, fontsize=7.5, pad=2)
            left += side + panels.GAP
        top += side + LINE + panels.GAP
    return figure


def _window(box, shape):
    """The square around a box inside of a picture: ((left, right), (top, bottom)) in image pixels."""
    x, y, width, height = box
    side = min(max(AROUND * max(width, height), SMALLEST), *shape[:2])
    limits = []
    for centre, size in ((x + width / 2, shape[1]), (y + height / 2, shape[0])):
        start = min(max(centre - side / 2, 0), size - side)
        limits.append((start - 0.5, start + side - 0.5))
    return limits
