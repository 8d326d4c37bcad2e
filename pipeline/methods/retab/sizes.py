"""Sizes of RETAB's heads: those of the released code by default, replaceable for smaller profiles."""

from pipeline.declaration.strict import Count, Natural, Strict


class Sizes(Strict):
    """Everything about the model that no experiment turns; the backbone is named by a run.

    Attributes:
        low, middle, high: channels that the last three stages are squeezed to; their sum is the width of the embedding.
        backbone_groups: groups of a group normalisation in the backbone; 0 keeps its batch normalisation.
    """

    low: Count = 64
    middle: Count = 128
    high: Count = 256
    backbone_groups: Natural = 0
