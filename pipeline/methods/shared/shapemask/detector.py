"""The detector of ShapeMask's code: RetinaNet finds the boxes, a RoI head without a box head segments them."""

import torch
from mmdet.core import bbox2result
from mmdet.models.builder import DETECTORS, build_head
from mmdet.models.detectors import RetinaNet

DUMMIES = 100


@DETECTORS.register_module()
class ShapeMaskRetinaNet(RetinaNet):
    """RetinaNet with masks: learned on jittered boxes of objects, predicted in those that it detects.

    Args:
        roi_head: configuration of `ShapeMaskRoIHead` without box head; it shares this detector's `test_cfg`.
        kwargs: as `RetinaNet`; `test_cfg` has `mask_thr_binary`.
    """

    def __init__(self, roi_head, **kwargs):
        super().__init__(**kwargs)
        self.roi_head = build_head({**roi_head, "train_cfg": None, "test_cfg": self.bbox_head.test_cfg})

    def forward_dummy(self, img):
        """Run all layers, for counting operations; masks of stand-in boxes."""
        x = self.extract_feat(img)
        return self.bbox_head(x), self.roi_head.forward_dummy(x, torch.rand(DUMMIES, 4, device=img.device))

    def forward_train(
        self,
        img,
        img_metas,
        gt_bboxes,
        gt_labels,
        gt_bboxes_ignore=None,
        gt_masks=None,
        gt_is_novel=None,
    ):
        """As `RetinaNet.forward_train`, with the losses of masks; masks and flags as `PartialRoIHead.forward_train`."""
        x = self.extract_feat(img)
        losses = self.bbox_head.forward_train(x, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore)
        return losses | self.roi_head.mask_losses(x, gt_bboxes, gt_masks, gt_is_novel)

    def simple_test(self, img, img_metas, rescale=False):
        """Detect and segment; per image (boxes per class, masks per class) in MMDetection's format."""
        x = self.extract_feat(img)
        boxes, labels = zip(*self.bbox_head.simple_test(x, img_metas, rescale=rescale), strict=True)
        masks = self.roi_head.segment(x, boxes, labels, img_metas, rescale)
        found = [bbox2result(b, c, self.bbox_head.num_classes) for b, c in zip(boxes, labels, strict=True)]
        return list(zip(found, masks, strict=True))

    def aug_test(self, imgs, img_metas, rescale=False):
        """Refuse: the masks of several views are not averaged here, as they are not in the released code."""
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation; test one view")
