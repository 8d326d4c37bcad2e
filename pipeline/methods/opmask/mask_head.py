"""The mask head of the released code."""

from mmdet.models.builder import HEADS
from torch import nn

from pipeline.methods.shared.class_agnostic_mask_head import ClassAgnosticMaskHead

PREDICTOR_STD = 0.001


@HEADS.register_module()
class NormalisedMaskHead(ClassAgnosticMaskHead):
    """`ClassAgnosticMaskHead` with a small last layer: masks start undecided. Arguments as of that, with a norm."""

    def init_weights(self):
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, std=PREDICTOR_STD)
