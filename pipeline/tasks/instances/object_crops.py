"""Objects cut out of the training images by their boxes, to learn to name them: no mask is read."""

import json

import cv2
import numpy as np
import torch
from tqdm import tqdm

from pipeline.artifacts import paths
from pipeline.datasets.images import remedy
from pipeline.declaration import subsets
from pipeline.errors import ExperimentError

CONTEXT = 1.25  # side of a crop in longer sides of its box


def object_crops(dataset, split, size):
    """Cut every object of the training images out.

    Args:
        dataset: name of a dataset.
        split: name of the annotations, `tasks.split_of`; only boxes and categories are read.
        size: width and height of a crop in pixels; objects are scaled to it, their aspect ratio is kept.

    Returns:
        Crops uint8 BGR [N, size, size, 3] and labels int64 [N], contiguous.

    Raises:
        ExperimentError: an image is missing or cannot be read, or there is no object.
    """
    content = json.loads(paths.split_train(dataset, split).read_bytes())
    labels = {category["id"]: label for label, category in enumerate(content["categories"])}
    objects = {}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= 1:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    folder = subsets.train(dataset).images
    crops, named = [], []
    for image in tqdm(content["images"], desc="cutting objects out", unit="image", mininterval=1):
        if image["id"] not in objects:
            continue
        pixels = cv2.imread(str(folder / image["file_name"]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ExperimentError(f"image {folder / image['file_name']} is missing or no image; {remedy(folder)}")
        for annotation in objects[image["id"]]:
            crops.append(_crop(pixels, annotation["bbox"], size))
            named.append(labels[annotation["category_id"]])
    if not crops:
        raise ExperimentError(f"{paths.split_train(dataset, split)}: no object to learn from")
    return torch.from_numpy(np.stack(crops)), torch.tensor(named)


def _crop(pixels, box, size):
    """The square around a box `(x, y, width, height)`, scaled; beyond the image its border is repeated."""
    x, y, width, height = box
    side = CONTEXT * max(width, height)
    scale = size / side
    half = (scale - 1) / 2  # OpenCV counts from the middle of the first pixel, a box from its edge
    to_crop = np.array(
        [
            [scale, 0, size / 2 - (x + width / 2) * scale + half],
            [0, scale, size / 2 - (y + height / 2) * scale + half],
        ]
    )
    return cv2.warpAffine(pixels, to_crop, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
