"""A toy method of the paper's kind: the baseline, with noise on what its mask head sees in training."""

from pydantic import Field

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.knobs import MaskKnobs
from pipeline.methods.shared.sizes import Sizes


class Knobs(MaskKnobs):
    """`noise`: standard deviation, of the features' own; no knob file has it, so it is what it is here."""

    noise: float = Field(0.1, ge=0)


def model(knobs, sizes, backbone, num_classes):
    """The baseline's model with another RoI head."""
    parts = two_stage.boxes(knobs, sizes, num_classes) | two_stage.masks(knobs, sizes, num_classes)
    return two_stage.mask_detector(sizes, backbone, {"type": "NoisyRoIHead", "noise": knobs.noise, **parts})


METHOD = Method(
    task="instances",
    label="Noisy baseline",
    colour="#123456",
    about="a toy",
    knobs=Knobs,
    knob_file=two_stage.KNOB_FILE,
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(*two_stage.MASK_MODULES, f"{__name__}.roi_head"),
    steps=two_stage.steps,
    autocast=two_stage.MASK_AUTOCAST,
)
