"""The knobs of ShapeProp."""

from typing import Literal

from pydantic import Field

from pipeline.methods.shared.authors import SettingsKnobs
from pipeline.methods.shared.knobs import MaskKnobs


class Knobs(SettingsKnobs, MaskKnobs):
    """What of the shape head and its losses an experiment can turn.

    Attributes:
        mask_loss_rois: RoIs that train shapes and masks: base_positives (authors), or base_gt.
        propagation_steps: steps of message passing; 0 for as many as the longer side of the map has cells (authors).
        propagation_weights: a set of weights for each latent channel (authors), or one shared by all.
        branch_features: convolutions of the branch that gives them, separate (authors) or shared with the activation.
        box_head: cam, the convolutional one that all rows which are compared share, or fc, two fully connected layers
            (authors).
        activation_loss_weight: weight of the loss of the class maps (authors: 1).
        propagation_loss_weight: weight of the loss of the shapes (authors: 1).
    """

    propagation_steps: int = Field(ge=0)
    propagation_weights: Literal["each", "shared"]
    branch_features: Literal["separate", "shared"]
    box_head: Literal["cam", "fc"]
    activation_loss_weight: float = Field(ge=0)
    propagation_loss_weight: float = Field(ge=0)
