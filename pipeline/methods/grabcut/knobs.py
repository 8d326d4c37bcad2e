"""The knobs of Mask GrabCut; no code of its authors is known, so every value is ours."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.knobs import MaskKnobs


class Knobs(MaskKnobs):
    """When GrabCut makes masks, and how.

    Attributes:
        grabcut: detections, whose masks it cuts at test time while nothing learns a mask; or training, where it cuts
            masks of novel objects, from which a class-agnostic Mask R-CNN learns beside the annotated ones of base
            objects.
        mask_loss_rois: with `grabcut: training`, RoIs in the mask loss: base_positives or base_gt, where novel objects
            have a mask as base ones do.
        mask_format: as in every row; with `grabcut: training` masks are bitmaps whatever it says.
        margin: context around the box, as a share of its side, at least 10 pixels.
        iterations: turns of fitting and cutting.
        centre: share of the box's sides whose centre is object for certain; 0 for none.
        least_share: of the box; a mask that covers less becomes the whole box.
    """

    grabcut: Literal["detections", "training"]
    margin: float = Field(ge=0, le=2)
    iterations: int = Field(ge=1, le=50)
    centre: float = Field(ge=0, lt=1)
    least_share: float = Field(ge=0, le=1)
