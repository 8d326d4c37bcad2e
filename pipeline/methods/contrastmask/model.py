"""The MMDetection configuration of ContrastMask."""

from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import priors
from pipeline.methods.contrastmask.knobs import Knobs
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`.

    Raises:
        ExperimentError: knobs and sizes do not fit together.
    """
    knobs = priors.settled(knobs)
    roi_head = priors.with_prior(_roi_head(knobs, sizes, num_classes), knobs)
    return two_stage.mask_detector(sizes, backbone, roi_head)


def _roi_head(knobs, sizes, num_classes):
    shared = knobs.roi_features == "shared"
    cl_roi_size = sizes.mask_roi_size if shared else sizes.contrast_roi_size
    join_channels = sizes.contrast_channels if knobs.cl_fusion == "none" else sizes.neck_channels
    if knobs.cl_join == "sum" and join_channels != sizes.neck_channels:
        raise ExperimentError(
            f"architecture: contrast_channels is {sizes.contrast_channels} but neck_channels {sizes.neck_channels}; "
            "with cl_join: sum and cl_fusion: none they must be equal"
        )
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    parts = two_stage.with_cam(parts, knobs, sizes)
    return parts | {
        "type": "ContrastMaskRoIHead",
        "cl_head": _cl_head(knobs, sizes, join_channels),
        "cl_roi_extractor": None if shared else two_stage.roi_extractor(sizes, cl_roi_size, sizes.mask_finest_scale),
        "cl_roi_size": cl_roi_size,
        "detach_cl_cam": knobs.detach_cl_cam,
        "detach_cl_features": knobs.detach_cl_features,
        "lambda_warmup": knobs.lambda_warmup,
        "lambda_warmup_epochs": knobs.lambda_warmup_epochs,
        "lambda_epoch_passes": knobs.lambda_epoch_passes,
        "mask_head": parts["mask_head"] | {"join": knobs.cl_join, "join_channels": join_channels},
    }


def _cl_head(knobs, sizes, join_channels):
    norm = two_stage.within_rois(sizes, sizes.contrast_channels)
    return {
        "type": "ContrastiveHead",
        "in_channels": sizes.neck_channels,
        "channels": sizes.contrast_channels,
        "encoder_convs": knobs.encoder_convs,
        "projector_layers": knobs.projector_layers,
        "projector_norm": knobs.projector_norm,
        **({"encoder_norm": norm["norm_cfg"]} if norm else {}),
        "features": knobs.cl_features,
        "fusion": knobs.cl_fusion,
        "join_channels": join_channels,
        "join_size": sizes.mask_roi_size,
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
