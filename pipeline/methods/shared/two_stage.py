"""The two-stage detector as an MMDetection configuration, in the parts that methods are put together of."""

from pathlib import Path

# One file of values, and one of presets, for all methods that are compared with ContrastMask.
KNOB_FILE = Path(__file__).parents[1] / "contrastmask" / "knobs.yaml"
RECIPES = KNOB_FILE.with_name("recipes.yaml")

BOX_AUTOCAST = (
    ("backbone", "forward"),
    ("neck", "forward"),
    ("rpn_head", "forward"),
    ("roi_head.bbox_head", "forward_with_features"),
    ("roi_head.bbox_head", "forward"),
)
MASK_AUTOCAST = (*BOX_AUTOCAST, ("roi_head.mask_head", "forward"))

BOX_MODULES = (
    "pipeline.methods.shared.cam_box_head",
    "pipeline.methods.shared.roi_extractor",
    "pipeline.methods.shared.rpn_head",
    "pipeline.methods.shared.sampled_roi_head",
)
MASK_MODULES = (
    *BOX_MODULES,
    "pipeline.methods.shared.class_agnostic_mask_head",
    "pipeline.methods.shared.partial_roi_head",
)

ABOUT = "Mask R-CNN whose mask head shares its weights among all categories (the baseline)"
ABOUT_CAM = f"{ABOUT}; CM: the class activation map of the box head, added to the features of the mask head"

# ResNets from this depth on have bottleneck blocks, which widen each stage four times.
BOTTLENECK_DEPTH = 50
BOTTLENECK_EXPANSION = 4


def steps(given, knobs, dataset) -> list:
    """As `Method.steps`: masks are read in the format of the knob `mask_format`."""
    bitmap = knobs.mask_format == "bitmap"
    return [step | {"poly2mask": bitmap} if "poly2mask" in step else step for step in given]


def box_detector(sizes, backbone, roi_head) -> dict:
    """Compose the configuration of a two-stage detector without masks.

    Args:
        sizes: `Sizes`.
        backbone: MMDetection configuration of the run's backbone; a ResNet or ResNeXt.
        roi_head: configuration of its RoI head, see `boxes`.

    Returns:
        Configuration for `mmdet.models.build_detector`, plain containers only.
    """
    return {
        "type": "FasterRCNN",
        "backbone": dict(backbone),
        "neck": {
            "type": "FPN",
            "in_channels": stage_channels(backbone),
            "out_channels": sizes.neck_channels,
            "num_outs": len(sizes.strides),
            **over_batch(sizes),
        },
        "rpn_head": _rpn_head(sizes),
        "roi_head": roi_head,
        "train_cfg": _train_cfg(sizes),
        "test_cfg": _test_cfg(sizes),
    }


def mask_detector(sizes, backbone, roi_head) -> dict:
    """As `box_detector`, for a RoI head of `boxes` and `masks`."""
    model = box_detector(sizes, backbone, roi_head)
    train, test = model["train_cfg"], model["test_cfg"]
    return model | {
        "type": "MaskRCNN",
        "train_cfg": train | {"rcnn": train["rcnn"] | {"mask_size": 2 * sizes.mask_roi_size}},
        "test_cfg": test | {"rcnn": test["rcnn"] | {"mask_thr_binary": sizes.mask_threshold}},
    }


def boxes(knobs, sizes, num_classes) -> dict:
    """What a RoI head needs for boxes: `bbox_roi_extractor` and `bbox_head`.

    Args:
        knobs: `BoxKnobs`.
        sizes: `Sizes`.
        num_classes: number of categories.
    """
    return {
        "bbox_roi_extractor": roi_extractor(sizes, sizes.box_roi_size),
        "bbox_head": {
            "type": "CAMBoxHead",
            "pool_regression": sizes.box_reg_pooled,
            "init": knobs.box_init,
            "num_shared_convs": sizes.box_shared_convs,
            "num_cls_convs": sizes.box_cls_convs,
            "num_reg_convs": sizes.box_reg_convs,
            "in_channels": sizes.neck_channels,
            "conv_out_channels": sizes.box_channels,
            "roi_feat_size": sizes.box_roi_size,
            "num_classes": num_classes,
            "bbox_coder": _box_coder([0.1, 0.1, 0.2, 0.2]),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": sizes.box_loss_weight},
            **over_batch(sizes),
        },
    }


def masks(knobs, sizes, num_classes) -> dict:
    """What `PartialRoIHead` needs for class-agnostic masks: their sizes, RoI extractor, head and rule of the loss.

    Args:
        knobs: `MaskKnobs`.
        sizes, num_classes: as in `boxes`.
    """
    return {
        "mask_roi_size": sizes.mask_roi_size,
        "mask_loss_rois": knobs.mask_loss_rois,
        "mask_roi_extractor": roi_extractor(sizes, sizes.mask_roi_size, sizes.mask_finest_scale),
        "mask_head": {
            "type": "ClassAgnosticMaskHead",
            "num_convs": sizes.mask_convs,
            "in_channels": sizes.neck_channels,
            "conv_out_channels": sizes.mask_channels,
            "num_classes": num_classes,
            **within_rois(sizes, sizes.mask_channels),
        },
    }


def with_cam(roi_head, knobs, sizes) -> dict:
    """A RoI head of `boxes` and `masks` whose mask head sees the class activation map.

    Args:
        roi_head: its configuration.
        knobs: `CAMKnobs`.
        sizes: `Sizes`.
    """
    return roi_head | {
        "use_cam": True,
        "cam_frame": knobs.cam_frame,
        "cam_normalise": knobs.cam_normalise,
        "detach_mask_cam": knobs.detach_mask_cam,
        "bbox_head": roi_head["bbox_head"] | {"detach_classifier": knobs.detach_classifier},
        "mask_head": roi_head["mask_head"] | {"cam_scale": sizes.cam_scale},
    }


def stage_channels(backbone) -> list[int]:
    """Output channels of a ResNet's stages; absent keys have MMDetection's defaults."""
    expansion = BOTTLENECK_EXPANSION if backbone["depth"] >= BOTTLENECK_DEPTH else 1
    return [backbone.get("base_channels", 64) * expansion * 2**stage for stage in backbone.get("out_indices", range(4))]


# Channels that a group of `within_rois` has, at least.
GROUP = 4


def over_batch(sizes) -> dict:
    """Normalisation of neck and box head; without it the configuration of the full model is as it was."""
    return {"norm_cfg": {"type": "BN"}} if sizes.normalise else {}


def within_rois(sizes, channels) -> dict:
    """Normalisation of a branch of `channels` that runs on RoIs; groups are larger where `GROUP` does not divide."""
    groups = next(number for number in range(max(1, channels // GROUP), 0, -1) if channels % number == 0)
    return {"norm_cfg": {"type": "GN", "num_groups": groups}} if sizes.normalise else {}


def _box_coder(stds):
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": stds}


def _rpn_head(sizes):
    return {
        "type": "BatchedRPNHead",
        "in_channels": sizes.neck_channels,
        "feat_channels": sizes.neck_channels,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": list(sizes.anchor_scales),
            "ratios": list(sizes.anchor_ratios),
            "strides": list(sizes.strides),
        },
        "bbox_coder": _box_coder([1.0, 1.0, 1.0, 1.0]),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def roi_extractor(sizes, size, finest_scale=None) -> dict:
    """Configuration of what pools RoI features of `size` cells on a side.

    Args:
        finest_scale: instead of that of `sizes`, for a branch that looks closer.
    """
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": sizes.sampling_ratio}
    return {
        "type": "SortedRoIExtractor",
        "roi_layer": layer if sizes.roi_aligned else layer | {"aligned": False},
        "out_channels": sizes.neck_channels,
        "featmap_strides": list(sizes.strides[: sizes.roi_levels]),
        "finest_scale": finest_scale or sizes.finest_scale,
    }


def _sampler(samples, positive_fraction, add_gt):
    return {
        "type": "RandomSampler",
        "num": samples,
        "pos_fraction": positive_fraction,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add_gt,
    }


def _assigner(positive_iou, negative_iou, min_positive_iou):
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive_iou,
        "neg_iou_thr": negative_iou,
        "min_pos_iou": min_positive_iou,
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }


def _train_cfg(sizes):
    return {
        "rpn": {
            "assigner": _assigner(sizes.rpn_positive_iou, sizes.rpn_negative_iou, sizes.rpn_negative_iou),
            "sampler": _sampler(sizes.rpn_samples, sizes.rpn_positive_fraction, False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": {
            "nms_pre": sizes.rpn_pre_nms,
            "max_per_img": sizes.rpn_post_nms,
            "nms": {"type": "nms", "iou_threshold": sizes.rpn_nms_iou},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "assigner": _assigner(sizes.rcnn_positive_iou, sizes.rcnn_positive_iou, sizes.rcnn_positive_iou),
            "sampler": _sampler(sizes.rcnn_samples, sizes.rcnn_positive_fraction, True),
            "pos_weight": -1,
            "debug": False,
        },
    }


def _test_cfg(sizes):
    return {
        "rpn": {
            "nms_pre": sizes.rpn_test_pre_nms,
            "max_per_img": sizes.rpn_post_nms,
            "nms": {"type": "nms", "iou_threshold": sizes.rpn_nms_iou},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "score_thr": sizes.score_threshold,
            "nms": {"type": "nms", "iou_threshold": sizes.nms_iou},
            "max_per_img": sizes.max_detections,
        },
    }
