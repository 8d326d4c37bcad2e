"""Mask R-CNN's box head of two fully connected layers, with what `PartialRoIHead` asks of a box head."""

from mmdet.models.builder import HEADS
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from torch import Tensor

from pipeline.methods.shared.cam_box_head import CAMBoxHead


@HEADS.register_module()
class FCBoxHead(CAMBoxHead):
    """Classify and regress RoIs from fully connected layers, class-specific boxes; it has no class activation map.

    Detections and losses are `CAMBoxHead`'s.

    Args:
        num_shared_fcs: layers that classification and regression share.
        fc_out_channels: their width.
        kwargs: as `ConvFCBBoxHead`.
    """

    def __init__(self, num_shared_fcs=2, fc_out_channels=1024, **kwargs):
        ConvFCBBoxHead.__init__(self, num_shared_fcs=num_shared_fcs, fc_out_channels=fc_out_channels, **kwargs)

    def forward_with_features(self, roi_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class logits, box deltas and the output [R, fc_out_channels] of the last shared layer."""
        features = roi_features.flatten(1)
        for layer in self.shared_fcs:
            features = self.relu(layer(features))
        return self.fc_cls(features), self.fc_reg(features), features

    def activation_maps(self, features: Tensor, labels: Tensor) -> Tensor:
        """Refuse: nothing here is a map."""
        raise TypeError("FCBoxHead has no class activation map")
