"""FCOS without masks: a mask method whose detector it is starts from one trained on boxes and labels alone."""

from pipeline.declaration.knobs import KnobSet
from pipeline.methods import Method
from pipeline.methods.shared import one_stage
from pipeline.methods.shared.sizes import Sizes


def model(knobs: KnobSet, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`."""
    return one_stage.detector(sizes, backbone, num_classes)


METHOD = Method(
    task="instances",
    label="Boxes alone (FCOS)",
    colour="#661100",
    about=f"{one_stage.ABOUT}, without a mask head",
    knobs=KnobSet,
    sizes=Sizes,
    detector="one_stage",
    model=model,
    modules=one_stage.MODULES,
    steps=one_stage.steps,
    autocast=one_stage.AUTOCAST,
)
