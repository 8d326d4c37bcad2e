"""The MMDetection configuration of OPMask."""

from pipeline.methods.opmask.knobs import Knobs
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

WIDENING = 4  # the released trunk ends with so many times the channels that the box head of the paper has


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`.

    Sizes that a profile does not name follow from those that it does: the own box head has `box_shared_convs`
    convolutions and ends at four times `box_channels` (4 and 1024 at full size); the mask head has
    `2 * mask_convs - 1` convolutions (7 at full size).
    """
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    roi_head = two_stage.with_cam({"type": "PartialRoIHead", **parts}, knobs, sizes)
    norm = {"type": "RoIBatchNorm", "over_processes": knobs.head_norm == "sync", "variance": knobs.sync_variance}
    if knobs.box_head == "own":
        roi_head["bbox_head"] = _own_box_head(roi_head["bbox_head"], sizes, norm)
    roi_head["mask_head"] = roi_head["mask_head"] | {
        "type": "NormalisedMaskHead",
        "num_convs": 2 * sizes.mask_convs - 1,
        "norm_cfg": norm,
    }
    return two_stage.mask_detector(sizes, backbone, roi_head)


def _own_box_head(box_head, sizes, norm):
    """One trunk for classification and regression, pooled for both."""
    return box_head | {
        "type": "WideningBoxHead",
        "conv_out_channels": WIDENING * sizes.box_channels,
        "num_cls_convs": 0,
        "num_reg_convs": 0,
        "pool_regression": True,
        "norm_cfg": norm,
    }
