"""ShapeMask (Kuo et al., ICCV 2019) on the two-stage detector that the other methods of the table have.

The authors' detector is RetinaNet: `shapemask_retina`. What both have in common lies in
`pipeline/methods/shared/shapemask/`; here are its pinned knobs, clusters, the shapes that both begin with, learnt from
base masks by stage `priors`, and look_inside, golden, released_checkpoint: what no training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.shapemask import parts
from pipeline.methods.shared.shapemask.knobs import Knobs
from pipeline.methods.shared.sizes import Sizes

SETTINGS = parts.AUTHORS

METHOD = Method(
    task="instances",
    label="ShapeMask",
    colour="#882255",
    about=f"{parts.ABOUT}; here on the shared two-stage detector instead of RetinaNet",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=parts.two_stage_model,
    modules=parts.TWO_STAGE_MODULES,
    more_modules=SETTINGS.modules,
    steps=SETTINGS.steps,
    optimisation=SETTINGS.optimisation,
    differs=SETTINGS.differs,
    cost=1.5,
    autocast=(*two_stage.BOX_AUTOCAST, *parts.AUTOCAST),
    priors=parts.CLUSTERS,
    with_priors=parts.with_priors,
    look_inside=f"{__name__}.look_inside",
    inside_figures=("maps",),
    inside_maps=parts.INSIDE_MAPS,
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
