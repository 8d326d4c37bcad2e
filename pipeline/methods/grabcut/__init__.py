"""Mask GrabCut: masks from boxes by colours alone, of detections, or of novel objects before a training.

cut: GrabCut, functions on arrays. detector: reading A, cutting masks of detections. training_masks: reading B, a data
step. golden: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.grabcut.knobs import Knobs
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

ANNOTATIONS = "LoadPartialAnnotations"  # the step behind which masks can be replaced


def rule(knobs: Knobs) -> dict:
    """The part of the knobs that is of `cut.Rule`, whose defaults are the rest."""
    return {name: getattr(knobs, name) for name in ("margin", "iterations", "centre", "least_share")}


def model(knobs: Knobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`: the detector of boxes, or Mask R-CNN as the baseline is."""
    parts = two_stage.boxes(knobs, sizes, num_classes)
    if knobs.grabcut == "training":
        parts |= two_stage.masks(knobs, sizes, num_classes)
        return two_stage.mask_detector(sizes, backbone, {"type": "PartialRoIHead", **parts})
    detector = two_stage.box_detector(sizes, backbone, {"type": "SampledRoIHead", **parts})
    return detector | {"type": "GrabCutRCNN", "grabcut": rule(knobs)}


def modules(knobs: Knobs) -> tuple[str, ...]:
    """As `Method.more_modules`."""
    if knobs.grabcut == "detections":
        return ()
    boxes = set(two_stage.BOX_MODULES)
    return (*(module for module in two_stage.MASK_MODULES if module not in boxes), f"{__name__}.training_masks")


def steps(given: list, knobs: Knobs, dataset) -> list:
    """As `Method.steps`."""
    if knobs.grabcut == "detections":
        return two_stage.steps(given, knobs, dataset)
    given = two_stage.steps(given, knobs.model_copy(update={"mask_format": "bitmap"}), dataset)
    behind = next(place for place, step in enumerate(given, 1) if step["type"] == ANNOTATIONS)
    return [*given[:behind], {"type": "CutNovelMasks", "rule": rule(knobs)}, *given[behind:]]


def differs(knobs: Knobs) -> str:
    """As `Method.differs`."""
    return "no recipe is published; how boxes become masks is ours"


METHOD = Method(
    task="instances",
    label="Mask GrabCut",
    colour="#000000",
    about="Faster R-CNN whose detections GrabCut turns into masks by their colours; no mask is learnt",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(*two_stage.BOX_MODULES, f"{__name__}.cut", f"{__name__}.detector"),
    more_modules=modules,
    steps=steps,
    differs=differs,
    autocast=two_stage.MASK_AUTOCAST,
    golden=f"{__name__}.golden",
)
