"""RoI head of ShapeProp: the baseline's, with a shape head that sees every sampled RoI."""

import torch
from mmdet.core import bbox2roi
from mmdet.models.builder import HEADS, build_head
from torch import Tensor

from pipeline.methods.shared.partial_roi_head import EVERY, PartialRoIHead, needed, scalar


@HEADS.register_module()
class ShapePropRoIHead(PartialRoIHead):
    """Segment with the shape that message passing makes of the class activation.

    Class maps are trained on all sampled RoIs, background among them, by boxes alone; shapes and masks on positive base
    RoIs. Novel RoIs get a shape as base ones do: in training nothing reads it, so it is computed on a GPU only, where
    leaving it out would cost a read (`needed`). Shape and mask head pool the same cells of the same RoIs, which happens
    once. No gradient is stopped: losses of shapes and masks reach the class maps through the saliency.

    Args:
        shape_head: configuration of `ShapeHead`.
        kwargs: as `PartialRoIHead`, without a CAM.
    """

    def __init__(self, shape_head, **kwargs):
        # What stands for the CAM here is the shape: of a detection's refined box and its category.
        super().__init__(use_cam=False, cam_frame="refined", **kwargs)
        self.shape_head = build_head(shape_head)

    # Training

    def _mask_losses(self, x, sampled, cam_features, gt_masks, gt_is_novel, targets):
        features = self._pooled(x, bbox2roi([result.bboxes for result in sampled]))
        labels, is_positive = self._labels(sampled)
        class_maps, activation_features = self.shape_head.activate(features)
        loss_activating = self.shape_head.activation_loss(class_maps, labels)
        is_novel = torch.cat(
            [
                flags.to(features.device, torch.bool)[result.pos_assigned_gt_inds]
                for flags, result in zip(gt_is_novel, sampled, strict=True)
            ]
        )
        in_loss = ~is_novel
        if self.mask_loss_rois == "base_gt":
            in_loss = in_loss & torch.cat([result.pos_is_gt for result in sampled])
        rows = EVERY if self._rois_mix else needed(in_loss)
        among_all = is_positive[rows]
        shapes = self.shape_head.shapes(
            self.shape_head.saliency(class_maps[among_all], labels[among_all]),
            self.shape_head.weights(features[among_all], activation_features[among_all]),
        )
        # Whatever stands in for the masks of novel objects is wiped before anything can see it.
        known = ~is_novel[:, None, None]
        small = (self._mask_targets(sampled, gt_masks, shapes.shape[-1]) & known)[rows]
        masks = (self._mask_targets(sampled, gt_masks, self.train_cfg.mask_size) & known)[rows]
        logits = self.mask_head(features[among_all], shapes)
        self.statistics = {"positive_rois": scalar(len(is_novel), is_novel), "mask_loss_rois": in_loss.sum()}
        return self.mask_head.loss(logits, masks, in_loss[rows]) | {
            "loss_activating": loss_activating,
            "loss_propagating": self.shape_head.propagation_loss(shapes, small, in_loss[rows]),
        }

    def _labels(self, sampled) -> tuple[Tensor, Tensor]:
        """Categories of all sampled RoIs [R], background among them, and the rows [P] of the positive ones."""
        labels, rows, first = [], [], 0
        for result in sampled:
            positive, count = result.pos_gt_labels, len(result.bboxes)
            background = positive.new_full((count - len(positive),), self.bbox_head.num_classes)
            labels += [positive, background]
            rows.append(torch.arange(first, first + len(positive), device=positive.device))
            first += count
        return torch.cat(labels), torch.cat(rows)

    # Both

    def _pooled(self, x, rois):
        return self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)

    def _mask_features(self, x, rois, cam, rows=EVERY):
        """As `PartialRoIHead`; `cam` is the shape activation [R, 1, H, W] of `_refined_cam`."""
        return {"mask_pred": self.mask_head(self._pooled(x, rois[rows]), cam[rows])}

    def _refined_cam(self, x, rois, labels=None):
        """Give shape activations [R, 1, H, W] on given boxes; without labels, of the best-scored category."""
        if labels is None:
            labels = self._bbox_forward(x, rois)["cls_score"][:, :-1].argmax(1)
        return self.shape_head(self._pooled(x, rois), labels)
