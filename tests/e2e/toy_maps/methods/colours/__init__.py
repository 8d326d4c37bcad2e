"""A toy method of label maps: every pixel is labelled by its colour, novel classes by what is no base class."""

from pipeline.declaration.knobs import KnobSet
from pipeline.methods import Method

METHOD = Method(
    task="semantic",
    label="Colours",
    colour="#654321",
    about="a linear classifier of colours",
    knobs=KnobSet,
    detector="colours",
    model=lambda knobs, sizes, backbone, num_classes: {"type": "ColourClassifier", "classes": num_classes},
    modules=(f"{__name__}.model",),
)
