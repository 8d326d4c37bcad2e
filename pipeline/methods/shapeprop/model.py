"""The MMDetection configuration of ShapeProp."""

from pipeline.methods.shapeprop.knobs import Knobs
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.authors import Authors
from pipeline.methods.shared.sizes import Sizes

# The authors' 24 latent channels stand beside branches of 256; narrower ones have fewer, but not less than these.
LATENT_SHARE, LEAST_LATENT = 3 / 32, 8
FC_CHANNELS = 1024

# Their configuration `coco_voc_...` (ucbdrive/ShapeProp on maskrcnn-benchmark), where it is not the frame of all rows.
AUTHORS = Authors(
    warmup=2000,
    warmup_start=0.03,
    bias_rate=2.0,
    bias_decay=0.0,
    one_scale=True,
    sizes={"score_threshold": 0.0, "sampling_ratio": 2, "roi_aligned": False},
    remains="Caffe-style weights of the backbone, 2000 proposals of a GPU's images together, boxes with the +1 pixel "
    "convention, fp16, smooth L1; a box head of two fully connected layers unless `box_head: fc`",
)


def latent_channels(sizes: Sizes) -> int:
    """Latent channels of message passing: 24 at full size, in proportion to `mask_channels`, at least 8."""
    return max(LEAST_LATENT, round(LATENT_SHARE * sizes.mask_channels))


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`.

    The shape head has no sizes of its own: both branches and the encoder of shapes have `mask_convs` convolutions of
    `mask_channels`, maps have `mask_roi_size` cells on a side, and `latent_channels` says how wide messages are.
    """
    sizes = AUTHORS.sized(sizes, knobs)
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    norm = two_stage.within_rois(sizes, sizes.mask_channels)
    roi_head = parts | {
        "type": "ShapePropRoIHead",
        "shape_head": {
            "type": "ShapeHead",
            "num_classes": num_classes,
            "in_channels": sizes.neck_channels,
            "num_convs": sizes.mask_convs,
            "channels": sizes.mask_channels,
            "latent_channels": latent_channels(sizes),
            "steps": knobs.propagation_steps or None,
            "share_weights": knobs.propagation_weights == "shared",
            "share_features": knobs.branch_features == "shared",
            "activation_weight": knobs.activation_loss_weight,
            "propagation_weight": knobs.propagation_loss_weight,
            **norm,
        },
        "mask_head": parts["mask_head"]
        | {
            "type": "ShapePropMaskHead",
            "shape_convs": max(1, sizes.mask_convs),
            "shape_channels": sizes.mask_channels,
        },
    }
    if knobs.box_head == "fc":
        roi_head["bbox_head"] = _fc_box_head(roi_head["bbox_head"])
    return two_stage.mask_detector(sizes, backbone, roi_head)


def _fc_box_head(box_head):
    """Two fully connected layers of 1024 instead of the convolutions of a box head."""
    convolutional = ("pool_regression", "init", "num_shared_convs", "num_cls_convs", "num_reg_convs")
    kept = {key: value for key, value in box_head.items() if key not in (*convolutional, "conv_out_channels")}
    return kept | {"type": "FCBoxHead", "num_shared_fcs": 2, "fc_out_channels": FC_CHANNELS}
