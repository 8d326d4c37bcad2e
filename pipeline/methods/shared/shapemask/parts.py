"""The MMDetection configurations of ShapeMask, on the shared two-stage detector and on RetinaNet."""

from dataclasses import dataclass, replace

from pipeline.methods.shared import one_stage, retina, two_stage
from pipeline.methods.shared.authors import Authors
from pipeline.methods.shared.shapemask.knobs import HeadKnobs, Knobs, RetinaKnobs
from pipeline.methods.shared.sizes import Sizes

PACKAGE = __name__.rpartition(".")[0]
HEAD_MODULES = tuple(f"{PACKAGE}.{part}" for part in ("roi_extractor", "head", "roi_head"))
TWO_STAGE_MODULES = (*two_stage.BOX_MODULES, *HEAD_MODULES)
RETINA_MODULES = (*retina.MODULES, *HEAD_MODULES, f"{PACKAGE}.detector")
AUTOCAST = (
    ("roi_head.mask_head.prior.dense", "forward"),
    ("roi_head.mask_head.coarse.decoder", "forward"),
    ("roi_head.mask_head.fine.decoder", "forward"),
)
# Of stage `priors`, which both methods begin with.
CLUSTERS = "pipeline.methods.shapemask.clusters"

# 500 steps of 64 images from 0.0067 to 0.08; for 16, by the linear rule, the rate of the frame and four times as many.
AUTHORS = Authors(
    warmup=2000,
    warmup_start=0.08375,
    remains="RetinaNet as the detector (shapemask_retina), batch norm trained in its backbone and neck, inputs of "
    "1024 x 1024 scaled by 0.8 to 1.2, 24 passes over the data in bfloat16, and priors whose number is unknown",
)
RETINA_AUTHORS = replace(
    AUTHORS,
    remains="batch norm trained in its backbone, inputs of 1024 x 1024 scaled by 0.8 to 1.2, 24 passes over the data "
    "(with NAS-FPN an unknown number) in bfloat16, and priors whose number is unknown",
)

ABOUT = "ShapeMask: a mixture of shape priors, refined to a coarse and to a fine mask in an enlarged box"
INSIDE_MAPS = (
    ("priors", "Shape prior", "mixture of shapes of base objects"),
    ("coarse", "Coarse mask", "predicted probability"),
    ("fine", "Fine mask", "predicted probability"),
)
NAS_STACKS = 7  # of NAS-FPN, in its publication


@dataclass(frozen=True)
class Scale:
    """What of ShapeMask is smaller in a small model; the defaults are the released code's.

    Attributes:
        cells: cells on a side of features, prior and coarse mask.
        upsampling: cells of the fine mask on a side of one of those.
        instances: objects of an image that masks are learnt on.
        priors: clusters of shapes by the value of the knob `priors`. The released code has 20 of each class; how many
            the published class-agnostic rows have is unknown.
        momentum: share of a batch in the moving averages of batch norm. With the released 0.003 a small model's few
            hundred steps would end before those are there.
        first_level: finest level of the pyramid that features are taken from; that of the authors has no stride 4.
    """

    cells: int = 32
    upsampling: int = 4
    instances: int = 8
    priors: tuple[tuple[str, int], ...] = (("many", 100), ("few", 20))
    momentum: float = 0.003
    first_level: int = 1


SMALL = Scale(cells=14, upsampling=2, instances=4, priors=(("many", 8), ("few", 4)), momentum=0.1, first_level=0)


def scale(sizes: Sizes) -> Scale:
    """The scale of a model: small where the shared sizes have the norms that short trainings need (`normalise`).

    The rest follows the shared mask head: as many convolutions in each of both branches, half of its channels.
    """
    return SMALL if sizes.normalise else Scale()


def two_stage_model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`; the head's centres are empty, see `with_priors`."""
    sizes, of = AUTHORS.sized(sizes, knobs), scale(sizes)
    first = min(of.first_level, len(sizes.strides) - 1)
    last = max(first + 1, min(first + sizes.roi_levels, len(sizes.strides)))
    finest = sizes.mask_finest_scale if first == 0 and sizes.mask_finest_scale else sizes.finest_scale * 2**first
    masks = _masks(knobs, sizes, num_classes, sizes.strides[first:last], finest, first)
    roi_head = two_stage.boxes(knobs, sizes, num_classes) | masks
    roi_head |= {"mask_loss_rois": knobs.mask_loss_rois, "stride": sizes.strides[0]}
    return two_stage.mask_detector(sizes, backbone, roi_head)


def retina_model(knobs: RetinaKnobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`: on RetinaNet, the authors' detector, all of whose levels RoIs are pooled from."""
    sizes = RETINA_AUTHORS.sized(sizes, knobs)
    detector, strides = retina.detector(sizes, backbone, num_classes), one_stage.pyramid(sizes, backbone)
    first = one_stage.first_level(backbone)
    finest = (sizes.mask_finest_scale or sizes.finest_scale) * 2**first
    roi_head = _masks(knobs, sizes, num_classes, strides, finest, 0)
    roi_head |= {"mask_loss_rois": "base_gt", "stride": strides[0]}
    if knobs.neck == "nas_fpn" and not sizes.normalise:
        detector["neck"] = _nas_fpn(detector["neck"])
    return detector | {
        "type": "ShapeMaskRetinaNet",
        "roi_head": roi_head,
        "test_cfg": detector["test_cfg"] | {"mask_thr_binary": sizes.mask_threshold},
    }


def _nas_fpn(fpn):
    """Configuration of NAS-FPN, which has five levels, with the sizes of a feature pyramid."""
    kept = ("in_channels", "out_channels", "start_level", "num_outs", "norm_cfg")
    return {key: fpn[key] for key in kept} | {"type": "NASFPN", "stack_times": NAS_STACKS, "add_extra_convs": True}


def _masks(knobs: HeadKnobs, sizes, num_classes, strides, finest_scale, first_level):
    """Configuration of `ShapeMaskRoIHead` for masks, of features from levels of these strides."""
    of = scale(sizes)
    return {
        "type": "ShapeMaskRoIHead",
        "mask_roi_size": of.cells,
        "instances": knobs.instances or of.instances,
        "few_objects": knobs.few_objects,
        "jitter": knobs.jitter,
        "outer_box": knobs.outer_box,
        "mask_roi_extractor": {
            "type": "UnshiftedRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": of.cells, "sampling_ratio": 1},
            "out_channels": sizes.neck_channels,
            "featmap_strides": list(strides),
            "finest_scale": finest_scale,
            "first_level": first_level,
        },
        "mask_head": {
            "type": "ShapeMaskHead",
            "in_channels": sizes.neck_channels,
            "channels": max(1, sizes.mask_channels // 2),
            "convs": sizes.mask_convs,
            "cells": of.cells,
            "upsampling": of.upsampling,
            "num_priors": dict(of.priors)[knobs.priors],
            "num_classes": num_classes,
            "norm": {"momentum": of.momentum, "synced": knobs.mask_norm == "sync"},
            "prior_loss_weight": knobs.prior_loss_weight,
        },
    }


def with_priors(model: dict, dataset: str, key: str) -> dict:
    """As `Method.with_priors`: the configuration whose training begins with the priors of a split."""
    head = model["roi_head"]["mask_head"] | {"source": {"dataset": dataset, "key": key}}
    return model | {"roi_head": model["roi_head"] | {"mask_head": head}}
