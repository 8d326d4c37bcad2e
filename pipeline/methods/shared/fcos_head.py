"""FCOS's head with the score of the paper's second version: the root of class score times centre-ness."""

from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import FCOSHead


@HEADS.register_module()
class RootScoreFCOSHead(FCOSHead):
    """`FCOSHead`, whose detections carry the root of the product; their order, and which are left, is the same."""

    def _bbox_post_process(self, *args, **kwargs):
        found = super()._bbox_post_process(*args, **kwargs)
        if len(found) == 2:  # detections and labels; without NMS scores stand apart
            found[0][:, 4].sqrt_()
        return found
