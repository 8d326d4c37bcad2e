"""Sizes and thresholds of the two-stage detector: the paper's by default, replaceable for smaller profiles."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.declaration.knobs import List
from pipeline.declaration.strict import Count, Fraction, Natural, NonNegative, Positive, Strict, refused

Whole = Annotated[tuple[Count, ...], List, Field(min_length=1, description="a list of integers")]
Numbers = Annotated[
    tuple[Annotated[int | float, Field(gt=0)], ...], List, Field(min_length=1, description="a list of numbers")
]


class Sizes(Strict):
    """Everything about the model that no experiment turns; the defaults are the paper's full-size model.

    The backbone is not part of it: a run names one.

    Attributes:
        neck_channels: channels of every pyramid level.
        normalise: normalise the convolutions of neck and box head over the batch, those of mask head and CL encoder
            within each RoI (so that it does not matter which RoIs are computed); the paper has no norm there, and
            thousands of steps to do without.
        strides: strides of the pyramid levels, one RPN level each.
        roi_levels: how many of the levels, from the finest, RoIs are pooled from.
        anchor_scales, anchor_ratios: RPN anchors of every level; a scale is in strides.
        rpn_samples, rpn_positive_fraction: anchors in the RPN loss per image.
        rpn_positive_iou, rpn_negative_iou: anchor assignment.
        rpn_pre_nms, rpn_test_pre_nms: proposals per level before NMS in training and testing.
        rpn_post_nms: proposals per image after NMS.
        rpn_nms_iou: proposal NMS.
        finest_scale: box side, in pixels, up to twice which RoIs go to the finest level.
        mask_finest_scale: that of the mask branches, if they are to look closer than the box head.
        sampling_ratio: RoIAlign samples per cell side; 0 adapts.
        roi_aligned: RoIAlign takes half a pixel off, so that pixels of image and level are centred alike; older code
            does not, and takes a box of less than a cell for one.
        rcnn_samples, rcnn_positive_fraction, rcnn_positive_iou: sampled RoIs per image.
        box_roi_size, mask_roi_size, contrast_roi_size: cells on a side of the RoI features of box, mask and CL head.
        box_shared_convs, box_cls_convs, box_reg_convs, box_channels: layers of the box head.
        box_reg_pooled: average-pool the regression branch.
        box_loss_weight: weight of the RoI head's box regression loss.
        mask_convs, mask_channels: layers of the mask head; masks have twice `mask_roi_size` cells.
        cam_scale: factor on the normalised CAM in the mask-head input.
        contrast_channels: width of CL encoder and projector.
        score_threshold, nms_iou, max_detections: detections per image.
        mask_threshold: probability from which a pixel is in the mask.
    """

    neck_channels: Count = 256
    normalise: bool = False
    strides: Whole = (4, 8, 16, 32, 64)
    roi_levels: Count = 4
    anchor_scales: Numbers = (8,)
    anchor_ratios: Numbers = (0.5, 1.0, 2.0)
    rpn_samples: Count = 256
    rpn_positive_fraction: Fraction = 0.5
    rpn_positive_iou: Fraction = 0.7
    rpn_negative_iou: Fraction = 0.3
    rpn_pre_nms: Count = 2000
    rpn_test_pre_nms: Count = 1000
    rpn_post_nms: Count = 1000
    rpn_nms_iou: Fraction = 0.7
    finest_scale: Count = 56
    mask_finest_scale: Count | None = None
    sampling_ratio: Natural = 0
    roi_aligned: bool = True
    rcnn_samples: Count = 512
    rcnn_positive_fraction: Fraction = 0.25
    rcnn_positive_iou: Fraction = 0.5
    box_roi_size: Count = 7
    mask_roi_size: Count = 14
    contrast_roi_size: Count = 28
    box_shared_convs: Natural = 4
    box_cls_convs: Natural = 1
    box_reg_convs: Natural = 2
    box_channels: Count = 256
    box_reg_pooled: bool = True
    box_loss_weight: NonNegative = 1.0
    mask_convs: Natural = 4
    mask_channels: Count = 256
    cam_scale: Positive = 1.0
    contrast_channels: Count = 256
    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.5
    max_detections: Count = 100
    mask_threshold: Fraction = 0.5

    @model_validator(mode="after")
    def _levels_exist(self):
        if not 1 <= self.roi_levels <= len(self.strides):
            raise refused(f"is {self.roi_levels}; valid: 1 to {len(self.strides)}, the number of strides", "roi_levels")
        return self
