"""ShapeProp (CVPR 2020): class activation becomes a shape by learned message passing, and an input of the mask head.

propagation: message passing, functions on tensors. shape_head, mask_head, roi_head: the network. golden,
released_checkpoint, look_inside: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shapeprop.knobs import Knobs
from pipeline.methods.shapeprop.model import AUTHORS, model
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

SHAPE = "roi_head.shape_head"
LAYERS = ("activation_convs", "class_maps", "propagation_convs", "weight_maps", "encoder", "decoder")

METHOD = Method(
    task="instances",
    label="ShapeProp",
    colour="#0072B2",
    about=f"{two_stage.ABOUT}; shape: the class activation of a RoI, spread over its cells by learned message passing "
    "and appended to the features of the mask head",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(
        *two_stage.MASK_MODULES,
        "pipeline.methods.shared.fc_box_head",  # which a converted checkpoint has
        f"{__name__}.propagation",
        f"{__name__}.shape_head",
        f"{__name__}.mask_head",
        f"{__name__}.roi_head",
    ),
    more_modules=AUTHORS.modules,
    steps=AUTHORS.steps,
    optimisation=AUTHORS.optimisation,
    differs=AUTHORS.differs,
    cost=2.0,
    autocast=(*two_stage.MASK_AUTOCAST, *((f"{SHAPE}.{layer}", "forward") for layer in LAYERS)),
    look_inside=f"{__name__}.look_inside",
    inside_figures=("shapes",),
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
