"""Intersection over union of label maps, from counts of pixels.

Counts are summed over all images, then compared: IoU of a class = tp / (truth + predicted - tp), over pixels that
have a true label. A mean is over those classes of a group that occur in the truth; the released evaluator divides its
overall mean by classes that are predicted only, too, which is not done here.
"""

import cv2
import numpy as np

IGNORE = 255
BYTES = 256
EXACT = 1 << 24  # the highest number up to which float32 has all whole ones


def counts(prediction, truth, num_classes):
    """Pixels by predicted and true class.

    Args:
        prediction: integer [...], class of each pixel, or `IGNORE` for none.
        truth: of the same shape; pixels with `IGNORE` do not count.
        num_classes: K.

    Returns:
        int64 [K + 1, K]: [predicted class or, last, none; true class].

    Raises:
        ValueError: different shapes, or a value that is no class.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"a prediction of {prediction.shape} pixels, a truth of {truth.shape}")
    if prediction.dtype == truth.dtype == np.uint8:
        table = _of_bytes(prediction.reshape(1, -1), truth.reshape(1, -1))
        wrong = table[num_classes:IGNORE].any() or table[:, num_classes:IGNORE].any()
        table = table[[*range(num_classes), IGNORE], :num_classes]
    else:
        known = truth != IGNORE
        predicted, truth = prediction[known].astype(np.int64), truth[known].astype(np.int64)
        none = predicted == IGNORE
        wrong = ((truth < 0) | (truth >= num_classes)).any() or ((predicted < 0) | (predicted >= num_classes))[
            ~none
        ].any()
        if not wrong:
            predicted[none] = num_classes
            table = np.bincount(predicted * num_classes + truth, minlength=(num_classes + 1) * num_classes)
            table = table.reshape(num_classes + 1, num_classes)
    if wrong:
        raise ValueError(f"a label is neither below {num_classes} nor {IGNORE}")
    return table


def _of_bytes(prediction, truth):
    """Pixels by the values of two maps, uint8 [1, pixels]; int64 [256, 256].

    OpenCV counts pairs of bytes without making numbers of 64 bits of them first, twice as fast as `numpy.bincount`, but
    in float32, which is exact up to 2**24.
    """
    table = np.zeros((BYTES, BYTES), np.int64)
    for start in range(0, truth.size, EXACT):
        pieces = [np.ascontiguousarray(each[:, start : start + EXACT]) for each in (prediction, truth)]
        table += cv2.calcHist(pieces, [0, 1], None, [BYTES, BYTES], [0, BYTES, 0, BYTES]).astype(np.int64)
    return table


def confusion(prediction, truth, num_classes):
    """`counts` of pixels that have a prediction, int64 [K, K]: [predicted class, true class]."""
    return counts(prediction, truth, num_classes)[:-1]


def summary(confusion, base, novel):
    """Scores in percent, NaN where undefined.

    Args:
        confusion: [K, K] of `confusion` or [K + 1, K] of `counts`, summed over all images.
        base, novel: classes of the two groups.

    Returns:
        dict: `iou` and `accuracy`, float64 [K], NaN for a class without true pixels; their means `mIoU` and
        `mean_accuracy` over all classes, `base_mIoU`, `novel_mIoU`, `base_accuracy`, `novel_accuracy` over groups;
        `pixel_accuracy`; `frequency_weighted_IoU`.
    """
    table = np.asarray(confusion, np.float64)
    num_classes = table.shape[1]
    true, predicted, hits = table.sum(0), table[:num_classes].sum(1), np.diagonal(table)
    present = true > 0
    union = true + predicted - hits
    iou, accuracy = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    iou[present] = 100 * hits[present] / union[present]
    accuracy[present] = 100 * hits[present] / true[present]
    total = true.sum()
    found = {
        "iou": iou,
        "accuracy": accuracy,
        "mIoU": mean(iou),
        "mean_accuracy": mean(accuracy),
        "pixel_accuracy": 100 * hits.sum() / total if total else np.nan,
        "frequency_weighted_IoU": (true[present] * iou[present]).sum() / total if total else np.nan,
    }
    for name, classes in (("base", base), ("novel", novel)):
        members = np.asarray(sorted(classes), np.int64)
        found |= {f"{name}_mIoU": mean(iou[members]), f"{name}_accuracy": mean(accuracy[members])}
    return found


def mean(values):
    """Of those that are defined; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
