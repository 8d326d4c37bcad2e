"""Mask head whose last layer is predicted for each class.

Legend: K classes, D length of a class vector, M RoIs, C channels, H and W cells of a RoI feature.
"""

import torch
from mmcv.runner import auto_fp16
from mmdet.models.builder import HEADS
from torch import Tensor, nn

from pipeline.methods.shared.class_agnostic_mask_head import ClassAgnosticMaskHead

SLOPE = 0.1  # of the leaky rectifier
MLP_STD = 0.001


class WeightTransfer(nn.Sequential):
    """Predict mask weights [K, C] from class vectors [K, D]: linear layers, and an activation between them.

    Args:
        described_by: D.
        channels: C, also of the layers between.
        layers: how many.
        activation: 'leaky' or 'relu'.
    """

    def __init__(self, described_by, channels, layers=2, activation="leaky"):
        parts, width = [], described_by
        for _ in range(layers):
            parts += [nn.Linear(width, channels), nn.LeakyReLU(SLOPE) if activation == "leaky" else nn.ReLU()]
            width = channels
        super().__init__(*parts[:-1])

    def init_weights(self):
        for layer in self:
            if isinstance(layer, nn.Linear):
                # By the number of outputs: Caffe2's MSRA rule, whatever the number of inputs.
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)


@HEADS.register_module()
class TransferMaskHead(ClassAgnosticMaskHead):
    """Convolutions and a deconvolution as in Mask R-CNN, then a 1x1 convolution with the weights of the RoI's class.

    Only the map of a RoI's own class is computed, so predictions look like class-agnostic ones.

    Args:
        described_by: length of a class vector.
        transfer_layers, transfer_activation: as of `WeightTransfer`.
        mlp_layers: fully connected layers of a branch that gives one map for all classes, which is added; 0: none.
        mlp_channels: width of those between.
        kwargs: as `ClassAgnosticMaskHead`; `roi_feat_size` counts.
    """

    def __init__(self, described_by, transfer_layers, transfer_activation, mlp_layers, mlp_channels, **kwargs):
        super().__init__(**kwargs)
        self.conv_logits = None
        channels = self.conv_out_channels
        self.transfer = WeightTransfer(described_by, channels, transfer_layers, transfer_activation)
        cells = self.scale_factor**2 * self.roi_feat_size[0] * self.roi_feat_size[1]
        widths = [channels * cells, *[mlp_channels] * (mlp_layers - 1), cells] if mlp_layers else []
        parts = [part for pair in zip(widths, widths[1:], strict=False) for part in (nn.Linear(*pair), nn.ReLU())]
        self.mlp = nn.Sequential(*parts[:-1]) if mlp_layers else None

    def init_weights(self):
        super().init_weights()  # and with it that of the transfer
        for layer in self.mlp or ():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=MLP_STD)
                nn.init.zeros_(layer.bias)

    @auto_fp16(apply_to=("roi_features",))
    def forward(self, roi_features: Tensor, labels: Tensor, class_vectors: Tensor) -> Tensor:
        """Predict mask logits [M, 1, 2H, 2W] of each RoI for its class.

        Args:
            roi_features: [M, C', H, W].
            labels: [M] int64.
            class_vectors: [K, D].
        """
        x = self.features(roi_features)
        weights = self.transfer(class_vectors)  # once for all RoIs
        logits = torch.einsum("mchw,mc->mhw", x, weights[labels].to(x.dtype))[:, None]
        if self.mlp is not None:
            logits = logits + self.mlp(x.flatten(1)).view_as(logits)
        return logits

    def features(self, roi_features: Tensor) -> Tensor:
        """Return what the last layer sees, [M, C, 2H, 2W]."""
        x = roi_features
        for conv in self.convs:
            x = conv(x)
        return self.relu(self.upsample(x))
