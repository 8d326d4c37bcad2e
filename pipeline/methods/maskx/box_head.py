"""Box heads whose last layers describe the classes to a mask head.

Legend: K classes, C channels that the last layers see.
"""

import torch
from mmdet.models.builder import HEADS
from torch import Tensor, nn

from pipeline.methods.shared.cam_box_head import CAMBoxHead


class Describing:
    """What a box head with `fc_cls` and `fc_reg` adds: a vector for each class, and the class of a RoI as its map."""

    def class_vectors(self, parts: str = "both", detach: bool = True) -> Tensor:
        """Return the weights of each class: [K, C] of its classifier, [K, 4C] of its box (all of x, then y, w, h).

        A regressor that sees every cell of a RoI counts with its mean over the cells. Biases are no part of it.

        Args:
            parts: 'classes', 'boxes' or 'both', one behind the other.
            detach: stop gradients at the weights.
        """
        classes = self.fc_cls.weight[: self.num_classes]  # the background is last
        boxes = self.fc_reg.weight.view(self.num_classes, 4, classes.shape[1], -1).mean(-1).flatten(1)
        vectors = torch.cat({"classes": [classes], "boxes": [boxes], "both": [classes, boxes]}[parts], 1)
        return vectors.detach() if detach else vectors

    def activation_maps(self, features: Tensor, labels: Tensor) -> Tensor:
        """What the mask head is told of each RoI: its class, `labels` [R]."""
        return labels


@HEADS.register_module()
class DescribingBoxHead(Describing, CAMBoxHead):
    """The convolutional box head of the shared detector."""


@HEADS.register_module()
class DescribingFCBoxHead(Describing, CAMBoxHead):
    """The box head of the released code: two fully connected layers on all cells of a RoI.

    Args:
        fc_out_channels: their width.
        kwargs: as `CAMBoxHead`, without convolutions.
    """

    def __init__(self, fc_out_channels, **kwargs):
        super().__init__(num_shared_fcs=2, fc_out_channels=fc_out_channels, **kwargs)
        self.shared_fcs[0] = nn.Linear(self.in_channels * self.roi_feat_area, fc_out_channels)
        # Caffe2's Xavier rule counts the inputs alone.
        self.init_cfg.append({"type": "Caffe2Xavier", "override": [{"name": "shared_fcs"}]})

    def forward_with_features(self, roi_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits [R, K + 1], box deltas [R, 4K] and what both were computed from, [R, C]."""
        x = roi_features.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x), x
