"""How good masks from boxes are, on objects whose masks are known and hidden: overlap with the truth, by filler."""

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.errors import ExperimentError


def overlaps(annotations, folder, fillers, classes, most=None):
    """Hide the masks of objects and let fillers make them from the boxes.

    Args:
        annotations: complete.Annotations with masks.
        folder: of the images.
        fillers: {row of the table: filler}.
        classes: names of those whose objects are looked at.
        most: images to look at, the first ones; all by default.

    Returns:
        Data frame, a line for each object and filler: `by`, `class`, `image`, `at` (its position in the file),
        `score` (the filler's confidence, NaN without one) and `iou`, the intersection of both masks over their union.

    Raises:
        ExperimentError: none of the objects has a mask, or a filler does not know one of the classes.
    """
    entries = annotations.content["annotations"]
    known = [
        at
        for at, entry in enumerate(entries)
        if annotations.name(entry) in classes and not entry.get("iscrowd") and annotations.has_mask(entry)
    ]
    boxes = annotations.boxes(known)
    images = dict(list(annotations.by_image(boxes).items())[:most])
    if not images:
        raise ExperimentError(
            f"{annotations.path}: no object of {', '.join(sorted(classes))} has a mask; name a file that has some: "
            "--annotations FILE"
        )
    for filler in fillers.values():
        if hasattr(filler, "require"):
            filler.require(
                sorted({annotations.name(entries[at]) for of in images.values() for at in of}), annotations.path
            )
    paths = annotations.files(images, folder)
    rows = []
    for image, positions in tqdm(images.items(), desc="compare", unit="image", mininterval=5):
        picture = annotations.read(image, paths[image])
        height, width = picture.shape[:2]
        given = np.stack([np.clip(boxes[at], 0, [width, height, width, height]) for at in positions])
        names = [annotations.name(entries[at]) for at in positions]
        truth = [annotations.mask(at, height, width) for at in positions]
        for by, filler in fillers.items():
            for at, name, true, (mask, score) in zip(
                positions, names, truth, filler(picture, given, names), strict=True
            ):
                union = (mask | true).sum()
                iou = (mask & true).sum() / union if union else 1.0
                row = {"by": by, "class": name, "image": image, "at": at}
                rows.append(row | {"score": np.nan if score is None else score, "iou": float(iou)})
    return pd.DataFrame(rows)


def table(found):
    """Mean overlap by filler with its spread: over objects, and over the means of classes.

    Args:
        found: as of `overlaps`.

    Returns:
        Data frame with the columns `by`, `objects`, `mean IoU`, `sd`, `median`, `classes`, `mean of classes`, the best
        filler first.
    """
    rows = []
    for by, group in found.groupby("by", sort=False):
        by_class = group.groupby("class")["iou"].mean()
        rows.append(
            {
                "by": by,
                "objects": len(group),
                "mean IoU": group["iou"].mean(),
                "sd": group["iou"].std(ddof=1) if len(group) > 1 else float("nan"),
                "median": group["iou"].median(),
                "classes": len(by_class),
                "mean of classes": by_class.mean(),
            }
        )
    return pd.DataFrame(rows).sort_values("mean IoU", ascending=False, ignore_index=True)
