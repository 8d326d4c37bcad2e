"""Score predicted label maps: IoU of each class, and its mean over the classes of a group that occur.

Prediction and truth come by image after image; what is kept is a table of counts. Nothing of it is saved: predictions
are (`prediction`), and to count them again takes seconds.
"""

from collections import Counter

import numpy as np

from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError
from pipeline.tasks import WHOLE
from pipeline.tasks.semantic import iou, stored


def score(dataset, predictions, groups):
    """Score the predictions of one seed on the validation set of a dataset.

    Args:
        dataset: its name.
        predictions: path of the file that `prediction.predict` wrote.
        groups: {"novel": class names, "base": class names}.

    Returns:
        {"scores": rows, "per_category": rows}, see `pipeline.artifacts.results.Scores`; percent, None where undefined:
        for a class without a pixel in the truth, or a group of such classes.

    Raises:
        ExperimentError: predictions of other images, or of another size than the truth.
    """
    names = experiments.load().label_set(dataset).names
    table = counted(Pack(subsets.validation(dataset).annotations), predictions, len(names))
    found = iou.summary(table, (), ())
    scores = []
    for group, members in (groups | {WHOLE: names}).items():
        positions = np.array([names.index(name) for name in members], np.int64)
        value = _number(iou.mean(found["iou"][positions]))
        scores.append({"group": group, "kind": "map", "metric": "mIoU", "value": value})
    per_category = [
        {"category": name, "kind": "map", "metric": metric, "value": _number(found[key][position])}
        for position, name in enumerate(names)
        for metric, key in (("IoU", "iou"), ("accuracy", "accuracy"))
    ]
    return {"scores": scores, "per_category": per_category}


def counted(truth, predictions, num_classes):
    """`iou.counts` summed over images, int64 [K + 1, K].

    Args:
        truth: `Pack` of complete maps.
        predictions: path of a file of predicted ones, of the same images in the same order.
        num_classes: K.

    Raises:
        ExperimentError: as `score`.
    """
    table = np.zeros((num_classes + 1, num_classes), np.int64)
    done = 0
    for position, (image, found) in enumerate(stored.read(predictions)):
        if position >= len(truth) or truth.images[position]["file_name"] != image:
            raise ExperimentError(
                f"{predictions}: image {image!r} is not due at place {position + 1}; evaluate the run again"
            )
        try:
            table += iou.counts(found, truth.read(position), num_classes)
        except ValueError as error:
            raise ExperimentError(f"{predictions}: image {image!r}: {error}; evaluate the run again") from None
        done += 1
    if done != len(truth):
        raise ExperimentError(f"{predictions}: {done} of {len(truth)} images are predicted; evaluate the run again")
    return table


def counts(dataset):
    """{class name: `n 5`} of the validation images that show a class; without 0s."""
    names = experiments.load().label_set(dataset).names
    images = Pack(subsets.validation(dataset).annotations).images
    shown = Counter(position for image in images for position in image["classes"])
    return {name: f"n {shown[position]}" for position, name in enumerate(names) if shown[position]}


def _number(value):
    return None if np.isnan(value) else float(value)
