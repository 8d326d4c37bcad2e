"""Models as MMDetection configurations, and the modules they name."""

from pipeline import compat  # noqa: F401  (before anything that imports mmcv)
from pipeline.declaration.knobs import Knobs
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import modules  # noqa: F401  (registers the modules)
from pipeline.methods.shared.architecture import Architecture

__all__ = ["Architecture", "model_config"]

# ResNets from this depth on have bottleneck blocks, which widen each stage four times.
BOTTLENECK_DEPTH = 50
BOTTLENECK_EXPANSION = 4


def model_config(knobs: Knobs, method: dict, architecture: Architecture, backbone: dict, num_classes: int = 80) -> dict:
    """Compose the MMDetection configuration of a detector.

    Args:
        knobs: resolved knobs.
        method: {'cam': whether the mask head sees the CAM, 'cl_head': whether there is a contrastive head}.
        architecture: sizes.
        backbone: MMDetection configuration of the run's backbone; a ResNet or ResNeXt.
        num_classes: number of categories.

    Returns:
        Configuration for `mmdet.models.build_detector`, plain containers only.

    Raises:
        ExperimentError: knobs and architecture do not fit together.
    """
    return {
        "type": "MaskRCNN",
        "backbone": dict(backbone),
        "neck": {
            "type": "FPN",
            "in_channels": _stage_channels(backbone),
            "out_channels": architecture.neck_channels,
            "num_outs": len(architecture.strides),
        },
        "rpn_head": _rpn_head(architecture),
        "roi_head": _roi_head(knobs, method, architecture, num_classes),
        "train_cfg": _train_cfg(architecture),
        "test_cfg": _test_cfg(architecture),
    }


def _stage_channels(backbone):
    """Output channels of a ResNet's stages; absent keys have MMDetection's defaults."""
    expansion = BOTTLENECK_EXPANSION if backbone["depth"] >= BOTTLENECK_DEPTH else 1
    return [backbone.get("base_channels", 64) * expansion * 2**stage for stage in backbone.get("out_indices", range(4))]


def _box_coder(stds):
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": stds}


def _rpn_head(arch):
    return {
        "type": "RPNHead",
        "in_channels": arch.neck_channels,
        "feat_channels": arch.neck_channels,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": list(arch.anchor_scales),
            "ratios": list(arch.anchor_ratios),
            "strides": list(arch.strides),
        },
        "bbox_coder": _box_coder([1.0, 1.0, 1.0, 1.0]),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def _roi_extractor(arch, size):
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": arch.sampling_ratio},
        "out_channels": arch.neck_channels,
        "featmap_strides": list(arch.strides[: arch.roi_levels]),
        "finest_scale": arch.finest_scale,
    }


def _roi_head(knobs, method, arch, num_classes):
    shared = knobs.roi_features == "shared"
    cl_roi_size = arch.mask_roi_size if shared else arch.contrast_roi_size
    join_channels = 0
    if method["cl_head"]:
        join_channels = arch.contrast_channels if knobs.cl_fusion == "none" else arch.neck_channels
        if knobs.cl_join == "sum" and join_channels != arch.neck_channels:
            raise ExperimentError(
                f"architecture: contrast_channels is {arch.contrast_channels} but neck_channels {arch.neck_channels}; "
                "with cl_join: sum and cl_fusion: none they must be equal"
            )
    return {
        "type": "ContrastMaskRoIHead",
        "use_cam": bool(method["cam"]),
        "cl_head": _cl_head(knobs, arch, join_channels) if method["cl_head"] else None,
        "cl_roi_extractor": None if shared else _roi_extractor(arch, cl_roi_size),
        "mask_roi_size": arch.mask_roi_size,
        "cl_roi_size": cl_roi_size,
        "mask_loss_rois": knobs.mask_loss_rois,
        "cam_frame": knobs.cam_frame,
        "cam_normalise": knobs.cam_normalise,
        "detach_mask_cam": knobs.detach_mask_cam,
        "detach_cl_cam": knobs.detach_cl_cam,
        "detach_cl_features": knobs.detach_cl_features,
        "lambda_warmup": knobs.lambda_warmup,
        "lambda_warmup_epochs": knobs.lambda_warmup_epochs,
        "lambda_epoch_passes": knobs.lambda_epoch_passes,
        "bbox_roi_extractor": _roi_extractor(arch, arch.box_roi_size),
        "bbox_head": {
            "type": "CAMBoxHead",
            "pool_regression": arch.box_reg_pooled,
            "detach_classifier": knobs.detach_classifier,
            "init": knobs.box_init,
            "num_shared_convs": arch.box_shared_convs,
            "num_cls_convs": arch.box_cls_convs,
            "num_reg_convs": arch.box_reg_convs,
            "in_channels": arch.neck_channels,
            "conv_out_channels": arch.box_channels,
            "roi_feat_size": arch.box_roi_size,
            "num_classes": num_classes,
            "bbox_coder": _box_coder([0.1, 0.1, 0.2, 0.2]),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": arch.box_loss_weight},
        },
        "mask_roi_extractor": _roi_extractor(arch, arch.mask_roi_size),
        "mask_head": {
            "type": "ContrastMaskHead",
            "join": knobs.cl_join,
            "join_channels": join_channels,
            "cam_scale": arch.cam_scale,
            "num_convs": arch.mask_convs,
            "in_channels": arch.neck_channels,
            "conv_out_channels": arch.mask_channels,
            "num_classes": num_classes,
        },
    }


def _cl_head(knobs, arch, join_channels):
    return {
        "type": "ContrastiveHead",
        "in_channels": arch.neck_channels,
        "channels": arch.contrast_channels,
        "encoder_convs": knobs.encoder_convs,
        "projector_layers": knobs.projector_layers,
        "projector_norm": knobs.projector_norm,
        "features": knobs.cl_features,
        "fusion": knobs.cl_fusion,
        "join_channels": join_channels,
        "join_size": arch.mask_roi_size,
        "supervision": knobs.supervision,
        "query_sharing": knobs.query_sharing,
        "query_rois": knobs.query_rois,
        "exchange_queries": knobs.exchange_queries and knobs.query_sharing,
        "detach_queries": knobs.detach_queries,
        "loss_scale": knobs.loss_scale,
        "loss_weight": knobs.cl_loss_weight,
        "rule": {
            "delta": knobs.delta,
            "key_scale": knobs.cl_key_scale,
            "threshold": knobs.cam_threshold,
            "tiny_mask_fallback": knobs.tiny_mask_fallback,
            "hard_easy_rule": knobs.hard_easy_rule,
            "min_keys": knobs.min_keys,
        },
        "sampling_rule": {"sigma": knobs.sigma, "rounding": knobs.sample_rounding, "order": knobs.sampling_order},
        # A query of its own for each RoI meets that RoI's keys only (Table 7).
        "form": {
            "tau_easy": knobs.tau_easy,
            "tau_hard": knobs.tau_hard,
            "similarity": knobs.loss_similarity,
            "denominator": knobs.loss_denominator,
            "pooling": knobs.key_pooling if knobs.query_sharing else "roi",
        },
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


def _train_cfg(arch):
    return {
        "rpn": {
            "assigner": _assigner(arch.rpn_positive_iou, arch.rpn_negative_iou, arch.rpn_negative_iou),
            "sampler": _sampler(arch.rpn_samples, arch.rpn_positive_fraction, False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": {
            "nms_pre": arch.rpn_pre_nms,
            "max_per_img": arch.rpn_post_nms,
            "nms": {"type": "nms", "iou_threshold": arch.rpn_nms_iou},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "assigner": _assigner(arch.rcnn_positive_iou, arch.rcnn_positive_iou, arch.rcnn_positive_iou),
            "sampler": _sampler(arch.rcnn_samples, arch.rcnn_positive_fraction, True),
            "mask_size": 2 * arch.mask_roi_size,
            "pos_weight": -1,
            "debug": False,
        },
    }


def _test_cfg(arch):
    return {
        "rpn": {
            "nms_pre": arch.rpn_test_pre_nms,
            "max_per_img": arch.rpn_post_nms,
            "nms": {"type": "nms", "iou_threshold": arch.rpn_nms_iou},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "score_thr": arch.score_threshold,
            "nms": {"type": "nms", "iou_threshold": arch.nms_iou},
            "max_per_img": arch.max_detections,
            "mask_thr_binary": arch.mask_threshold,
        },
    }
