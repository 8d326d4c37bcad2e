"""The baseline of Table 2: Mask R-CNN whose class-agnostic mask head learns from base categories alone."""

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.knobs import MaskKnobs
from pipeline.methods.shared.sizes import Sizes


def model(knobs: MaskKnobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`."""
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    return two_stage.mask_detector(sizes, backbone, {"type": "PartialRoIHead", **parts})


def _differs(knobs):
    return "box head and mask RoIs of the published row are unknown"


METHOD = Method(
    task="instances",
    label="Baseline",
    colour="#7f7f7f",
    about=two_stage.ABOUT,
    knobs=MaskKnobs,
    knob_file=two_stage.KNOB_FILE,
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=two_stage.MASK_MODULES,
    steps=two_stage.steps,
    autocast=two_stage.MASK_AUTOCAST,
    differs=_differs,
)
