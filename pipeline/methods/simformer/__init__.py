"""SimFormer (weak-shot semantic segmentation by dual similarity transfer, NeurIPS 2022), a file for each part.

targets, matching, losses: what MaskFormer learns from base masks and from labels of novel classes. similarity, points,
pixel_pairs: pixel pairs across images. pairs, reference: which image is paired with which. head, detector: the network.
golden, released_checkpoint: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.simformer import supervision
from pipeline.methods.simformer.knobs import Knobs
from pipeline.methods.simformer.model import model
from pipeline.methods.simformer.optimisation import optimisation
from pipeline.methods.simformer.sizes import Sizes

HERE = Path(__file__).parent
# Knobs that nothing reads without losses of pixel pairs, without pairs across images, and where all classes have masks.
OF_PAIRS = (
    *("points", "similarity_weight", "distillation_weight", "distillation", "student", "detach_embedding"),
    *("detach_teacher", "teacher_statistics", "balance_pairs", "exchange_balance"),
)
OF_CROSS_PAIRS = ("pair_draw", "pair_rare_share")
OF_BASE = ("image_labels", "complementary_weight", "complementary_floor")


def steps(given, knobs, dataset) -> list:
    """As `Method.steps`: what a knob trains with beside the maps of base classes, and references of images."""
    given = supervision.steps(given, knobs, dataset)
    if knobs.without_map == "labels":
        given = [{"type": "LabelsAlone", "steps": given}]
    if not supervision.paired(knobs):
        return given
    return [
        {
            "type": "WithReference" if knobs.without_map == "none" else "WithMappedReference",
            "steps": given,
            "pairs": knobs.pairs,
            "draw": knobs.pair_draw,
            "rare_share": knobs.pair_rare_share,
        }
    ]


def more_modules(knobs) -> tuple[str, ...]:
    """As `Method.more_modules`."""
    reference = (f"{__name__}.reference",) if supervision.paired(knobs) else ()
    alone = (f"{__name__}.without_map",) if knobs.without_map == "labels" else ()
    return reference + alone + supervision.modules(knobs)


def differs(knobs) -> str:
    """As `Method.differs`."""
    if knobs.supervision != "all":
        return ""
    return "trained here, with the batch of the other rows (published: MaskFormer's public checkpoint, batch 32)"


def unread(knobs) -> tuple[str, ...]:
    """As `Method.unread`."""
    paired, based = supervision.paired(knobs), knobs.supervision == "base"
    crossed = paired and knobs.pairs == "cross"
    return (() if paired else OF_PAIRS) + (() if crossed else OF_CROSS_PAIRS) + (() if based else OF_BASE)


METHOD = Method(
    task="semantic",
    label="SimFormer",
    colour="#117733",
    about="MaskFormer whose masks are learned from base classes alone and used again for novel ones, whose proposals "
    "are told by image labels; similarities of pixel pairs across images are carried over from base to novel classes",
    knobs=Knobs,
    knob_file=HERE / "knobs.yaml",
    recipes=HERE / "recipes.yaml",
    sizes=Sizes,
    detector="simformer",
    model=model,
    modules=(f"{__name__}.detector",),
    more_modules=more_modules,
    steps=steps,
    cost=1.0,
    item_images=lambda knobs: 2 if supervision.paired(knobs) else 1,
    optimisation=optimisation,
    differs=differs,
    unread=unread,
    labelled_by=supervision.labelled_by,
    all_masks=lambda knobs: knobs.supervision == "all" and knobs.without_map == "none",
    autocast=(
        ("backbone", "forward"),
        ("panoptic_head.pixel_decoder", "forward"),
        ("panoptic_head.decoder_input_proj", "forward"),
        ("panoptic_head.transformer_decoder", "forward"),
        ("panoptic_head.mask_embed", "forward"),
        ("panoptic_head.pixel_pairs.net", "forward"),
    ),
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
