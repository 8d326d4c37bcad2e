"""Small models and batches that every test of the models shares."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.declaration import strict
from pipeline.methods.shared.sizes import Sizes
from pipeline.training.progress import Progress

METHODS = ("mask_rcnn", "cam", "contrastmask")

# The embedded profile's proportions at a size that trains in seconds.
SMALL = {
    "neck_channels": 16,
    "strides": [4, 8, 16],
    "roi_levels": 3,
    "anchor_scales": [6],
    "anchor_ratios": [1.0],
    "rpn_samples": 64,
    "rpn_pre_nms": 200,
    "rpn_test_pre_nms": 200,
    "rpn_post_nms": 100,
    "rcnn_samples": 24,
    "rcnn_positive_fraction": 0.5,
    "sampling_ratio": 1,
    "box_shared_convs": 2,
    "box_cls_convs": 1,
    "box_reg_convs": 0,
    "box_channels": 16,
    "box_reg_pooled": False,
    "box_loss_weight": 2.0,
    "mask_convs": 3,
    "mask_channels": 16,
    "contrast_roi_size": 14,
    "contrast_channels": 16,
    "cam_scale": 12.0,
}
SMALL_BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "stem_channels": 8,
    "num_stages": 3,
    "out_indices": [0, 1, 2],
    "strides": [1, 2, 2],
    "dilations": [1, 1, 1],
    "frozen_stages": -1,
    "norm_eval": False,
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def configuration(method="contrastmask", knobs=None, sizes=SMALL, backbone=SMALL_BACKBONE, num_classes=6):
    """The configuration of a detector, all of whose types are known; the knobs are those of a recipe."""
    room = methods.method(method)
    knobs = knobs or room.preset("paper")
    methods.register(method, knobs)
    return room.model(knobs, strict.check(Sizes, sizes, "profile"), backbone, num_classes)


def build(method="contrastmask", architecture=None, num_classes=6, recipe="paper", **knobs):
    """Build a small detector with fresh weights."""
    from mmcv import Config
    from mmdet.models import build_detector

    small = {"encoder_convs": 2} if method == "contrastmask" else {}
    knobs = methods.method(method).preset(recipe, **{**small, **knobs})
    config = Config({"model": configuration(method, knobs, {**SMALL, **(architecture or {})}, num_classes=num_classes)})
    torch.manual_seed(0)
    model = build_detector(config.model)
    model.init_weights()
    return model


def batch(images=2, size=128, objects=4, num_classes=6, seed=0, novel=(0,)):
    """Draw a batch of bright ellipses on noise; classes in `novel` have all-zero placeholder masks."""
    from mmdet.core import BitmapMasks

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    data = {"img": [], "img_metas": [], "gt_bboxes": [], "gt_labels": [], "gt_masks": [], "gt_is_novel": []}
    for _ in range(images):
        image = rng.normal(0, 0.3, (3, size, size))
        boxes, labels, masks = [], [], []
        for _ in range(objects):
            width, height = rng.uniform(size / 4, size / 2, 2)
            x, y = rng.uniform(0, size - width), rng.uniform(0, size - height)
            mask = ((rows - y - height / 2) / (height / 2)) ** 2 + ((columns - x - width / 2) / (width / 2)) ** 2 < 1
            label = int(rng.integers(num_classes))
            image[label % 3, mask] += 2
            boxes.append([x, y, x + width, y + height])
            labels.append(label)
            masks.append(mask & (label not in novel))
        data["img"].append(image)
        data["img_metas"].append(
            {
                "img_shape": (size, size, 3),
                "ori_shape": (size, size, 3),
                "pad_shape": (size, size, 3),
                "flip": False,
                "flip_direction": None,
                "scale_factor": np.ones(4, np.float32),
                "filename": "drawn",
            }
        )
        data["gt_bboxes"].append(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        data["gt_labels"].append(torch.tensor(labels, dtype=torch.long))
        data["gt_masks"].append(BitmapMasks(np.array(masks, np.uint8).reshape(-1, size, size), size, size))
        data["gt_is_novel"].append(torch.tensor([label in novel for label in labels], dtype=torch.bool))
    data["img"] = torch.tensor(np.stack(data["img"]), dtype=torch.float32)
    return data


def train_losses(model, data, iteration=0, epoch=0.0, seed=0, rank=0):
    """Return the losses of one training forward pass."""
    model.train()
    for part in Progress(model, seed, 1, rank).told:
        part.set_progress(iteration, epoch, seed, rank)
    return model(return_loss=True, **data)


def total(losses):
    """Add the losses up as the detector does."""
    values = (sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)
    return sum(v.sum() for v in values)
