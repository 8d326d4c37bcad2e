"""Intersection over union of label maps, from counts of pixels.

Counts are summed over all images, then compared: IoU of a class = tp / (truth + predicted - tp), over pixels that
have a true label. A mean is over those classes of a group that occur in the truth; the released evaluator divides its
overall mean by classes that are predicted only, too, which is not done here.
"""

import numpy as np

IGNORE = 255
BYTES = 256


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
        # Both bytes as one number: a pass without a mask or a multiplication in 64 bits.
        pairs = np.left_shift(prediction, np.uint16(8), dtype=np.uint16) | truth
        table = np.bincount(pairs.ravel(), minlength=BYTES * BYTES).reshape(BYTES, BYTES)
        wrong = table[num_classes:IGNORE].any() or table[:, num_classes:IGNORE].any()
        table = table[[*range(num_classes), IGNORE], :num_classes]
    else:
        known = truth != IGNORE
        predicted, truth = prediction[known].astype(np.int64), truth[known].astype(np.int64)
        predicted = np.where(predicted == IGNORE, num_classes, predicted)
        wrong = truth.size and (
            min(truth.min(), predicted.min()) < 0 or truth.max() >= num_classes or predicted.max() > num_classes
        )
        if not wrong:
            table = np.bincount(predicted * num_classes + truth, minlength=(num_classes + 1) * num_classes)
            table = table.reshape(num_classes + 1, num_classes)
    if wrong:
        raise ValueError(f"a label is neither below {num_classes} nor {IGNORE}")
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
