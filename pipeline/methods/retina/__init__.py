"""RetinaNet without masks: a mask method whose detector it is starts from one trained on boxes and labels alone."""

from pipeline.declaration.knobs import KnobSet
from pipeline.methods import Method
from pipeline.methods.shared import one_stage, retina
from pipeline.methods.shared.sizes import Sizes


def model(knobs: KnobSet, sizes: Sizes, backbone: dict, num_classes: int) -> dict:
    """As `Method.model`."""
    return retina.detector(sizes, backbone, num_classes)


METHOD = Method(
    task="instances",
    label="Boxes alone (RetinaNet)",
    colour="#88CCEE",
    about=f"{retina.ABOUT}, without a mask head",
    knobs=KnobSet,
    sizes=Sizes,
    detector="retina",
    model=model,
    modules=retina.MODULES,
    steps=one_stage.steps,
    autocast=retina.AUTOCAST,
)
