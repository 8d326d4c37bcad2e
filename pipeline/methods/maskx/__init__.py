"""Mask^X R-CNN (Hu et al., CVPR 2018): the weights that tell mask from background are predicted from the box head's.

box_head: what of the box head's weights describes a class. mask_head: their transfer, and the branch that is the same
for every class. roi_head: puts both together. look_inside, golden, released_checkpoint: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.maskx.authors import AUTHORS
from pipeline.methods.maskx.knobs import Knobs
from pipeline.methods.maskx.model import model
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

METHOD = Method(
    task="instances",
    label="Mask^X R-CNN",
    colour="#E69F00",
    about="Mask R-CNN whose mask weights of a category are predicted from its box head's weights (weight transfer)",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=Path(__file__).with_name("recipes.yaml"),
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(*two_stage.MASK_MODULES, *(f"{__name__}.{part}" for part in ("box_head", "mask_head", "roi_head"))),
    more_modules=AUTHORS.modules,
    steps=AUTHORS.steps,
    optimisation=AUTHORS.optimisation,
    differs=AUTHORS.differs,
    autocast=two_stage.MASK_AUTOCAST,
    look_inside=f"{__name__}.look_inside",
    inside_figures=("maps", "transfer"),
    inside_maps=(
        ("masks", "Own weights", "mask predicted with the weights transferred to the object's category"),
        ("others", "Others' weights", "mean of the masks predicted with those of all other categories"),
    ),
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
