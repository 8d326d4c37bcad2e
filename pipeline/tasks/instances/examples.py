"""Which validation images and objects the figures show: chosen by stated rules, never by hand.

An object counts if it is no crowd and covers at least `MIN_AREA` of its image, by its mask or, without one, its box.
"""

import contextlib
import io
from collections import Counter

import numpy as np
from pycocotools.coco import COCO

from pipeline.artifacts import paths
from pipeline.declaration import subsets
from pipeline.errors import ExperimentError

MIN_AREA = 0.02  # share of the image
GROUPS = ("base", "novel")
LOOKED_INTO = 24  # images whose objects stage `look_inside` looks at; figures show a few objects of them


def load_ground_truth(dataset):
    """The validation annotations of a dataset as a pycocotools COCO. Raises ExperimentError if they are not there."""
    path = subsets.validation(dataset).annotations
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return COCO(str(path))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ExperimentError(
            f"{path.relative_to(paths.ROOT)}: missing or no annotation file ({type(error).__name__}); run "
            "`python -m stages.download`"
        ) from None


def group_by_category_id(ground_truth, groups):
    """{category id: "base" or "novel"} from the names in the annotation file."""
    return {
        category["id"]: group
        for category in ground_truth.cats.values()
        for group, names in groups.items()
        if category["name"] in names
    }


def mask_of(ground_truth, annotation):
    """The mask of an object, boolean [H, W]; None if it has none (boxes only)."""
    if not annotation.get("segmentation"):
        return None
    mask = ground_truth.annToMask(annotation) > 0
    return mask if mask.any() else None


def mask_or_nothing(ground_truth, annotation):
    """The mask of an object, uint8 [H, W] of 0 and 1; 0 everywhere if it has none."""
    mask = mask_of(ground_truth, annotation)
    if mask is None:
        image = ground_truth.imgs[annotation["image_id"]]
        mask = np.zeros((image["height"], image["width"]))
    return mask.astype(np.uint8)


def counts(dataset):
    """{category name: `n 5` or `n 5, 3 with mask`} of the validation objects without crowds; without 0s."""
    objects, masked = Counter(), Counter()
    ground_truth = load_ground_truth(dataset)
    for annotation in ground_truth.anns.values():
        category = ground_truth.cats.get(annotation["category_id"])
        if category is not None and not annotation.get("iscrowd"):
            objects[category["name"]] += 1
            masked[category["name"]] += bool(annotation.get("segmentation"))
    return {
        name: f"n {count}" if masked[name] == count else f"n {count}, {masked[name]} with mask"
        for name, count in objects.items()
    }


def _extent(annotation):
    """Pixels that an object covers: of its mask, or of its box where it has no mask."""
    area = annotation.get("area") if annotation.get("segmentation") else None
    return area if area is not None else annotation["bbox"][2] * annotation["bbox"][3]


def objects_of(ground_truth, groups, image_id):
    """The annotations of an image that count and are base or novel, in the order of their ids."""
    group_of = group_by_category_id(ground_truth, groups)
    image = ground_truth.imgs[image_id]
    least = MIN_AREA * image["width"] * image["height"]
    found = [
        annotation
        for annotation in ground_truth.imgToAnns[image_id]
        if not annotation.get("iscrowd") and _extent(annotation) >= least and annotation["category_id"] in group_of
    ]
    return sorted(found, key=lambda annotation: annotation["id"])


def select_images(ground_truth, groups, count, shows=GROUPS):
    """Choose images: the first ones by image id that show an object of each of the groups in `shows`.

    Args:
        ground_truth: pycocotools COCO of the validation set.
        groups: {"base": category names, "novel": category names}.
        count: how many.
        shows: groups of which an object must count.

    Returns:
        Sorted list of at most `count` image ids.
    """
    group_of = group_by_category_id(ground_truth, groups)
    chosen = []
    for image_id in sorted(ground_truth.imgs):
        if len(chosen) == count:
            break
        shown = {group_of[annotation["category_id"]] for annotation in objects_of(ground_truth, groups, image_id)}
        if set(shows) <= shown:
            chosen.append(image_id)
    return chosen


def skip_images(image_ids, count, skip):
    """Pass over images that another figure shows, but no more than leaves `count` to be shown.

    Args:
        image_ids: the first `skip + count` images that fit, or all if there are fewer.
        count, skip: how many to show and to pass over.

    Returns:
        (image ids to show, how many were passed over).
    """
    skipped = max(0, min(skip, len(image_ids) - count))
    return image_ids[skipped : skipped + count], skipped


def select_objects(labels, count):
    """Choose objects: the first of every category, then the second of every category, and so on.

    Args:
        labels: categories of the objects, in the order of image and annotation ids.
        count: how many.

    Returns:
        At most `count` indices into `labels`, increasing.
    """
    seen = Counter()
    ranked = []
    for index, label in enumerate(labels):
        ranked.append((seen[label], index))
        seen[label] += 1
    return sorted(index for _, index in sorted(ranked)[:count])


def rule(shows, count, skip=0):
    """The rule of `select_images` in words."""
    what = " and ".join(f"a {group}" for group in shows)
    each = "each covering" if len(shows) > 1 else "covering"
    which = (
        f"The first {count} validation images by image id"
        if not skip
        else (f"Validation images {skip + 1} to {skip + count} by image id of those")
    )
    return f"{which} that show {what} object, {each} at least {MIN_AREA:.0%} of it"
