"""What detectors of one stage have in common that get masks from a RoI head without a box head."""

import torch
from mmdet.core import bbox2result

DUMMIES = 100  # boxes whose masks are counted


class DetectThenSegment:
    """To stand before a detector of MMDetection that has `bbox_head`, and `roi_head` with `segment`."""

    def forward_dummy(self, img):
        """Run all layers, for counting operations; masks of stand-in boxes."""
        x = self.extract_feat(img)
        return self.bbox_head(x), self.roi_head.forward_dummy(x, torch.rand(DUMMIES, 4, device=img.device))

    def simple_test(self, img, img_metas, rescale=False):
        """Detect and segment; per image (boxes per class, masks per class) in MMDetection's format."""
        x = self.extract_feat(img)
        boxes, labels = zip(*self.bbox_head.simple_test(x, img_metas, rescale=rescale), strict=True)
        masks = self.roi_head.segment(x, boxes, labels, img_metas, rescale)
        found = [bbox2result(b, c, self.bbox_head.num_classes) for b, c in zip(boxes, labels, strict=True)]
        return list(zip(found, masks, strict=True))

    def aug_test(self, imgs, img_metas, rescale=False):
        """Refuse: the masks of several views are not averaged here, as they are not in the released codes."""
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation; test one view")
