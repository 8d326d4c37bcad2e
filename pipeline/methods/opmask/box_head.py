"""The box head of the released code: one trunk for classes and boxes."""

from mmcv.cnn import ConvModule
from mmdet.models.builder import HEADS
from torch import nn

from pipeline.methods.shared.cam_box_head import CAMBoxHead


@HEADS.register_module()
class WideningBoxHead(CAMBoxHead):
    """`CAMBoxHead` whose convolutions double the channels until `conv_out_channels`, which is the last one's width.

    Classifier and regressor sit on the pooled output of the same trunk. Arguments as of `CAMBoxHead`.
    """

    def _add_conv_fc_branch(self, num_branch_convs, num_branch_fcs, in_channels, is_shared=False):
        """As `ConvFCBBoxHead`, of growing widths. Raises ValueError for fully connected layers."""
        if num_branch_fcs:
            raise ValueError("a class activation map needs a box head without fully connected layers")
        convs, width = nn.ModuleList(), in_channels
        for _ in range(num_branch_convs):
            wider = min(2 * width, self.conv_out_channels)
            convs.append(ConvModule(width, wider, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg))
            width = wider
        return convs, nn.ModuleList(), width
