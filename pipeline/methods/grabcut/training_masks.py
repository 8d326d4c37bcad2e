"""Mask GrabCut before training: novel objects get the mask that GrabCut cuts out of their box.

No annotated mask of a novel object is read: what is made here comes from the image and the box.
"""

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import hashlib
import json

import cv2
import numpy as np
import pycocotools.mask as coco_masks
from mmdet.core import BitmapMasks
from mmdet.datasets.builder import PIPELINES

from pipeline.artifacts import files, paths
from pipeline.methods.grabcut import cut

FOLDER = "grabcut"  # in scratch/


@PIPELINES.register_module()
class CutNovelMasks:
    """Put GrabCut's masks in the place of the placeholders of novel objects, which then count as objects with a mask.

    Runs behind `LoadPartialAnnotations`, before the image is resized. What is cut is kept in scratch/, run-length
    encoded, by pixels, boxes and rule, so that each image is cut once whatever trains on it.

    Args:
        rule: `cut.Rule`.
    """

    def __init__(self, rule):
        self.rule = cut.Rule(**rule)

    def __call__(self, results):
        """Change `gt_masks` and `gt_is_novel` of a sample whose `img` is [H, W, 3] uint8 BGR."""
        is_novel = np.asarray(results["gt_is_novel"], bool)
        if is_novel.any():
            given = results["gt_masks"]
            masks = np.array(given.masks, np.uint8)
            masks[is_novel] = self.masks(results["img"], results["gt_bboxes"][is_novel])
            results["gt_masks"] = BitmapMasks(masks, given.height, given.width)
            results["gt_is_novel"] = np.zeros_like(is_novel)
        return results

    def masks(self, image, boxes):
        """Masks [N, H, W] uint8 of boxes [N, 4] in an image [H, W, 3] BGR: kept ones, or cut now."""
        whole = [cut.whole_box(box, image.shape) for box in boxes]
        kept = paths.scratch(FOLDER) / f"{self._key(image, whole)}.json"
        if not kept.exists():
            rgb = np.ascontiguousarray(image[..., ::-1])
            cv2.setNumThreads(0)  # loader processes run side by side
            found = [cut.segment(rgb, box, self.rule) for box in whole]
            encoded = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in found]
            files.write_json(kept, [each | {"counts": each["counts"].decode()} for each in encoded])
        return np.stack([coco_masks.decode(each) for each in json.loads(kept.read_text())])

    def _key(self, image, boxes):
        told = json.dumps([self.rule.identity(), image.shape, boxes], sort_keys=True)
        return hashlib.sha256(told.encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:24]

    def __repr__(self):
        return f"{type(self).__name__}(rule={self.rule})"
