"""Mask head of ShapeProp: class-agnostic, with the encoded shape appended to the RoI feature.

Legend: R RoIs, C channels, H and W cells of a RoI.
"""

from mmdet.models.builder import HEADS
from torch import Tensor

from pipeline.methods.shapeprop.shape_head import convolutions
from pipeline.methods.shared.cam import resize_map
from pipeline.methods.shared.class_agnostic_mask_head import ClassAgnosticMaskHead

EPSILON = 1e-5  # beside a shape's maximum


def positive_share(shapes: Tensor) -> Tensor:
    """Scale the positive part of each shape activation [R, 1, H, W] to [0, 1).

    One without a positive cell becomes zero and carries no gradient; else the gradient reaches the maximum too.
    """
    positive = shapes.float().relu()
    return positive / (positive.amax((-2, -1), keepdim=True) + EPSILON)


@HEADS.register_module()
class ShapePropMaskHead(ClassAgnosticMaskHead):
    """Predict one mask per RoI from its feature and the encoding of its shape, which is appended to it.

    Args:
        in_channels: channels of the RoI feature.
        shape_convs, shape_channels: convolutions that encode the shape, and their width.
        kwargs: as `ClassAgnosticMaskHead`.
    """

    def __init__(self, in_channels=256, shape_convs=4, shape_channels=256, norm_cfg=None, **kwargs):
        super().__init__(
            in_channels=in_channels, join="concat", join_channels=shape_channels, norm_cfg=norm_cfg, **kwargs
        )
        self.shape_encoder = convolutions(1, [shape_channels] * shape_convs, norm_cfg=norm_cfg)

    def encode(self, shapes: Tensor) -> Tensor:
        """Encode shape activations [R, 1, h, w], logits: [R, shape_channels, h, w]."""
        return self.shape_encoder(positive_share(shapes))

    def forward(self, roi_features: Tensor, shapes: Tensor) -> Tensor:
        """Predict mask logits [R, 1, 2H, 2W].

        Args:
            roi_features: [R, C, H, W].
            shapes: [R, 1, h, w] logits of `ShapeHead`; their encoding is resized to the RoI feature's cells.
        """
        encoded = resize_map(self.encode(shapes), roi_features.shape[-1])
        return super().forward(roi_features, None, encoded.to(roi_features.dtype))
