"""The MMDetection configuration of SimFormer: MaskFormer's parts with the losses of this room."""

import math

from pipeline.errors import ExperimentError
from pipeline.methods.shared.whole_backbone import stage_channels, whole_backbone
from pipeline.methods.simformer.knobs import Knobs
from pipeline.methods.simformer.sizes import Sizes
from pipeline.methods.simformer.supervision import paired


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`.

    The backbone trains whole and keeps its batch normalisation frozen, as the released configurations do; one that
    starts from nothing (`norm_eval: false`) trains that, too.

    Raises:
        ExperimentError: a number of points that leaves no pair to be drawn.
    """
    if paired(knobs) and int(0.2 * knobs.points) < 1:
        raise ExperimentError(
            f"knob points is {knobs.points}; valid: at least 5, of which a fifth is from other classes"
        )
    weak = knobs.supervision == "base"
    return {
        "type": "SimFormer",
        "backbone": whole_backbone(backbone, sizes.backbone_groups),
        "panoptic_head": {
            "type": "SimFormerHead",
            **_maskformer(sizes, stage_channels(backbone), num_classes),
            "weights": {
                "cls": sizes.class_weight,
                "focal": sizes.focal_weight,
                "dice": sizes.dice_weight,
                "no_object": sizes.no_object_weight,
                "complementary": knobs.complementary_weight if weak else 0.0,
            },
            "complementary_logit": round(math.log(knobs.complementary_floor / (1 - knobs.complementary_floor)), 4),
            "pixel_pairs": _pixel_pairs(knobs, sizes) if paired(knobs) else None,
        },
    }


def _pixel_pairs(knobs, sizes):
    return {
        "channels": sizes.channels,
        "width": sizes.similarity_channels,
        "blocks": sizes.similarity_blocks,
        "points": knobs.points,
        "similarity_weight": knobs.similarity_weight,
        "distillation_weight": knobs.distillation_weight,
        "distillation": knobs.distillation,
        "student": knobs.student,
        "detach_embedding": knobs.detach_embedding,
        "detach_teacher": knobs.detach_teacher,
        "teacher_statistics": knobs.teacher_statistics,
        "balance_pairs": knobs.balance_pairs,
        "exchange_balance": knobs.exchange_balance,
    }


def _maskformer(sizes, in_channels, num_classes):
    attention = {
        "type": "MultiheadAttention",
        "embed_dims": sizes.channels,
        "num_heads": sizes.heads,
        "attn_drop": sizes.dropout,
        "proj_drop": sizes.dropout,
        "dropout_layer": None,
        "batch_first": False,
    }
    feedforward = {
        "embed_dims": sizes.channels,
        "feedforward_channels": sizes.feedforward,
        "num_fcs": 2,
        "act_cfg": {"type": "ReLU", "inplace": True},
        "ffn_drop": sizes.dropout,
        "dropout_layer": None,
        "add_identity": True,
    }
    return {
        "in_channels": in_channels,
        "feat_channels": sizes.channels,
        "out_channels": sizes.channels,
        "num_things_classes": 0,
        "num_stuff_classes": num_classes,
        "num_queries": sizes.queries,
        "pixel_decoder": {
            "type": "PixelDecoder",
            "norm_cfg": {"type": "GN", "num_groups": sizes.norm_groups},
            "act_cfg": {"type": "ReLU"},
        },
        "enforce_decoder_input_project": True,
        "positional_encoding": {
            "type": "SinePositionalEncoding",
            "num_feats": sizes.channels // 2,
            "normalize": True,
        },
        "transformer_decoder": {
            "type": "DetrTransformerDecoder",
            "return_intermediate": True,
            "num_layers": sizes.decoder_layers,
            "transformerlayers": {
                "type": "DetrTransformerDecoderLayer",
                "attn_cfgs": attention,
                "ffn_cfgs": feedforward,
                "feedforward_channels": sizes.feedforward,
                "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
            },
        },
    }
