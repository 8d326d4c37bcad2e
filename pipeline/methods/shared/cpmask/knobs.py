"""The knobs of CPMask; C1 to C4 are its differences in `pipeline/methods/cpmask/recipes.yaml`."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.authors import SettingsKnobs
from pipeline.methods.shared.knobs import MaskKnobs


class HeadKnobs(SettingsKnobs):
    """What of CPMask's mask head and its losses an experiment can turn, whatever the detector.

    Attributes:
        recipe: preset that the value `recipe` refers to.
        mask_format: masks as bitmaps of the image, or as polygons until they are cropped to RoIs.
        boundary_loss_weight: weight of the boundary loss (C2).
        affinity_loss_weight: weight of the affinity loss (C3); 0 keeps the non-local block.
        affinity_gradient: let the affinity loss train, or report it alone (C3b).
        affinity_norm_init: initial weight of the batch norm behind the attention, ones or zeros (C4).
    """

    recipe: Literal["paper", "released"]
    mask_format: Literal["bitmap", "polygon"]
    boundary_loss_weight: float = Field(ge=0)
    affinity_loss_weight: float = Field(ge=0)
    affinity_gradient: bool
    affinity_norm_init: Literal["ones", "zeros"]


class Knobs(HeadKnobs, MaskKnobs):
    """On the two-stage detector. `mask_loss_rois: base_gt` (C1) is the boxes of all base objects, drawn or not."""
