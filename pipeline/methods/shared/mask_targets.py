"""Masks of objects, cropped to the RoIs that are theirs, on the device of the RoIs."""

import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.core import BitmapMasks
from torch import Tensor


def crop(boxes, owners, masks, size: int) -> Tensor:
    """As MMDetection's `mask_target`: bitmaps without a read, polygons, which are drawn on the host, with one.

    Args:
        boxes: [p, 4] per image.
        owners: [p] int64 per image, index of each box's object.
        masks: `BitmapMasks` or `PolygonMasks` per image, on the host.
        size: cells on a side.

    Returns:
        [P, size, size] bool for the boxes of all images.
    """
    if all(isinstance(each, BitmapMasks) for each in masks):
        return torch.cat([_of_bitmaps(*image, size) for image in zip(boxes, owners, masks, strict=True)])
    counts = [len(each) for each in boxes]
    on_host = torch.cat([torch.cat(boxes), torch.cat(owners)[:, None]], 1).cpu().numpy()
    images = np.split(on_host, np.cumsum(counts)[:-1])
    cropped = np.concatenate([_on_host(rows, each, size) for rows, each in zip(images, masks, strict=True)])
    return torch.from_numpy(cropped).to(boxes[0].device, non_blocking=True).bool()


def _of_bitmaps(boxes, owners, masks, size):
    if not len(boxes):
        return torch.zeros(0, size, size, dtype=torch.bool, device=boxes.device)
    corners = torch.stack(
        [boxes[:, 0::2].clamp(0, masks.width), boxes[:, 1::2].clamp(0, masks.height)], -1
    )  # [p, 2 corners, x and y]
    rois = torch.cat([owners[:, None].to(boxes.dtype), corners.flatten(1)], 1)
    objects = torch.from_numpy(masks.masks).to(boxes.device, non_blocking=True).to(boxes.dtype)
    return roi_align(objects[:, None], rois, (size, size), 1.0, 0, "avg", True)[:, 0] >= 0.5


def _on_host(rows, masks, size):
    """Crops [p, size, size] of one image by rows of box and object."""
    if not len(rows):
        return np.zeros((0, size, size), np.uint8)
    boxes = rows[:, :4].copy()
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, masks.width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, masks.height)
    return masks.crop_and_resize(boxes, (size, size), rows[:, 4].astype(np.int64)).to_ndarray()
