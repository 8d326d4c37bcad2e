"""A backbone for weights of Detectron, which want blue first and 0 to 255 less the mean."""

import torch
from mmdet.models.backbones import ResNet
from mmdet.models.builder import BACKBONES
from torch import Tensor

from pipeline.tasks.instances.steps import IMAGE_NORM


@BACKBONES.register_module()
class BlueFirstResNet(ResNet):
    """A ResNet with such weights that takes images as all models here do: red first, and of deviation one.

    Both subtract the same means, so that scale and order make the difference, in padding too. Arguments: `ResNet`'s.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("deviation", torch.tensor(IMAGE_NORM["std"])[:, None, None], persistent=False)

    def forward(self, images: Tensor):
        """Features of the stages, of images [B, 3, H, W]."""
        return super().forward((images * self.deviation).flip(1))
