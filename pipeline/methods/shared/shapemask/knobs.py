"""The knobs of ShapeMask."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.authors import SettingsKnobs
from pipeline.methods.shared.knobs import MaskKnobs


class HeadKnobs(SettingsKnobs):
    """What of ShapeMask's mask head and its losses an experiment can turn, whatever the detector.

    Attributes:
        recipe: preset that the value `recipe` refers to.
        mask_format: masks as bitmaps of the image, or as polygons until they are cropped to RoIs.
        instances: objects of an image that masks are learnt on, 8 in the released code; 0 for as many as the scale of
            the profile has (8 at full size, 4 of small images).
        few_objects: of an image with fewer, repeat them (the code of the published rows) or pad (later code).
        jitter: standard deviation of the noise on their boxes, in sizes of the box.
        outer_box: side of the box that a mask is predicted in, in sides of the object's.
        priors: clusters of shapes: many or few, 100 or 20 at full size.
        prior_loss_weight: weight of the loss of the shape prior.
        mask_norm: batch norm over the instances of all GPUs (sync) or of each (batch).
    """

    recipe: Literal["paper", "released"]
    mask_format: Literal["bitmap", "polygon"]
    instances: int = Field(ge=0)
    few_objects: Literal["repeat", "pad"]
    jitter: float = Field(ge=0, le=0.5)
    outer_box: float = Field(ge=1, le=3)
    priors: Literal["many", "few"]
    prior_loss_weight: float = Field(ge=0)
    mask_norm: Literal["sync", "batch"]


class Knobs(HeadKnobs, MaskKnobs):
    """On the two-stage detector."""


class RetinaKnobs(HeadKnobs):
    """On RetinaNet, where masks are learned on jittered ground-truth boxes.

    Attributes:
        neck: fpn, or nas_fpn, NAS-FPN, which a small model does without.
    """

    neck: Literal["fpn", "nas_fpn"]
