"""CPMask's class-agnostic mask head: boundary parsing, then convolutions with a supervised non-local block.

Legend: R RoIs, C channels of a RoI feature, H and W its cells, N = H x W.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, kaiming_init, normal_init
from mmcv.runner import ModuleList
from mmdet.models.builder import HEADS
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from pipeline.methods.shared.cpmask.affinity import AffinityBlock, affinity_loss
from pipeline.methods.shared.cpmask.boundary import boundary

PREDICTOR_STD = 0.001


@HEADS.register_module()
class CPMaskHead(FCNMaskHead):
    """Predict a mask and its boundary for each RoI.

    Convolutions on the RoI feature x give b, from which the boundary is predicted. x + b * gate, with one gate for all
    channels of a cell from x and b, goes through a 1x1 convolution with group norm and ReLU into the mask branch:
    convolutions, `AffinityBlock`, deconvolution, one map.

    Args:
        in_channels: C; the boundary branch is as wide, because it is added.
        boundary_convs: its convolutions.
        norm_groups: of the group norm behind the 1x1 convolution.
        boundary_loss_weight, affinity_loss_weight: weights of the losses beside the masks'.
        affinity_gradient: let the affinity loss train; the authors' code only reports it.
        affinity_norm_init: as `AffinityBlock`.
        kwargs: as `FCNMaskHead`; `norm_cfg` is of the 3x3 convolutions, the authors have none.
    """

    def __init__(
        self,
        in_channels,
        boundary_convs,
        norm_groups,
        boundary_loss_weight,
        affinity_loss_weight,
        affinity_gradient,
        affinity_norm_init="ones",
        **kwargs,
    ):
        super().__init__(in_channels=in_channels, class_agnostic=True, **kwargs)
        self.boundary_loss_weight = boundary_loss_weight
        self.affinity_loss_weight = affinity_loss_weight
        self.affinity_gradient = affinity_gradient
        self.boundary_convs = ModuleList(
            [ConvModule(in_channels, in_channels, 3, padding=1, norm_cfg=self.norm_cfg) for _ in range(boundary_convs)]
        )
        self.boundary_upsample = nn.ConvTranspose2d(in_channels, in_channels, 2, 2)
        self.boundary_logits = nn.Conv2d(in_channels, 1, 1)
        self.boundary_gate = nn.Conv2d(2 * in_channels, 1, 1)
        self.transform = ConvModule(in_channels, in_channels, 1, norm_cfg={"type": "GN", "num_groups": norm_groups})
        self.affinity = AffinityBlock(self.conv_out_channels if self.num_convs else in_channels, affinity_norm_init)

    def init_weights(self):
        """Kaiming's rule by the outputs, normal; predictors close to zero; biases zero."""
        super().init_weights()
        for layer in (self.boundary_upsample, self.boundary_gate):
            kaiming_init(layer)
        for layer in (self.conv_logits, self.boundary_logits):
            normal_init(layer, std=PREDICTOR_STD)

    def forward(self, roi_features: Tensor) -> Tensor:
        """Predict mask logits [R, 1, 2H, 2W] of RoI features [R, C, H, W]."""
        return self._masks(self._gated(roi_features, self._parsed(roi_features)), None)[0]

    def forward_with_boundary(self, roi_features: Tensor, counted: Tensor | None = None):
        """As `forward`, with what else is trained.

        Args:
            roi_features: [R, C, H, W].
            counted: [R] bool, RoIs in the batch statistics; None for all.

        Returns:
            Logits of masks and of boundaries [R, 1, 2H, 2W], and the affinity [R, N, N] of `AffinityBlock`.
        """
        parsed = self._parsed(roi_features)
        boundaries = self.boundary_logits(self.boundary_upsample(parsed).relu())
        masks, affinity = self._masks(self._gated(roi_features, parsed), counted)
        return masks, boundaries, affinity

    def _parsed(self, x):
        for conv in self.boundary_convs:
            x = conv(x)
        return x

    def _gate(self, x, parsed):
        return self.boundary_gate(torch.cat([x, parsed], 1)).sigmoid()

    def _gated(self, x, parsed):
        return self.transform(x + parsed * self._gate(x, parsed))

    def _masks(self, x, counted):
        for conv in self.convs:
            x = conv(x)
        x, affinity = self.affinity(x, counted)
        return self.conv_logits(self.upsample(x).relu()), affinity

    def loss(
        self, mask_pred: Tensor, boundary_pred: Tensor, affinity: Tensor, mask_targets: Tensor, in_loss: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the RoIs in the loss; 0 with a graph without any.

        Args:
            mask_pred, boundary_pred: [R, 1, h, w] logits.
            affinity: [R, N, N].
            mask_targets: [R, h, w] bool.
            in_loss: [R] bool.

        Returns:
            `loss_mask` and `loss_boundary`, binary cross-entropy over all cells, and `loss_affinity`.
        """
        if not self.affinity_gradient:
            # The detached value and a graph without effect: every parameter is reached in every process.
            affinity = affinity.detach() + 0 * affinity
        return {
            "loss_mask": _cross_entropy(mask_pred, mask_targets, in_loss),
            "loss_boundary": self.boundary_loss_weight * _cross_entropy(boundary_pred, boundary(mask_targets), in_loss),
            "loss_affinity": self.affinity_loss_weight * affinity_loss(affinity, mask_targets, in_loss),
        }


def _cross_entropy(logits, targets, in_loss):
    """Mean over the cells of the RoIs in the loss."""
    cells = F.binary_cross_entropy_with_logits(logits[:, 0].float(), targets.float(), reduction="none")
    return (cells.mean((-2, -1)) * in_loss).sum() / in_loss.sum().clamp(min=1)
