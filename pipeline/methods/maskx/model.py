"""The MMDetection configuration of Mask^X R-CNN."""

from pipeline.methods.maskx.authors import AUTHORS
from pipeline.methods.maskx.knobs import Knobs
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

WIDENING = 4  # the fully connected layers have so many times the channels of the paper's convolutional box head
PARTS = {"classes": 1, "boxes": 4, "both": 5}  # layers of the box head, one of a class and four of its box


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`.

    Sizes that a profile does not name follow from those that it does: the fully connected layers of the own box head,
    and those inside a class-agnostic branch of several layers, have four times `box_channels` (1024 at full size); the
    layers of the transfer are as wide as the mask head, `mask_channels`.
    """
    sizes = AUTHORS.sized(sizes, knobs)
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    box_head, width = parts["bbox_head"] | {"type": "DescribingBoxHead"}, sizes.box_channels
    if knobs.box_head == "own":
        width = WIDENING * sizes.box_channels
        box_head = _own_box_head(box_head, width)
    mask_head = parts["mask_head"] | {
        "type": "TransferMaskHead",
        "roi_feat_size": sizes.mask_roi_size,
        "described_by": PARTS[knobs.transfer_from] * width,
        "transfer_layers": knobs.transfer_layers,
        "transfer_activation": knobs.transfer_activation,
        "mlp_layers": knobs.mlp_layers,
        "mlp_channels": WIDENING * sizes.box_channels,
    }
    roi_head = parts | {"bbox_head": box_head, "mask_head": mask_head}
    roi_head |= {
        "type": "MaskXRoIHead",
        "use_cam": True,  # what the box head tells the mask head of a RoI is its class
        "transfer_from": knobs.transfer_from,
        "detach_weights": knobs.detach_weights,
    }
    return two_stage.mask_detector(sizes, backbone, roi_head)


def _own_box_head(box_head, width):
    """Two fully connected layers on all cells, without a norm."""
    return {key: value for key, value in box_head.items() if key not in ("norm_cfg", "pool_regression")} | {
        "type": "DescribingFCBoxHead",
        "num_shared_convs": 0,
        "num_cls_convs": 0,
        "num_reg_convs": 0,
        "fc_out_channels": width,
    }
