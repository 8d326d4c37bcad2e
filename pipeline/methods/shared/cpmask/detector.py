"""The detector of CPMask's code: FCOS finds the boxes, a RoI head without a box head segments them."""

from mmdet.models.builder import DETECTORS, build_head
from mmdet.models.detectors import FCOS

from pipeline.methods.shared.cpmask.roi_head import BASE_GT, training_rois
from pipeline.methods.shared.detect_then_segment import DetectThenSegment


@DETECTORS.register_module()
class MaskFCOS(DetectThenSegment, FCOS):
    """FCOS with masks: learned on the boxes of base objects, predicted in those that it detects.

    Args:
        roi_head: configuration of `CPMaskRoIHead` without box head; it shares this detector's `test_cfg`.
        kwargs: as `FCOS`; `train_cfg` has `mask_size`, `test_cfg` `mask_thr_binary`.
    """

    def __init__(self, roi_head, train_cfg=None, test_cfg=None, **kwargs):
        super().__init__(train_cfg=train_cfg, test_cfg=test_cfg, **kwargs)
        self.roi_head = build_head({**roi_head, "train_cfg": train_cfg, "test_cfg": self.bbox_head.test_cfg})

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
        """As `FCOS.forward_train`, with the losses of masks; masks and flags as `PartialRoIHead.forward_train`."""
        x = self.extract_feat(img)
        losses = self.bbox_head.forward_train(x, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore)
        boxes, owners = training_rois(BASE_GT, None, gt_bboxes)
        return losses | self.roi_head.mask_losses(x, boxes, owners, gt_masks, gt_is_novel)
