"""CPMask (ECCV 2020) on the two-stage detector that the other methods of the table have: its mask head alone differs.

The authors' detector is FCOS: `cpmask_fcos`. What both have in common lies in `pipeline/methods/shared/cpmask/`; here
are its pinned knobs, and golden, released_checkpoint, look_inside: what no training imports.
"""

from dataclasses import replace
from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.cpmask import parts
from pipeline.methods.shared.cpmask.knobs import Knobs
from pipeline.methods.shared.sizes import Sizes

HERE = Path(__file__).parent
SETTINGS = replace(parts.SETTINGS, remains=f"its own detector, FCOS (cpmask_fcos); {parts.SETTINGS.remains}")

METHOD = Method(
    task="instances",
    label="CPMask",
    colour="#999933",
    about=f"{parts.ABOUT}; on the two-stage detector",
    knobs=Knobs,
    knob_file=HERE / "knobs.yaml",
    recipes=HERE / "recipes.yaml",
    sizes=Sizes,
    detector="two_stage",
    model=parts.two_stage_model,
    modules=parts.TWO_STAGE_MODULES,
    steps=SETTINGS.steps,
    optimisation=SETTINGS.optimisation,
    more_modules=SETTINGS.modules,
    differs=SETTINGS.differs,
    cost=1.5,
    autocast=(*two_stage.BOX_AUTOCAST, *parts.AUTOCAST),
    look_inside=f"{__name__}.look_inside",
    inside_figures=("maps",),
    inside_maps=parts.INSIDE_MAPS,
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
