"""The detector of a toy method."""

import numpy as np
from mmdet.models import DETECTORS, FCOS


@DETECTORS.register_module()
class BoxedFCOS(FCOS):
    def simple_test(self, img, img_metas, rescale=False):
        found = super().simple_test(img, img_metas, rescale)
        shapes = (meta["ori_shape"][:2] for meta in img_metas)
        return [(boxes, [_filled(c, s) for c in boxes]) for boxes, s in zip(found, shapes, strict=True)]


def _filled(boxes, shape):
    masks = np.zeros((len(boxes), *shape), bool)
    for mask, (x1, y1, x2, y2, _) in zip(masks, boxes.round().astype(int), strict=True):
        mask[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = True
    return list(masks)
