"""MMDetection's RoI extractor with one read: how many RoIs each level of the pyramid has."""

import torch
from mmdet.models.builder import ROI_EXTRACTORS
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor


@ROI_EXTRACTORS.register_module()
class SortedRoIExtractor(SingleRoIExtractor):
    """`SingleRoIExtractor` that sorts the RoIs by level instead of searching them level by level; same features."""

    def forward(self, feats, rois: Tensor, roi_scale_factor=None) -> Tensor:
        """Pool each RoI from the level of its size.

        Args:
            feats: pyramid levels [B, C, h, w].
            rois: [R, 5].
            roi_scale_factor: as `SingleRoIExtractor`.

        Returns:
            [R, C, size, size].
        """
        if torch.onnx.is_in_onnx_export() or len(feats) == 1 or not len(rois):
            return super().forward(feats, rois, roi_scale_factor)
        level = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        order = level.argsort(stable=True)
        counts = (level[:, None] == torch.arange(len(feats), device=level.device)).sum(0).tolist()
        pooled = [
            pool(features, of_level)
            for pool, features, of_level in zip(self.roi_layers, feats, rois[order].split(counts), strict=True)
            if len(of_level)
        ]
        found = torch.cat(pooled)[order.argsort()]
        # Levels without a RoI stay in the graph, or processes of a training would wait for their gradients.
        unused = [features for features, count in zip(feats, counts, strict=True) if not count]
        return found + sum(features.sum() for features in unused) * 0.0 if unused else found
