"""Class-agnostic mask head whose input is the RoI feature joined with the CAM and the contrastive feature."""

import torch
import torch.nn.functional as F
from mmcv.runner import auto_fp16, force_fp32
from mmdet.models.builder import HEADS
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor


@HEADS.register_module()
class ClassAgnosticMaskHead(FCNMaskHead):
    """Predict one mask per RoI from what joins its feature (paper Fig. 5).

    Args:
        join: 'sum' adds the contrastive feature, 'concat' appends it (D1).
        join_channels: channels of the contrastive feature if it is appended, else 0.
        cam_scale: factor on the normalised CAM before it is added to every channel.
        in_channels: channels of the RoI feature.
        kwargs: as `FCNMaskHead`.
    """

    def __init__(self, in_channels, join="sum", join_channels=0, cam_scale=1.0, **kwargs):
        appended = join_channels if join == "concat" else 0
        super().__init__(in_channels=in_channels + appended, class_agnostic=True, **kwargs)
        self.join = join
        self.cam_scale = cam_scale

    @auto_fp16(apply_to=("roi_features", "contrastive"))
    def forward(self, roi_features: Tensor, cam: Tensor | None = None, contrastive: Tensor | None = None) -> Tensor:
        """Predict mask logits [R, 1, 2H, 2W].

        Args:
            roi_features: [R, C, H, W].
            cam: [R, 1, H, W] in [0, 1], or None.
            contrastive: [R, C, H, W] from the CL head (any number of channels if appended), or None.
        """
        x = roi_features
        if cam is not None:
            x = x + self.cam_scale * cam.to(x.dtype)
        if contrastive is not None:
            x = x + contrastive if self.join == "sum" else torch.cat([x, contrastive], dim=1)
        return super().forward(x)

    @force_fp32(apply_to=("mask_pred",))
    def loss(self, mask_pred: Tensor, mask_targets: Tensor, in_loss: Tensor) -> dict[str, Tensor]:
        """Average the binary cross-entropy over the cells of the RoIs in the loss.

        Args:
            mask_pred: [R, 1, H, W] logits.
            mask_targets: [R, H, W] 0/1.
            in_loss: [R] bool; without any True the loss is 0 and keeps its graph.

        Returns:
            {'loss_mask': scalar}.
        """
        cells = F.binary_cross_entropy_with_logits(mask_pred[:, 0], mask_targets.to(mask_pred.dtype), reduction="none")
        rois = cells.mean((-2, -1)) * in_loss
        return {"loss_mask": rois.sum() / in_loss.sum().clamp(min=1)}
