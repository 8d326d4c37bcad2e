"""FCOS as an MMDetection configuration, for a method whose own detector it is; values as in CPMask's code. And the
pyramid that detectors of one stage have.

The profile's sizes are those of the two-stage detector. Where a backbone has a fourth stage the pyramid begins one
level later, at twice the strides: P3 to P7 at full size.
"""

from pipeline.methods.shared import two_stage

# What the authors' code has, whatever the scale.
SCORE_THRESHOLD = 0.03  # of the class score, before it is multiplied by the centre-ness
NMS_IOU = 0.6
GROUPS = 32  # of the group norms in the towers
REACH = 8  # an object belongs to the level whose stride times this its farthest side does not exceed
WHOLE_PYRAMID = 3  # stages of a backbone that all have a level of their own

MODULES = ("pipeline.methods.shared.fcos_head",)
AUTOCAST = (("backbone", "forward"), ("neck", "forward"), ("bbox_head", "forward"))

ABOUT = "FCOS, a detector of one stage"


def detector(sizes, backbone, num_classes) -> dict:
    """Compose the configuration of FCOS.

    Args:
        sizes: `Sizes`; towers have `box_shared_convs` convolutions.
        backbone: MMDetection configuration of the run's backbone; a ResNet or ResNeXt.
        num_classes: number of categories.

    Returns:
        Configuration for `mmdet.models.build_detector`, plain containers only.
    """
    strides = pyramid(sizes, backbone)
    bounds = [-1, *(REACH * stride for stride in strides[:-1]), 1e8]
    return {
        "type": "FCOS",
        "backbone": dict(backbone),
        "neck": neck(sizes, backbone) | two_stage.over_batch(sizes),
        "bbox_head": {
            "type": "RootScoreFCOSHead",
            "num_classes": num_classes,
            "in_channels": sizes.neck_channels,
            "feat_channels": sizes.neck_channels,
            "stacked_convs": sizes.box_shared_convs,
            "strides": strides,
            "regress_ranges": [list(pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)],
            "center_sampling": True,
            "center_sample_radius": 1.5,
            "norm_on_bbox": True,
            "centerness_on_reg": True,
            "conv_bias": True,
            "norm_cfg": {"type": "GN", "num_groups": groups(sizes)},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.0},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        },
        "test_cfg": {
            "nms_pre": sizes.rpn_test_pre_nms,
            "min_bbox_size": 0,
            "score_thr": SCORE_THRESHOLD,
            "nms": {"type": "nms", "iou_threshold": NMS_IOU},
            "max_per_img": sizes.max_detections,
        },
    }


def neck(sizes, backbone) -> dict:
    """Configuration of the feature pyramid, without a normalisation."""
    return {
        "type": "FPN",
        "in_channels": two_stage.stage_channels(backbone),
        "out_channels": sizes.neck_channels,
        "start_level": first_level(backbone),
        "add_extra_convs": "on_output",
        "relu_before_extra_convs": True,
        "num_outs": len(pyramid(sizes, backbone)),
    }


def steps(given, knobs, dataset) -> list:
    """As `Method.steps`, of a detector of one stage alone: it takes neither masks nor the flags of novel objects."""
    boxes = ["img", "gt_bboxes", "gt_labels"]
    return [step | {"keys": boxes} if step["type"] == "Collect" else step for step in given]


def first_level(backbone) -> int:
    """Stage of the backbone that the pyramid begins with."""
    return max(0, len(two_stage.stage_channels(backbone)) - WHOLE_PYRAMID)


def pyramid(sizes, backbone) -> list[int]:
    """Strides of the levels."""
    return [stride * 2 ** first_level(backbone) for stride in sizes.strides]


def roi_extractor(sizes, backbone, size, finest_scale=None) -> dict:
    """As `two_stage.roi_extractor`, from all levels of this pyramid."""
    of_two_stages = two_stage.roi_extractor(sizes, size, finest_scale)
    finest = of_two_stages["finest_scale"] * 2 ** first_level(backbone)
    return of_two_stages | {"featmap_strides": pyramid(sizes, backbone), "finest_scale": finest}


def groups(sizes) -> int:
    """Groups of a normalisation as wide as the pyramid: the authors', or those of a normalised profile's branches."""
    if norm := two_stage.within_rois(sizes, sizes.neck_channels):
        return norm["norm_cfg"]["num_groups"]
    return most_groups(sizes.neck_channels)


def most_groups(channels) -> int:
    """The authors' number of groups, or the largest smaller one that divides the channels."""
    return next(number for number in range(GROUPS, 0, -1) if channels % number == 0)
