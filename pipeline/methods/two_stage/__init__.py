"""The two-stage detector without masks: mask methods of this kind start from one trained on boxes and labels alone."""

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.knobs import BoxKnobs
from pipeline.methods.shared.sizes import Sizes


def model(knobs: BoxKnobs, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`."""
    roi_head = {"type": "SampledRoIHead", **two_stage.boxes(knobs, sizes, num_classes)}
    return two_stage.box_detector(sizes, backbone, roi_head)


METHOD = Method(
    task="instances",
    label="Boxes alone",
    colour="#56B4E9",
    about="Faster R-CNN without a mask head",
    knobs=BoxKnobs,
    knob_file=two_stage.KNOB_FILE,
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=two_stage.BOX_MODULES,
    steps=two_stage.steps,
    autocast=two_stage.BOX_AUTOCAST,
)
