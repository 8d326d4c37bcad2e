"""CPMask (ECCV 2020) with its own detector, FCOS, as in the authors' code; knobs and presets are those of `cpmask`."""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shared import one_stage
from pipeline.methods.shared.cpmask import parts
from pipeline.methods.shared.cpmask.knobs import HeadKnobs
from pipeline.methods.shared.sizes import Sizes

KNOB_FILE = Path(__file__).parents[1] / "cpmask" / "knobs.yaml"

METHOD = Method(
    task="instances",
    label="CPMask (FCOS)",
    colour="#44AA99",
    about=f"{parts.ABOUT}; on {one_stage.ABOUT}",
    knobs=HeadKnobs,
    knob_file=KNOB_FILE,
    recipes=KNOB_FILE.with_name("recipes.yaml"),
    sizes=Sizes,
    detector="one_stage",
    model=parts.one_stage_model,
    modules=parts.ONE_STAGE_MODULES,
    steps=parts.SETTINGS.steps,
    optimisation=parts.SETTINGS.optimisation,
    more_modules=parts.SETTINGS.modules,
    differs=parts.SETTINGS.differs,
    cost=1.5,
    autocast=(*one_stage.AUTOCAST, *parts.AUTOCAST),
    look_inside="pipeline.methods.cpmask.look_inside",
    inside_figures=("maps",),
    inside_maps=parts.INSIDE_MAPS,
)
