"""RetinaNet as an MMDetection configuration, for a method whose own detector it is.

Values are those of ShapeMask's code at the revision of its published rows (github.com/tensorflow/tpu d46b9ff).

The profile's sizes are those of the two-stage detector; levels are those of `one_stage`.
"""

from pipeline.methods.shared import one_stage

# What the authors' code has, whatever the scale.
ANCHOR_STRIDES = 4  # side of the smallest anchor of a level
SCALES = 3  # of an octave
HUBER = 0.1  # where the box loss turns from a square to a line
BOX_WEIGHT = 50  # of the mean over the four numbers of a box
NORM = {"type": "BN", "eps": 1e-4, "momentum": 0.003}  # in pyramid and towers

MODULES = ("pipeline.methods.shared.retina_head",)
AUTOCAST = (("backbone", "forward"), ("neck", "forward"), ("bbox_head", "forward"))

ABOUT = "RetinaNet, a detector of one stage"


def detector(sizes, backbone, num_classes) -> dict:
    """Compose the configuration of RetinaNet.

    Args:
        sizes: `Sizes`; towers have `box_shared_convs` convolutions.
        backbone: MMDetection configuration of the run's backbone; a ResNet or ResNeXt.
        num_classes: number of categories.

    Returns:
        Configuration for `mmdet.models.build_detector`, plain containers only.
    """
    strides = one_stage.pyramid(sizes, backbone)
    return {
        "type": "RetinaNet",
        "backbone": dict(backbone),
        "neck": one_stage.neck(sizes, backbone) | {"norm_cfg": norm(sizes)},
        "bbox_head": {
            "type": "CountedRetinaHead",
            "num_classes": num_classes,
            "num_ins": len(strides),
            "in_channels": sizes.neck_channels,
            "feat_channels": sizes.neck_channels,
            "stacked_convs": sizes.box_shared_convs,
            "norm_cfg": norm(sizes),
            "anchor_generator": {
                "type": "AnchorGenerator",
                "octave_base_scale": ANCHOR_STRIDES,
                "scales_per_octave": SCALES,
                "ratios": [0.5, 1.0, 2.0],
                "strides": strides,
            },
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0, 0.0, 0.0, 0.0],
                "target_stds": [1.0, 1.0, 1.0, 1.0],
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 1.5, "alpha": 0.25, "loss_weight": 1.0},
            # Huber's loss is this one times where it turns; MMDetection sums what the weight is of the mean of.
            "loss_bbox": {"type": "SmoothL1Loss", "beta": HUBER, "loss_weight": BOX_WEIGHT * HUBER / 4},
        },
        "train_cfg": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.5,
                "min_pos_iou": 0.0,
                "ignore_iof_thr": -1,
            },
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": sizes.rpn_test_pre_nms,
            "min_bbox_size": 0,
            "score_thr": sizes.score_threshold,
            "nms": {"type": "nms", "iou_threshold": sizes.nms_iou},
            "max_per_img": sizes.max_detections,
        },
    }


def norm(sizes) -> dict:
    """Batch norm of pyramid and towers: the authors', or in a short training one whose averages follow faster."""
    return {"type": "BN"} if sizes.normalise else dict(NORM)
