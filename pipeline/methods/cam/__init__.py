"""The baseline with the class activation map of the box head added to the features of its mask head (Table 2)."""

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.knobs import CAMKnobs
from pipeline.methods.shared.sizes import Sizes


def model(knobs: CAMKnobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`."""
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    roi_head = two_stage.with_cam({"type": "PartialRoIHead", **parts}, knobs, sizes)
    return two_stage.mask_detector(sizes, backbone, roi_head)


METHOD = Method(
    task="instances",
    label="Baseline + CM",
    colour="#009E73",
    about=two_stage.ABOUT_CAM,
    knobs=CAMKnobs,
    knob_file=two_stage.KNOB_FILE,
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=two_stage.MASK_MODULES,
    steps=two_stage.steps,
    autocast=two_stage.MASK_AUTOCAST,
)
