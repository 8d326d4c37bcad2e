"""COCO's 80 object categories and the groups of them that a split direction names.

Names are the currency: directions, tables and figures speak of categories by name or by group, ids are looked
up here or in the annotation file, contiguous labels follow the order of `CATEGORIES`.
"""

from collections import Counter
from typing import NamedTuple

from pipeline.errors import ExperimentError


class Category(NamedTuple):
    id: int  # COCO category id, 1 to 90 with gaps
    name: str
    supercategory: str


CATEGORIES = tuple(
    Category(*row)
    for row in (
        (1, "person", "person"),
        (2, "bicycle", "vehicle"),
        (3, "car", "vehicle"),
        (4, "motorcycle", "vehicle"),
        (5, "airplane", "vehicle"),
        (6, "bus", "vehicle"),
        (7, "train", "vehicle"),
        (8, "truck", "vehicle"),
        (9, "boat", "vehicle"),
        (10, "traffic light", "outdoor"),
        (11, "fire hydrant", "outdoor"),
        (13, "stop sign", "outdoor"),
        (14, "parking meter", "outdoor"),
        (15, "bench", "outdoor"),
        (16, "bird", "animal"),
        (17, "cat", "animal"),
        (18, "dog", "animal"),
        (19, "horse", "animal"),
        (20, "sheep", "animal"),
        (21, "cow", "animal"),
        (22, "elephant", "animal"),
        (23, "bear", "animal"),
        (24, "zebra", "animal"),
        (25, "giraffe", "animal"),
        (27, "backpack", "accessory"),
        (28, "umbrella", "accessory"),
        (31, "handbag", "accessory"),
        (32, "tie", "accessory"),
        (33, "suitcase", "accessory"),
        (34, "frisbee", "sports"),
        (35, "skis", "sports"),
        (36, "snowboard", "sports"),
        (37, "sports ball", "sports"),
        (38, "kite", "sports"),
        (39, "baseball bat", "sports"),
        (40, "baseball glove", "sports"),
        (41, "skateboard", "sports"),
        (42, "surfboard", "sports"),
        (43, "tennis racket", "sports"),
        (44, "bottle", "kitchen"),
        (46, "wine glass", "kitchen"),
        (47, "cup", "kitchen"),
        (48, "fork", "kitchen"),
        (49, "knife", "kitchen"),
        (50, "spoon", "kitchen"),
        (51, "bowl", "kitchen"),
        (52, "banana", "food"),
        (53, "apple", "food"),
        (54, "sandwich", "food"),
        (55, "orange", "food"),
        (56, "broccoli", "food"),
        (57, "carrot", "food"),
        (58, "hot dog", "food"),
        (59, "pizza", "food"),
        (60, "donut", "food"),
        (61, "cake", "food"),
        (62, "chair", "furniture"),
        (63, "couch", "furniture"),
        (64, "potted plant", "furniture"),
        (65, "bed", "furniture"),
        (67, "dining table", "furniture"),
        (70, "toilet", "furniture"),
        (72, "tv", "electronic"),
        (73, "laptop", "electronic"),
        (74, "mouse", "electronic"),
        (75, "remote", "electronic"),
        (76, "keyboard", "electronic"),
        (77, "cell phone", "electronic"),
        (78, "microwave", "appliance"),
        (79, "oven", "appliance"),
        (80, "toaster", "appliance"),
        (81, "sink", "appliance"),
        (82, "refrigerator", "appliance"),
        (84, "book", "indoor"),
        (85, "clock", "indoor"),
        (86, "vase", "indoor"),
        (87, "scissors", "indoor"),
        (88, "teddy bear", "indoor"),
        (89, "hair drier", "indoor"),
        (90, "toothbrush", "indoor"),
    )
)

# The categories of PASCAL VOC under their COCO names; the other 60 are "nonvoc".
VOC = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "boat",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "bottle",
    "chair",
    "couch",
    "potted plant",
    "dining table",
    "tv",
)

NAMES = tuple(category.name for category in CATEGORIES)
GROUPS = {
    "voc": VOC,
    "nonvoc": tuple(name for name in NAMES if name not in VOC),
    "all": NAMES,
    "none": (),
}


def category_names(group):
    """Give the category names that a group stands for.

    Args:
        group: a key of `GROUPS` or a list of category names.

    Returns:
        Tuple of names in COCO order.

    Raises:
        ExperimentError: unknown group or name, or a name listed twice.
    """
    if isinstance(group, str):
        if group not in GROUPS:
            raise ExperimentError(
                f"unknown category group '{group}'; valid: {', '.join(GROUPS)}, or a list of category names"
            )
        return GROUPS[group]
    for name, count in Counter(group).items():
        if name not in NAMES:
            raise ExperimentError(f"unknown category '{name}'; valid are COCO's 80: {', '.join(NAMES)}")
        if count > 1:
            raise ExperimentError(f"category '{name}' is listed {count} times; list it once")
    return tuple(name for name in NAMES if name in group)


def base_and_novel(direction):
    """Resolve a split direction.

    Args:
        direction: `{"base": group, "novel": group}`; base categories keep their masks, novel ones have boxes
            only.

    Returns:
        `(base names, novel names)`, both in COCO order and disjoint. One side may be empty only if the other
        holds all 80 categories.

    Raises:
        ExperimentError: missing or unknown key, unknown category, a category on both sides, or an empty side.
    """
    if not isinstance(direction, dict) or set(direction) != {"base", "novel"}:
        raise ExperimentError(f"a split direction needs exactly the keys 'base' and 'novel', got {direction!r}")
    base, novel = category_names(direction["base"]), category_names(direction["novel"])
    if both := [name for name in base if name in novel]:
        raise ExperimentError(
            f"categories in both base and novel: {', '.join(both)}; a category either has masks or has none"
        )
    for side, other, name in ((base, novel, "base"), (novel, base, "novel")):
        if not side and other != NAMES:
            raise ExperimentError(f"'{name}' is empty; that is allowed only if the other side is 'all'")
    return base, novel
