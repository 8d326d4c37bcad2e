"""The backbone of released checkpoints."""

import torch
from mmdet.models.backbones import ResNet
from mmdet.models.builder import BACKBONES
from torch import Tensor

from pipeline.tasks.instances.steps import IMAGE_NORM


@BACKBONES.register_module()
class BGRResNet(ResNet):
    """A ResNet whose weights want blue first and 0 to 255 less the mean; it takes images as all models here do.

    Both subtract the same means, so that it is a matter of scale and order, also in the padding. Arguments as `ResNet`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        scale = torch.tensor(IMAGE_NORM["std"])[:, None, None]
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, images: Tensor):
        """Return the stages' features of images [B, 3, H, W], normalised and red first."""
        return super().forward((images * self.scale).flip(1))
