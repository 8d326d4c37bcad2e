"""Box head whose classification branch is convolutional up to its average pool, so that it yields CAMs."""

import torch
from mmdet.core import multiclass_nms
from mmdet.models.builder import HEADS
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from torch import Tensor, nn

from pipeline.methods.shared.cam import class_activation_maps
from pipeline.methods.shared.padded import rows_at


@HEADS.register_module()
class CAMBoxHead(ConvFCBBoxHead):
    """Classify and regress RoIs, keeping the features that class activation maps are made of (spec D23, D24).

    Shared 3x3 convolutions, one more branch of them for classification and one for regression, average pool, one linear
    layer each. There are no fully connected layers in between.

    Args:
        pool_regression: average-pool the regression branch too (released code), or keep its cells apart.
        detach_classifier: keep the CAM from training the classifier's weight (D4).
        init: classifier and regressor start 'normal' with standard deviations 0.01 and 0.001, or 'xavier' with
            sqrt(2 / (inputs + outputs)), 0.077 and 0.059 at full size (D23b). MMDetection 2.14, which the released code
            uses, states the former and then lets the Xavier rule of the fully connected layers overwrite it: that rule
            names every linear layer. Later versions keep the former.
        kwargs: as `ConvFCBBoxHead`, without fully connected layers.
    """

    def __init__(self, pool_regression=True, detach_classifier=True, init="normal", **kwargs):
        super().__init__(with_avg_pool=True, **kwargs)
        if init == "xavier":
            self.init_cfg.append({"type": "Xavier", "layer": "Linear"})
        self.pool_regression = pool_regression
        self.detach_classifier = detach_classifier
        if not pool_regression:
            self.fc_reg = nn.Linear(self.fc_reg.in_features * self.roi_feat_area, self.fc_reg.out_features)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits [R, K + 1] and box deltas [R, 4K] of RoI features [R, C, h, w]."""
        return self.forward_with_features(roi_features)[:2]

    def forward_with_features(self, roi_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits, box deltas and the classification branch's last feature map [R, C, h, w]."""
        shared = roi_features
        for conv in self.shared_convs:
            shared = conv(shared)
        features = shared
        for conv in self.cls_convs:
            features = conv(features)
        regression = shared
        for conv in self.reg_convs:
            regression = conv(regression)
        regression = regression.mean((-2, -1)) if self.pool_regression else regression.flatten(1)
        return self.fc_cls(features.mean((-2, -1))), self.fc_reg(regression), features

    def activation_maps(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the CAM [R, 1, h, w] of one class for each RoI.

        Args:
            features: [R, C, h, w] from `forward_with_features`.
            labels: [R] int64, class of each RoI.
        """
        weight = self.fc_cls.weight.detach() if self.detach_classifier else self.fc_cls.weight
        return class_activation_maps(features, weight[labels])

    def detect(self, rois, cls_score, bbox_pred, img_shape, scale_factor, rescale, cfg):
        """Turn one image's outputs into detections.

        Args:
            rois: [R, 5] proposals (image, x1, y1, x2, y2) in network-input pixels.
            cls_score: [R, K + 1] logits.
            bbox_pred: [R, 4K] deltas.
            img_shape, scale_factor, rescale, cfg: as `BBoxHead.get_bboxes`.

        Returns:
            Boxes with score [D, 5], labels [D] and for each detection the row of the proposal it came from [D].
        """
        if rois.shape[0] == 0:
            no_index = rois.new_zeros(0, dtype=torch.long)
            return rois.new_zeros(0, 5), no_index, no_index
        boxes, scores = self.get_bboxes(rois, cls_score, bbox_pred, img_shape, scale_factor, rescale=rescale, cfg=None)
        detections, labels, pairs = multiclass_nms(
            boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img, return_inds=True
        )
        # NMS sees one candidate per (proposal, foreground class), in that order.
        return detections, labels, torch.div(pairs, self.num_classes, rounding_mode="floor")

    def loss(self, cls_score, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights):
        """As `BBoxHead.loss` without a look at a value; 0 with a graph when there is not a single RoI.

        Background RoIs are in the sum of the regression loss, with weight 0, instead of being searched and left out.
        """
        if cls_score.shape[0] == 0:
            return {"loss_cls": cls_score.sum(), "loss_bbox": bbox_pred.sum(), "acc": cls_score.new_zeros(1)}
        deltas = bbox_pred.unflatten(1, (-1, 4))
        return {
            "loss_cls": self.loss_cls(
                cls_score, labels, label_weights, avg_factor=(label_weights > 0).sum().clamp(min=1)
            ),
            "acc": accuracy(cls_score, labels),
            "loss_bbox": self.loss_bbox(
                rows_at(deltas, labels[:, None])[:, 0], bbox_targets, bbox_weights, avg_factor=len(labels)
            ),
        }
