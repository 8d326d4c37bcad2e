"""Box heads whose last layers describe the classes to a mask head.

Legend: K classes, C channels that the last layers see.
"""

import torch
from mmdet.models.builder import HEADS
from torch import Tensor

from pipeline.methods.shared.cam_box_head import CAMBoxHead
from pipeline.methods.shared.fc_box_head import FCBoxHead


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
class DescribingFCBoxHead(Describing, FCBoxHead):
    """The box head of the released code: two fully connected layers on all cells of a RoI.

    Args:
        init: classifier and regressor start 'normal' or 'xavier', as of `CAMBoxHead`.
        kwargs: as `FCBoxHead`.
    """

    def __init__(self, init="normal", **kwargs):
        super().__init__(**kwargs)
        if init == "xavier":
            self.init_cfg.append({"type": "Xavier", "layer": "Linear"})
        # Caffe2's Xavier rule counts the inputs alone.
        self.init_cfg.append({"type": "Caffe2Xavier", "override": [{"name": "shared_fcs"}]})
