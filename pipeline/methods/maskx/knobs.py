"""The knobs of Mask^X R-CNN."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.authors import SettingsKnobs
from pipeline.methods.shared.knobs import MaskKnobs


class Knobs(MaskKnobs, SettingsKnobs):
    """What of Mask^X R-CNN an experiment can turn; the comments of knobs.yaml have the authors' names.

    Attributes:
        box_head: own, two fully connected layers as in the released code; or shared, the box head of the detector that
            all methods start from where a profile trains one.
        transfer_layers: layers of the weight transfer.
        transfer_activation: between them, leaky (LeakyReLU, slope 0.1) or relu.
        transfer_from: what describes a class: classes, the weights of its classifier; boxes, those of its regressor; or
            both, in that order.
        detach_weights: stop the mask loss at those weights.
        mlp_layers: layers of the class-agnostic branch on all cells of a RoI; 0 is without it.
    """

    box_head: Literal["own", "shared"]
    transfer_layers: int = Field(ge=1, le=3)
    transfer_activation: Literal["leaky", "relu"]
    transfer_from: Literal["both", "classes", "boxes"]
    detach_weights: bool
    mlp_layers: int = Field(ge=0, le=3)
