"""RoI features of ShapeMask: one bilinear sample a cell, counted from the centre of the first pixel of a level."""

import torch
from mmdet.models.builder import ROI_EXTRACTORS
from torch import Tensor

from pipeline.methods.shared.roi_extractor import SortedRoIExtractor


@ROI_EXTRACTORS.register_module()
class UnshiftedRoIExtractor(SortedRoIExtractor):
    """Sample at a RoI's coordinates divided by the stride of its level, without half a pixel's shift.

    What RoIAlign calls `aligned: False` is that, too, but enlarges RoIs below one cell; so the aligned form samples
    RoIs that are moved by half a stride.

    Args:
        first_level: of the pyramid's levels, the finest one that features are taken from.
        kwargs: as `SortedRoIExtractor`; the layer is RoIAlign in its aligned form.
    """

    def __init__(self, first_level=0, **kwargs):
        super().__init__(**kwargs)
        self.first_level = first_level

    @property
    def num_inputs(self):
        """Levels that the caller hands in, those before the first one that is used included."""
        return self.first_level + len(self.featmap_strides)

    def forward(self, feats, rois: Tensor, roi_scale_factor=None) -> Tensor:
        """As `SortedRoIExtractor.forward`; `feats` are `num_inputs` levels."""
        feats = feats[self.first_level :]
        strides = rois.new_tensor(self.featmap_strides)[self.map_roi_levels(rois, len(feats))]
        shift = torch.cat([torch.zeros_like(rois[:, :1]), (0.5 * strides)[:, None].expand(-1, 4)], 1)
        return super().forward(feats, rois + shift, roi_scale_factor)
