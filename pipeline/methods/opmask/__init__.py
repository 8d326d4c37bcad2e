"""OPMask (Biertimpel et al., ICCV 2021): the class activation map of the box head steers a deep, normalised mask head.

batch_norm: statistics over the RoIs of all processes. box_head: its own box head, whose widths double. mask_head: its
mask head. What enters that, and which RoIs its loss is of, is what `pipeline.methods.shared` has for the CAM.
look_inside, golden, released_checkpoint: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.opmask.knobs import Knobs
from pipeline.methods.opmask.model import model
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.authors import Authors
from pipeline.methods.shared.sizes import Sizes

AUTHORS = Authors(
    warmup=1000,
    clip_value=1.0,
    norm_decay=0.0,
    remains="MSRA weights of ImageNet, short sides of 640 to 800 in steps of 32, mask targets drawn from polygons",
)

METHOD = Method(
    task="instances",
    label="OPMask",
    colour="#D55E00",
    about="Mask R-CNN whose mask head, normalised over all positive RoIs, is steered by the class activation map of a "
    "convolutional box head (OPMask)",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=Path(__file__).with_name("recipes.yaml"),
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(
        *two_stage.MASK_MODULES,
        *(f"{__name__}.{part}" for part in ("batch_norm", "box_head", "mask_head")),
        "pipeline.methods.shared.blue_first_resnet",  # of released checkpoints
    ),
    more_modules=AUTHORS.modules,
    steps=AUTHORS.steps,
    optimisation=AUTHORS.optimisation,
    differs=AUTHORS.differs,
    cost=1.5,
    autocast=two_stage.MASK_AUTOCAST,
    look_inside=f"{__name__}.look_inside",
    inside_figures=("maps",),
    inside_maps=(
        (
            "cams",
            "CAM",
            "class activation map of the object's category, as it is added to the features of the mask head",
        ),
        ("masks", "Mask", "predicted probability"),
    ),
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
