"""ContrastMask (CVPR 2022), a file for each part of the paper.

edges, partition, sampling, losses: functions on tensors. attention, cl_head, roi_head: the network. oracle: its
training steps under oracle supervision. priors, prior_head, prior_points, prior_steps: masks of any source, points and
scribbles instead of the CAM. look_inside, golden, released_checkpoint: what no training imports.
"""

from pipeline.methods import Method
from pipeline.methods.contrastmask import priors
from pipeline.methods.contrastmask.knobs import Knobs
from pipeline.methods.contrastmask.model import model
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

METHOD = Method(
    task="instances",
    label="Baseline + CM + CL",
    colour="#CC79A7",
    about=f"{two_stage.ABOUT_CAM}; CL: the contrastive learning head, which draws pixels of one object together and "
    "away from its background, also where only a box is known",
    knobs=Knobs,
    knob_file=two_stage.KNOB_FILE,
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(*two_stage.MASK_MODULES, f"{__name__}.cl_head", f"{__name__}.roi_head"),
    more_modules=priors.modules,
    steps=priors.steps,
    cost=2.0,
    autocast=(
        *two_stage.MASK_AUTOCAST,
        ("roi_head.cl_head.encoder", "forward"),
        ("roi_head.cl_head.projector", "forward"),
        ("roi_head.cl_head.fusion", "forward"),
    ),
    look_inside=f"{__name__}.look_inside",
    inside_figures=("partition", "keys"),
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
