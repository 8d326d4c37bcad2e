"""The detector of ShapeMask's code: RetinaNet finds the boxes, a RoI head without a box head segments them."""

from mmdet.models.builder import DETECTORS, build_head
from mmdet.models.detectors import RetinaNet

from pipeline.methods.shared.detect_then_segment import DetectThenSegment


@DETECTORS.register_module()
class ShapeMaskRetinaNet(DetectThenSegment, RetinaNet):
    """RetinaNet with masks: learned on jittered boxes of objects, predicted in those that it detects.

    Args:
        roi_head: configuration of `ShapeMaskRoIHead` without box head; it shares this detector's `test_cfg`.
        kwargs: as `RetinaNet`; `test_cfg` has `mask_thr_binary`.
    """

    def __init__(self, roi_head, **kwargs):
        super().__init__(**kwargs)
        self.roi_head = build_head({**roi_head, "train_cfg": None, "test_cfg": self.bbox_head.test_cfg})

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
