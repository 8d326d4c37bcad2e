"""RoI head of CPMask: masks learned on the boxes of the base objects themselves, or on all positive base RoIs."""

import torch
from mmdet.core import bbox2roi
from mmdet.models.builder import HEADS
from torch import Tensor

from pipeline.methods.shared import mask_targets, partial_roi_head
from pipeline.methods.shared.partial_roi_head import EVERY, PartialRoIHead, scalar

BASE_GT = "base_gt"


@HEADS.register_module()
class CPMaskRoIHead(PartialRoIHead):
    """Segment with `CPMaskHead`; boxes, if it has a box head, are those of `PartialRoIHead`.

    `mask_loss_rois: base_gt` takes the boxes of all base objects, as the authors' code does, and not those of them that
    the sampler draws.
    """

    def init_assigner_sampler(self):
        if self.with_bbox:
            super().init_assigner_sampler()

    def forward_train(self, x, img_metas, proposal_list, gt_bboxes, *args, **kwargs):
        """As `PartialRoIHead.forward_train`."""
        return super().forward_train(x, img_metas, proposal_list, gt_bboxes, *args, objects=gt_bboxes, **kwargs)

    def _mask_losses(self, x, sampled, cam_features, gt_masks, gt_is_novel, targets):
        boxes, owners = training_rois(self.mask_loss_rois, sampled, targets["objects"])
        return self.mask_losses(x, boxes, owners, gt_masks, gt_is_novel)

    def mask_losses(self, x, boxes, owners, gt_masks, gt_is_novel):
        """Losses of masks by name; statistics of the batch are in `self.statistics`.

        Args:
            x: feature pyramid.
            boxes: [r, 4] per image.
            owners: [r] int64 per image, index of each box's object.
            gt_masks: masks per image; those of novel objects are placeholders, never used.
            gt_is_novel: [G] bool per image.
        """
        rois = bbox2roi(boxes)
        pairs = zip(gt_is_novel, owners, strict=True)
        in_loss = ~torch.cat([flags.to(rois.device, torch.bool)[of_boxes] for flags, of_boxes in pairs])
        rows = partial_roi_head.needed(in_loss)
        # Whatever stands in for the masks of novel objects is wiped before anything can see it.
        masks = mask_targets.crop(boxes, owners, gt_masks, self.train_cfg.mask_size) & in_loss[:, None, None]
        features = self._roi_features(x, rois[rows])
        predicted = self.mask_head.forward_with_boundary(features, in_loss[rows])
        self.statistics = {"mask_rois": scalar(len(in_loss), in_loss), "mask_loss_rois": in_loss.sum()}
        return self.mask_head.loss(*predicted, masks[rows], in_loss[rows])

    def segment(self, x, boxes, labels, img_metas, rescale):
        """Masks by class of each image, of boxes with score [D, 5] that were detected with labels [D]."""
        return self._segment(x, boxes, labels, None, img_metas, rescale)

    def _mask_features(self, x, rois, cam, rows=EVERY):
        return {"mask_pred": self.mask_head(self._roi_features(x, rois[rows]))}

    def _roi_features(self, x, rois):
        return self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)


def training_rois(mask_loss_rois: str, sampled, objects) -> tuple[list[Tensor], list[Tensor]]:
    """RoIs of images that masks are learned on, if their object is of a base category.

    Args:
        mask_loss_rois: 'base_gt', the objects' own boxes whatever was detected, or 'base_positives', positive RoIs.
        sampled: `SampledRoIs` per image; not looked at for the former.
        objects: boxes [G, 4] per image.

    Returns:
        Boxes [r, 4] and indices of their objects [r] int64, per image.
    """
    if mask_loss_rois == BASE_GT:
        return list(objects), [torch.arange(len(boxes), device=boxes.device) for boxes in objects]
    return [image.pos_bboxes for image in sampled], [image.pos_assigned_gt_inds for image in sampled]
