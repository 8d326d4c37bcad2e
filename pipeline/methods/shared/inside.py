"""What a look into a trained model needs, whichever method: validation objects as the network gets them, and a file.

Imported by no training.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import logging
from collections.abc import Callable
from dataclasses import dataclass

import mmcv
import numpy as np
import torch
from mmdet.core import BitmapMasks
from mmdet.models import build_detector
from torch import Tensor

from pipeline import methods
from pipeline.artifacts import checkpoint, files, paths
from pipeline.errors import ExperimentError
from pipeline.hardware import use_device
from pipeline.tasks.instances import examples
from pipeline.tasks.instances.packed_coco import validation_set

logger = logging.getLogger("pipeline.methods.shared.inside")


@dataclass(frozen=True)
class Objects:
    """The objects of one validation image, N of them, as the network gets them.

    Attributes:
        image_id: of the image.
        image: [1, 3, H, W] network input.
        boxes: [N, 4] ground truth (x1, y1, x2, y2) in network-input pixels.
        labels: [N] int64 classes.
        masks: `BitmapMasks` in network-input pixels.
        is_novel: [N] bool.
    """

    image_id: int
    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: BitmapMasks
    is_novel: Tensor


def write(training, base, novel, look: Callable):
    """Write `predictions/<dataset>/look_inside/<run>.npz` for a trained run.

    The objects are those that count (`examples.objects_of`) in the first `examples.LOOKED_INTO` validation images
    that show a base and a novel one. The file holds plain arrays, a row or a column for each object, in the order of
    image and annotation ids: `image_ids`, `annotation_ids`, `boxes` (x1, y1, x2, y2 in image pixels), `labels`
    (category ids), `is_novel`, and what `look` returns.

    Args:
        training: pipeline.declaration.config.Training of the run.
        base, novel: names of the categories of its split.
        look: (model, `Objects`) -> {name: array}, a row for each object.

    Raises:
        ExperimentError: the run is not trained, or no image fits.
    """
    ground_truth = examples.load_ground_truth(training.dataset)
    groups = {"base": base, "novel": novel}
    image_ids = examples.select_images(ground_truth, groups, examples.LOOKED_INTO)
    if not image_ids:
        raise ExperimentError(
            f"{training.dataset}: no validation image shows both a base and a novel object that cover "
            f"{examples.MIN_AREA:.0%} of it; drop the figures that need stage look_inside for this dataset"
        )
    device = use_device()
    model = load_model(training).to(device)
    data = validation_set(training.dataset, training.data["test"])
    novel_ids = {category["id"] for category in ground_truth.cats.values() if category["name"] in novel}
    rows, without_mask = [], 0
    for image_id in image_ids:
        counted = examples.objects_of(ground_truth, groups, image_id)
        annotations = [annotation for annotation in counted if annotation.get("segmentation")]
        without_mask += len(counted) - len(annotations)
        if not annotations:
            continue
        labels = np.array([annotation["category_id"] for annotation in annotations])
        is_novel = np.isin(labels, sorted(novel_ids))
        boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        masks = [examples.mask_or_nothing(ground_truth, annotation) for annotation in annotations]
        image, in_input, masks = _network_input(data, image_id, boxes, masks)
        looked = Objects(
            image_id,
            image.to(device),
            in_input.to(device),
            torch.tensor([data.cat2label[label] for label in labels.tolist()], device=device),
            masks,
            torch.from_numpy(is_novel).to(device),
        )
        rows.append(
            {
                "image_ids": np.full(len(annotations), image_id),
                "annotation_ids": np.array([annotation["id"] for annotation in annotations]),
                "boxes": boxes,
                "labels": labels,
                "is_novel": is_novel,
                **look(model, looked),
            }
        )
    if without_mask:
        logger.warning("%s: %d objects without a mask are left out", training.dataset, without_mask)
    if not rows:
        raise ExperimentError(
            f"{training.dataset}: no object of the images that stage look_inside looks at has a mask; "
            "drop the figures that need it for this dataset"
        )
    path = paths.look_inside(training.dataset, training.name)
    _write_arrays({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, path)
    logger.info(
        "%s: %d objects of %d images",
        path.relative_to(paths.ROOT),
        sum(map(len, (r["labels"] for r in rows))),
        len(rows),
    )


def load_model(training):
    """The detector of a trained run, in evaluation mode. Raises ExperimentError if it is not trained."""
    methods.register(training.method, training.knobs)
    model = build_detector(mmcv.ConfigDict(training.model))
    model.load_state_dict(checkpoint.of_run(training)["state_dict"])
    return model.eval()


def _network_input(data, image_id, boxes, masks):
    """One image, its boxes [N, 4] and masks (N of [h, w]) as the network gets them: [1, 3, H, W], [N, 4], bitmaps."""
    sample = data[data.img_ids.index(image_id)]
    meta = sample["img_metas"][0].data
    (height, width), (padded_height, padded_width) = meta["img_shape"][:2], meta["pad_shape"][:2]
    scaled = torch.from_numpy(boxes * meta["scale_factor"]).float()
    scaled[:, 0::2].clamp_(0, width)
    scaled[:, 1::2].clamp_(0, height)
    masks = np.stack(list(masks))
    bitmaps = BitmapMasks(masks, *masks.shape[1:]).resize((height, width)).pad((padded_height, padded_width))
    return sample["img"][0][None], scaled, bitmaps


def _write_arrays(arrays, path):
    """Write arrays to an .npz in one step."""
    with files.writing(path) as file:
        np.savez_compressed(file, **arrays)
