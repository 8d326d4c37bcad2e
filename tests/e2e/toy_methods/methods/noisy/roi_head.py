"""The RoI head of a toy method."""

import torch
from mmdet.models.builder import HEADS

from pipeline.methods.shared.partial_roi_head import PartialRoIHead


@HEADS.register_module()
class NoisyRoIHead(PartialRoIHead):
    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise

    def _joined(self, x, rois, features, rows):
        return (self.noise * features.std() * torch.randn_like(features) if self.training else None), {}
