"""A toy method of a toy task: every pixel is labelled by its colour."""

from pipeline.declaration.knobs import KnobSet
from pipeline.methods import Method

METHOD = Method(
    task="label_maps",
    label="Pixels",
    colour="#123456",
    about="a linear classifier of colours",
    knobs=KnobSet,
    detector="pixels",
    model=lambda knobs, sizes, backbone, num_classes: {"type": "PixelClassifier", "classes": num_classes},
    modules=(f"{__name__}.model",),
)
