"""ShapeMask (ICCV 2019) with its own detector, RetinaNet, as in the authors' code; priors are those of `shapemask`."""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shared import retina, two_stage
from pipeline.methods.shared.shapemask import parts
from pipeline.methods.shared.shapemask.knobs import RetinaKnobs
from pipeline.methods.shared.sizes import Sizes

SETTINGS = parts.RETINA_AUTHORS

METHOD = Method(
    task="instances",
    label="ShapeMask (RetinaNet)",
    colour="#AA4499",
    about=f"{parts.ABOUT}; on {retina.ABOUT}",
    knobs=RetinaKnobs,
    knob_file=Path(__file__).parents[1] / "shapemask" / "knobs.yaml",
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="retina",
    model=parts.retina_model,
    modules=parts.RETINA_MODULES,
    more_modules=SETTINGS.modules,
    steps=SETTINGS.steps,
    optimisation=SETTINGS.optimisation,
    differs=SETTINGS.differs,
    cost=1.5,
    autocast=(*retina.AUTOCAST, *parts.AUTOCAST),
    priors=parts.CLUSTERS,
    with_priors=parts.with_priors,
    look_inside="pipeline.methods.shapemask.look_inside",
    inside_figures=("maps",),
    inside_maps=parts.INSIDE_MAPS,
)
