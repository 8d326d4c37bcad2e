"""ShapeMask (Kuo et al., ICCV 2019) on the shared two-stage detector.

geometry: functions on boxes and maps. batch_norm, roi_extractor, head, roi_head: the network. priors, clusters: the
shapes that it begins with, learnt from base masks by stage `priors`. look_inside, golden, released_checkpoint: what no
training imports.
"""

from pathlib import Path

from pipeline.methods import Method
from pipeline.methods.shapemask.knobs import Knobs
from pipeline.methods.shapemask.model import AUTHORS, model, with_priors
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

METHOD = Method(
    task="instances",
    label="ShapeMask",
    colour="#882255",
    about="ShapeMask: a mixture of shape priors, refined to a coarse and to a fine mask in an enlarged box; here on "
    "the shared two-stage detector instead of RetinaNet",
    knobs=Knobs,
    knob_file=Path(__file__).with_name("knobs.yaml"),
    recipes=two_stage.RECIPES,
    sizes=Sizes,
    detector="two_stage",
    model=model,
    modules=(*two_stage.BOX_MODULES, *(f"{__name__}.{part}" for part in ("roi_extractor", "head", "roi_head"))),
    more_modules=AUTHORS.modules,
    steps=AUTHORS.steps,
    optimisation=AUTHORS.optimisation,
    differs=AUTHORS.differs,
    cost=1.5,
    autocast=(
        *two_stage.BOX_AUTOCAST,
        ("roi_head.mask_head.prior.dense", "forward"),
        ("roi_head.mask_head.coarse.decoder", "forward"),
        ("roi_head.mask_head.fine.decoder", "forward"),
    ),
    priors=f"{__name__}.clusters",
    with_priors=with_priors,
    look_inside=f"{__name__}.look_inside",
    golden=f"{__name__}.golden",
    checkpoint_map=f"{__name__}.released_checkpoint",
)
